package import IngotErrors
package import IngotJSON
package import IngotTensors

/// The changes that turn the donor's config.json into the output's. What is not named here stays as it is, in its order.
package struct ConfigEdit: Sendable {
  /// Where one output layer comes from.
  package struct LayerSource: Sendable {
    /// The config of the model it comes from; nil means the donor's.
    package var config: JSONValue?
    /// Where that config counts the stack; nil: at its main place.
    package var place: LayerIndex.CountPlace?
    package var layer: Int

    package init(config: JSONValue? = nil, place: LayerIndex.CountPlace? = nil, layer: Int) {
      self.config = config
      self.place = place
      self.layer = layer
    }
  }

  /// The layers of one stack of the output.
  package struct StackLayers: Sendable {
    /// Where the donor counts the stack; nil: at its main place.
    package var place: LayerIndex.CountPlace?
    package var part: ModelPart
    /// One per output layer.
    package var layers: [LayerSource]

    package init(place: LayerIndex.CountPlace? = nil, part: ModelPart = .text, layers: [LayerSource]) {
      self.place = place
      self.part = part
      self.layers = layers
    }
  }

  /// The stacks whose layers were moved, dropped or repeated.
  package var stacks: [StackLayers]
  /// Rows of the output's input embedding.
  package var vocabularySize: Int?
  /// The output's dtype, when the whole output has one.
  package var dtype: DType?
  package var tieWordEmbeddings: Bool?

  package init(
    layers: [LayerSource]? = nil, stacks: [StackLayers] = [], vocabularySize: Int? = nil, dtype: DType? = nil,
    tieWordEmbeddings: Bool? = nil
  ) {
    self.stacks = (layers.map { [StackLayers(layers: $0)] } ?? []) + stacks
    self.vocabularySize = vocabularySize
    self.dtype = dtype
    self.tieWordEmbeddings = tieWordEmbeddings
  }

  /// The edited config and what a person should check in it.
  ///
  /// Throws `.format` when layers are given and `donor` has no layer count, `.unsupported` when a per-layer list has no entry for
  /// a layer that the output has. `origin` is the donor's config.json, for messages.
  package func apply(to donor: JSONValue, origin: String) throws(IngotError) -> (config: JSONValue, notices: [Notice]) {
    var config = donor
    var notices: [Notice] = []
    for stack in stacks { try LayerEdit(donor: donor, stack: stack, origin: origin).apply(to: &config, notices: &notices) }
    if let vocabularySize { Self.setVocabularySize(vocabularySize, in: &config) }
    if let name = dtype?.torchName { Self.setDType(name, in: &config) }
    if let tieWordEmbeddings, tieWordEmbeddings != TensorNames.tiesEmbeddings(donor) {
      Self.set("tie_word_embeddings", to: .bool(tieWordEmbeddings), in: &config)
    }
    return (config, notices)
  }

  /// The text of a config.json.
  package static func text(_ config: JSONValue) -> [UInt8] { JSON.bytes(config, style: .pretty) + [0x0A] }

  private static func setVocabularySize(_ size: Int, in config: inout JSONValue) { set("vocab_size", to: .int(size), in: &config) }

  /// Sets `key` wherever the config has it, at the top and under `text_config`; where neither has it, at the end of the top.
  private static func set(_ key: String, to value: JSONValue, in config: inout JSONValue) {
    let inText = config[NameTables.textSection]?[key] != nil
    if inText { config[NameTables.textSection]?[key] = value }
    if config[key] != nil || !inText { config[key] = value }
  }

  /// The key is `torch_dtype`, or `dtype` since transformers 5: whichever is there, also in nested configs.
  private static func setDType(_ name: String, in config: inout JSONValue) {
    let keys = ["torch_dtype", "dtype"]
    var found = false
    for key in keys where config[key] != nil {
      config[key] = .string(name)
      found = true
    }
    for section in config.asObject?.keys ?? [] where section.hasSuffix("_config") {
      for key in keys where config[section]?[key]?.asString != nil { config[section]?[key] = .string(name) }
    }
    if !found { config["torch_dtype"] = .string(name) }
  }
}

/// The layer part: count, lists with an entry per layer, lists of layer numbers.
private struct LayerEdit {
  let donor: JSONValue
  let stack: ConfigEdit.StackLayers
  let origin: String

  private var layers: [ConfigEdit.LayerSource] { stack.layers }

  func apply(to config: inout JSONValue, notices: inout [Notice]) throws(IngotError) {
    guard let place = stack.place ?? LayerIndex.countPlace(in: donor) else {
      throw IngotError(.format, "no layer count, expected one of \(NameTables.layerCountKeys.joined(separator: ", "))", subject: origin)
    }
    let unchanged = layers.count == place.count && layers.enumerated().allSatisfy { $0.offset == $0.element.layer }
    if unchanged { return }
    var block = config.block(place.sections) ?? config
    for key in countKeys(place, in: block) { block[key] = .int(layers.count) }
    for key in NameTables.perLayerLists {
      guard let node = block[key], let list = entries(node), list.count == place.count else { continue }
      block[key] = try reindexed(list, key: key, place: place, asText: node.asString != nil)
    }
    for key in NameTables.layerNumberLists {
      guard let list = block[key]?.asArray, list.allSatisfy({ $0.asInt != nil }) else { continue }
      block[key] = renumbered(list, key: key, place: place)
    }
    for key in NameTables.layerPositionKeys {
      guard let node = block[key], !node.isNull, node.asInt != 0, node.asArray == nil else { continue }
      notices.append(
        Notice(.warning, "\(key) = \(JSON.text(node)) depends on where layers stand and was left as it is; check it", subject: origin))
    }
    config.setBlock(place.sections, to: block)
  }

  /// The keys that hold this stack's count. A decoder that the config counts with its encoder (T5 without `num_decoder_layers`) gets a key of its own.
  private func countKeys(_ place: LayerIndex.CountPlace, in block: JSONValue) -> [String] {
    let main = NameTables.layerCountKeys.filter { block[$0]?.asInt == place.count }
    let isMain = NameTables.layerCountKeys.contains(place.key)
    switch stack.part {
    case .decoder: return isMain ? ["num_decoder_layers"] : [place.key]
    case .encoder: return isMain ? main : [place.key] + main
    default: return isMain ? main : [place.key]
    }
  }

  /// The entries of an array, or the letters of a string.
  private func entries(_ node: JSONValue) -> [JSONValue]? {
    if let text = node.asString { return text.map { .string(String($0)) } }
    return node.asArray
  }

  /// The list `key` of the model that a layer comes from, when it has one entry per layer there.
  private func list(_ key: String, of source: ConfigEdit.LayerSource) -> [JSONValue]? {
    guard let config = source.config, let place = source.place ?? LayerIndex.countPlace(in: config) else { return nil }
    guard let list = config.block(place.sections)?[key].flatMap(entries), list.count == place.count else { return nil }
    return list
  }

  private func reindexed(
    _ donorList: [JSONValue], key: String, place: LayerIndex.CountPlace, asText: Bool
  ) throws(IngotError) -> JSONValue {
    var result: [JSONValue] = []
    for (number, source) in layers.enumerated() {
      let list = list(key, of: source) ?? donorList
      guard list.indices.contains(source.layer) else {
        throw IngotError(
          .unsupported, "\(key) has \(list.count) entries, none for layer \(source.layer) that becomes layer \(number) of the output",
          subject: origin)
      }
      result.append(list[source.layer])
    }
    return asText ? .string(result.compactMap(\.asString).joined()) : .array(result)
  }

  private func renumbered(_ donorList: [JSONValue], key: String, place: LayerIndex.CountPlace) -> JSONValue {
    let donorNumbers = Set(donorList.compactMap(\.asInt))
    var result: [JSONValue] = []
    for (number, source) in layers.enumerated() {
      let own = source.config.flatMap { config in
        (source.place ?? LayerIndex.countPlace(in: config)).flatMap { config.block($0.sections)?[key]?.asArray }
      }
      let numbers = own.map { Set($0.compactMap(\.asInt)) } ?? donorNumbers
      if numbers.contains(source.layer) { result.append(.int(number)) }
    }
    return .array(result)
  }
}
