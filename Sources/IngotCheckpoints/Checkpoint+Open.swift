package import IngotErrors
import IngotJSON

extension Checkpoint {
  /// The names that libraries look for first.
  package static let singleFileName = "model.safetensors"
  package static let indexFileName = "model.safetensors.index.json"
  static let indexSuffix = ".safetensors.index.json"
  private static let torchFileName = "pytorch_model.bin"
  private static let torchIndexName = "pytorch_model.bin.index.json"
  private static let torchIndexSuffix = ".bin.index.json"
  private static let torchEndings = [".bin", ".pt", ".pth"]

  /// Reads the headers and the config of a model.
  ///
  /// The weights are `fileName` when given (a weight file or an index), else `model.safetensors`, else the shards that
  /// `model.safetensors.index.json` names, else the only `*.safetensors` file there is; else the same of PyTorch's files: `pytorch_model.bin`,
  /// its index, the only `*.bin`, `*.pt` or `*.pth` that is no training state. `digest` gets each header's JSON (of a PyTorch file the pickle)
  /// and gives what becomes `CheckpointShard.headerDigest`.
  ///
  /// Throws `.notFound` (no weights; a shard that the index names is absent), `.format` (a header, index or config that is not
  /// valid), `.unsupported` (weights of another format; an adapter), and whatever `files` throws.
  package static func open(
    files: some ModelFiles, fileName: String? = nil, digest: ([UInt8]) -> UInt128 = { _ in 0 }
  ) throws(IngotError) -> Checkpoint {
    let (weights, notices) = try locate(files, fileName)
    let config = try readConfig(files)
    if weights.hasSuffix(indexSuffix) || weights.hasSuffix(torchIndexSuffix) {
      return try openShards(files, index: weights, config: config, notices: notices, digest: digest)
    }
    let content = try readShard(files, weights, digest)
    var tied: [Notice] = []
    let tensors = withoutTiedCopies(content.tensors, config: config, notices: &tied)
    return try Checkpoint(
      displayPath: files.displayPath, shards: [content.shard], tensors: tensors, config: config, notices: notices + content.notices + tied
    ).requireTensors()
  }

  // MARK: - Which file

  private static func locate(_ files: some ModelFiles, _ fileName: String?) throws(IngotError) -> (String, [Notice]) {
    if let fileName {
      guard try files.size(of: fileName) != nil else {
        throw IngotError(.notFound, "there is no such file", subject: files.path(of: fileName))
      }
      let endings = [".safetensors", indexSuffix, torchIndexSuffix] + torchEndings
      if endings.contains(where: fileName.hasSuffix) { return (fileName, []) }
      throw otherFormat([fileName], files)
    }
    let hasIndex = try files.size(of: indexFileName) != nil
    if try files.size(of: singleFileName) != nil {
      guard hasIndex else { return (singleFileName, []) }
      let notice = Notice(
        .warning, "both \(singleFileName) and \(indexFileName) are there; the single file is read", subject: files.displayPath)
      return (singleFileName, [notice])
    }
    if hasIndex { return (indexFileName, []) }
    let names = try files.fileNames().filter { !$0.contains("/") }.sorted()
    let candidates = names.filter { $0.hasSuffix(".safetensors") }
    if candidates == ["adapter_model.safetensors"] || (candidates.isEmpty && names.contains("adapter_model.bin")) {
      throw IngotError(
        .unsupported, "the directory holds a PEFT adapter, expected a model", hint: "name it after its base: BASE+\(files.displayPath)",
        subject: files.displayPath)
    }
    if let only = candidates.first, candidates.count == 1 { return (only, []) }
    if !candidates.isEmpty {
      throw IngotError(
        .notFound,
        "found \(candidates.count) safetensors files (\(list(candidates))) and no \(indexFileName), expected the index or one file",
        hint: "download the index, or name one file", subject: files.displayPath)
    }
    if let name = try locateTorch(names, files) { return (name, []) }
    throw otherFormat(names, files)
  }

  /// PyTorch's files, which count only where there are no safetensors.
  private static func locateTorch(_ names: [String], _ files: some ModelFiles) throws(IngotError) -> String? {
    // Asked for by name: a caller's own files need not come with a list.
    for name in [torchFileName, torchIndexName] where try files.size(of: name) != nil { return name }
    let training = ["training_args", "optimizer", "scheduler", "scaler", "rng_state", "random_states"]
    let candidates = names.filter { name in
      torchEndings.contains(where: name.hasSuffix) && !training.contains(where: name.hasPrefix)
    }
    guard candidates.count > 1 else { return candidates.first }
    throw IngotError(
      .notFound, "found \(candidates.count) PyTorch files (\(list(candidates))) and no \(torchIndexName), expected the index or one file",
      hint: "download the index, or name one file", subject: files.displayPath)
  }

  private static func list(_ names: [String]) -> String {
    names.prefix(3).joined(separator: ", ") + (names.count > 3 ? ", …" : "")
  }

  /// The error when there are no weights that can be read: `.unsupported` when other weights are there, else `.notFound`.
  private static func otherFormat(_ names: [String], _ files: some ModelFiles) -> IngotError {
    let others = names.filter { name in [".gguf", ".ggml", ".onnx", ".h5", ".msgpack"].contains { name.hasSuffix($0) } }
    if !others.isEmpty {
      return IngotError(
        .unsupported, "the weights are in another format (\(list(others))), expected safetensors or PyTorch files",
        hint: "use the model's safetensors release", subject: files.displayPath)
    }
    return IngotError(
      .notFound,
      "no weights: looked for \(singleFileName), \(indexFileName), one *.safetensors file and PyTorch's files, found \(names.count) other files",
      hint: "is this the model's directory, and is its download complete?", subject: files.displayPath)
  }

  private static func readConfig(_ files: some ModelFiles) throws(IngotError) -> JSONValue? {
    guard let bytes = try files.readWhole("config.json", limit: Limit.configBytes) else { return nil }
    let origin = files.path(of: "config.json")
    let config = try JSON.parse(bytes, origin: origin, options: .python)
    _ = try config.requireObject(origin, in: origin)
    return config
  }

  // MARK: - Reading

  private struct ShardContent {
    var shard: CheckpointShard
    /// Of the shard 0.
    var tensors: [CheckpointTensor]
    var notices: [Notice] = []
  }

  private static func readShard(
    _ files: some ModelFiles, _ name: String, _ digest: ([UInt8]) -> UInt128
  ) throws(IngotError) -> ShardContent {
    let path = files.path(of: name)
    guard let size = try files.size(of: name) else { throw IngotError(.notFound, "there is no such file", subject: path) }
    let modified = files.modificationTime(of: name)
    if torchEndings.contains(where: name.hasSuffix) {
      let file = try TorchFile(files, name, size: size)
      let shard = CheckpointShard(name: name, size: size, modificationTime: modified, headerDigest: digest(file.header))
      return ShardContent(shard: shard, tensors: file.tensors, notices: file.notices)
    }
    let prefixCount = SafetensorsHeader.prefixBytes
    let prefix = size < UInt64(prefixCount) ? [] : try files.read(name, offset: 0, count: prefixCount)
    let length = try SafetensorsHeader.length(prefix: prefix, fileSize: size, origin: path)
    let json = try files.read(name, offset: UInt64(prefixCount), count: length)
    let header = try SafetensorsHeader.parse(json, fileSize: size, origin: path)
    let shard = CheckpointShard(
      name: name, size: size, modificationTime: modified, headerDigest: digest(json), metadata: header.metadata)
    return ShardContent(shard: shard, tensors: header.tensors.map { CheckpointTensor($0, shard: 0) })
  }

  /// A PyTorch file holds a tied head beside its embedding, of the same bytes; safetensors leave it out, and so do we, where the config ties
  /// them.
  private static func withoutTiedCopies(
    _ tensors: [CheckpointTensor], config: JSONValue?, notices: inout [Notice]
  ) -> [CheckpointTensor] {
    var places: [String: CheckpointTensor] = [:]
    return tensors.filter { tensor in
      guard TensorNames.isTiedHead(tensor.name) else { return true }
      if places.isEmpty { places = Dictionary(tensors.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first }) }
      let twin = TensorNames.substitutes(for: tensor.name, config: config).first { name in
        guard let other = places[name], !TensorNames.isTiedHead(name) else { return false }
        return (other.shard, other.fileOffset) == (tensor.shard, tensor.fileOffset) && other.shape == tensor.shape
          && other.dtype == tensor.dtype && other.strides == tensor.strides
      }
      guard let twin else { return true }
      notices.append(Notice(.info, "\(tensor.name) is tied to \(twin), whose bytes it shares, and is left out", subject: tensor.name))
      return false
    }
  }

  private static func openShards(
    _ files: some ModelFiles, index: String, config: JSONValue?, notices: [Notice], digest: ([UInt8]) -> UInt128
  ) throws(IngotError) -> Checkpoint {
    let map = try ShardIndex.read(files, index)
    try requireAllPresent(files, map, index)
    var notices = notices
    var shards: [CheckpointShard] = []
    var tensors: [CheckpointTensor] = []
    tensors.reserveCapacity(map.shardOf.count)
    for (number, name) in map.shards.enumerated() {
      let content = try readShard(files, name, digest)
      shards.append(content.shard)
      notices += content.notices
      var found = 0
      var unnamed: [String] = []
      for var tensor in content.tensors {
        if map.shardOf[tensor.name] == number {
          tensor.shard = number
          tensors.append(tensor)
          found += 1
        } else {
          unnamed.append(tensor.name)
        }
      }
      if found != map.counts[number] { throw absentTensor(files, map, index, number, content.tensors) }
      if let first = unnamed.first {
        // The index is what every loader goes by, so it decides; but a person should know that bytes are left behind.
        notices.append(
          Notice(
            .warning,
            "\(name) holds \(unnamed.count) tensors that \(index) does not place there (the first is \"\(first)\"); they are left out",
            subject: files.displayPath))
      }
    }
    tensors = withoutTiedCopies(tensors, config: config, notices: &notices)
    return try Checkpoint(displayPath: files.displayPath, shards: shards, tensors: tensors, config: config, notices: notices)
      .requireTensors()
  }

  private static func requireAllPresent(_ files: some ModelFiles, _ map: ShardIndex, _ index: String) throws(IngotError) {
    var missing: [String] = []
    for name in map.shards where try files.size(of: name) == nil { missing.append(name) }
    guard let first = missing.first else { return }
    throw IngotError(
      .notFound, "\(index) names \(map.shards.count) shards, \(missing.count) of them are missing (\(list(missing)))",
      hint: "complete the download", subject: files.path(of: first))
  }

  /// The error for a shard that lacks something the index places there.
  private static func absentTensor(
    _ files: some ModelFiles, _ map: ShardIndex, _ index: String, _ number: Int, _ tensors: [CheckpointTensor]
  ) -> IngotError {
    let present = Set(tensors.map(\.name))
    let absent = map.shardOf.filter { $0.value == number && !present.contains($0.key) }.keys.sorted()
    return IngotError(
      .format,
      "\(index) places \(map.counts[number]) tensors in \(map.shards[number]), which lacks \(absent.count) of them (\(list(absent)))",
      hint: "the index and the shard are of different versions: download both again", subject: absent.first ?? files.displayPath)
  }

  private func requireTensors() throws(IngotError) -> Checkpoint {
    guard tensors.isEmpty else { return self }
    throw IngotError(.format, "the checkpoint holds no tensor, expected at least one", subject: displayPath)
  }
}

extension CheckpointTensor {
  fileprivate init(_ tensor: SafetensorsTensor, shard: Int) {
    self.init(
      name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, shard: shard, fileOffset: tensor.fileOffset, byteCount: tensor.byteCount)
  }
}
