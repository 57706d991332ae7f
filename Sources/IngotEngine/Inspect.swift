package import IngotCheckpoints
package import IngotErrors
internal import IngotJSON
package import IngotTensors

/// What the headers and the config of a checkpoint tell; no tensor data is read. Quantised checkpoints can be inspected too.
package struct Inspection: Sendable {
  /// The tensors of one element type.
  package struct TypeSummary: Sendable, Hashable {
    package var dtype: DType
    package var tensors: Int
    /// Elements.
    package var parameters: Int
    package var bytes: Int
  }

  /// A single value of config.json that says what kind of model it is, as JSON text or a plain string.
  package struct Fact: Sendable, Hashable {
    package var key: String
    package var value: String
  }

  /// Where the model was found.
  package let path: String
  package let checkpoint: Checkpoint
  /// Most bytes first.
  package let types: [TypeSummary]
  /// Elements of all tensors.
  package let parameters: Int
  /// Bytes of all tensors.
  package let bytes: Int
  /// The layers and where their number stands in names; nil when the model has none that are known.
  package let layers: LayerIndex.Layers?
  package let quantisation: Quantisation?
  package let facts: [Fact]
  package let notices: [Notice]

  /// Looks at what `reference` names: a directory, a weight file, or a model in the local cache of the Hugging Face hub.
  ///
  /// Throws `.notFound`, `.io`, `.format` or `.unsupported` as opening a model of a recipe does.
  package init(of reference: String, models: some ModelProvider) throws(IngotError) {
    try self.init(try models.open(named: reference))
  }

  package init(_ model: ProvidedModel) throws(IngotError) {
    path = model.path
    checkpoint = model.checkpoint
    var sums: [DType: TypeSummary] = [:]
    var totals = (parameters: 0, bytes: 0)
    for tensor in checkpoint.tensors {
      let count = try tensor.shape.elementCount()
      // Each fits its file, but a header may name a file's worth of empty promises: stay checked.
      let (parameters, overflow) = totals.parameters.addingReportingOverflow(count)
      let (bytes, overflow2) = totals.bytes.addingReportingOverflow(tensor.byteCount)
      guard !overflow, !overflow2 else {
        throw IngotError(.format, "the tensors have more bytes than 63 bits can count", subject: model.path)
      }
      totals = (parameters, bytes)
      var sum = sums[tensor.dtype] ?? TypeSummary(dtype: tensor.dtype, tensors: 0, parameters: 0, bytes: 0)
      sum.tensors += 1
      sum.parameters += count
      sum.bytes += tensor.byteCount
      sums[tensor.dtype] = sum
    }
    (parameters, bytes) = totals
    types = sums.values.sorted { ($0.bytes, $1.dtype.rawValue) > ($1.bytes, $0.dtype.rawValue) }
    let names = checkpoint.tensors.lazy.map(\.name)
    quantisation = Quantisation.detect(config: checkpoint.config, names: names)
    facts = checkpoint.config.map(Self.facts) ?? []
    var notices = checkpoint.notices
    do throws(IngotError) {
      layers = try LayerIndex(names: names, config: checkpoint.config).layers(of: model.path)
    } catch {
      // An encoder-decoder or a vision model: worth knowing, no reason not to look at it.
      layers = nil
      notices.append(Notice(.info, error.message))
    }
    self.notices = notices
  }

  // MARK: - Config

  private static let factKeys = [
    "architectures", "model_type", "num_hidden_layers", "n_layer", "num_layers", "hidden_size", "n_embd", "d_model", "intermediate_size",
    "num_attention_heads", "n_head", "num_key_value_heads", "head_dim", "num_local_experts", "num_experts", "num_experts_per_tok",
    "vocab_size", "max_position_embeddings", "tie_word_embeddings", "torch_dtype", "dtype",
  ]

  private static func facts(_ config: JSONValue) -> [Fact] {
    var facts: [Fact] = []
    for prefix in ["", "text_config."] {
      for key in factKeys {
        guard let value = config[path: prefix + key], let text = plain(value) else { continue }
        facts.append(Fact(key: prefix + key, value: text))
      }
    }
    return facts
  }

  /// A scalar, or a short list of strings; nil for anything else.
  private static func plain(_ value: JSONValue) -> String? {
    switch value.kind {
    case .bool(let flag): return flag ? "true" : "false"
    case .number(let text), .string(let text): return String(text.prefix(200))
    case .array(let elements):
      let texts = elements.compactMap(\.asString)
      return texts.count == elements.count && !texts.isEmpty && texts.count <= 8
        ? texts.map { String($0.prefix(200)) }.joined(separator: ", ") : nil
    case .null, .object: return nil
    }
  }

  // MARK: - JSON

  /// One JSON document with a schema version: path, files, dtypes, parameters, bytes, layers, config, quantisation, tensors, notices.
  package func json() -> String {
    var document = JSONDocument()
    write(to: &document)
    return document.line()
  }

  /// The same text piece by piece.
  package func writeJSON(_ drain: @escaping ([UInt8]) -> Void) {
    var document = JSONDocument(drain: drain)
    write(to: &document)
    document.finish()
  }

  private func write(to document: inout JSONDocument) {
    document.object { document in
      document.field("schema", 1)
      document.field("path", path)
      document.field("tensor_count", checkpoint.tensors.count)
      document.field("parameters", parameters)
      document.field("bytes", bytes)
      document.list("dtypes") { list in
        for type in types {
          list.object { entry in
            entry.field("dtype", type.dtype.safetensorsName)
            entry.field("tensors", type.tensors)
            entry.field("parameters", type.parameters)
            entry.field("bytes", type.bytes)
          }
        }
      }
      if let layers {
        document.object("layers") { entry in
          entry.field("prefix", layers.prefix)
          entry.field("count", layers.count)
        }
      } else {
        document.field("layers", nil)
      }
      if let quantisation {
        document.object("quantization") { entry in
          entry.field("scheme", quantisation.scheme)
          entry.field("evidence", quantisation.evidence)
        }
      } else {
        document.field("quantization", nil)
      }
      document.field("config", json: checkpoint.config.map { JSON.text($0) } ?? "null")
      document.list("files") { writeFiles(to: &$0) }
      document.list("tensors") { writeTensors(to: &$0) }
      document.list("notices") { list in
        for notice in notices { list.object { notice.write(to: &$0) } }
      }
    }
  }

  /// Tensors in each file.
  package var tensorCounts: [Int] {
    var counts = [Int](repeating: 0, count: checkpoint.shards.count)
    for tensor in checkpoint.tensors where counts.indices.contains(tensor.shard) { counts[tensor.shard] += 1 }
    return counts
  }

  /// The file that holds a tensor; "" for a model that is in memory.
  package func fileName(of tensor: CheckpointTensor) -> String {
    checkpoint.shards.indices.contains(tensor.shard) ? checkpoint.shards[tensor.shard].name : ""
  }

  private func writeFiles(to list: inout JSONDocument) {
    let counts = tensorCounts
    for (index, shard) in checkpoint.shards.enumerated() {
      list.object { entry in
        entry.field("name", shard.name)
        entry.field("bytes", Int(clamping: shard.size))
        entry.field("tensors", counts[index])
        entry.object("metadata") { metadata in
          for item in shard.metadata { metadata.field(item.key, item.value) }
        }
      }
    }
  }

  private func writeTensors(to list: inout JSONDocument) {
    for tensor in checkpoint.tensors {
      list.object { entry in
        entry.field("name", tensor.name)
        entry.field("dtype", tensor.dtype.safetensorsName)
        entry.list("shape") { shape in
          for extent in tensor.shape.dimensions { shape.value(extent) }
        }
        entry.field("bytes", tensor.byteCount)
        entry.field("file", fileName(of: tensor))
        entry.field("offset", Int(clamping: tensor.fileOffset))
      }
    }
  }
}

extension Notice {
  /// The members of a notice's JSON object; what is not known is null.
  func write(to entry: inout JSONDocument) {
    entry.field("severity", severity == .warning ? "warning" : "info")
    entry.field("message", message)
    entry.field("subject", subject)
    guard let position else { return entry.field("position", nil) }
    entry.object("position") { place in
      place.field("origin", position.origin)
      place.field("line", position.line)
      place.field("column", position.column)
    }
  }
}
