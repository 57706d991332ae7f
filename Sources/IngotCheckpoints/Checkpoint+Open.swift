package import IngotErrors
import IngotJSON

extension Checkpoint {
  /// The names that libraries look for first.
  package static let singleFileName = "model.safetensors"
  package static let indexFileName = "model.safetensors.index.json"
  private static let indexSuffix = ".safetensors.index.json"

  /// Reads the headers and the config of a model.
  ///
  /// The weights are `fileName` when given (a `.safetensors` file or its index), else `model.safetensors`, else the shards that
  /// `model.safetensors.index.json` names, else the only `*.safetensors` file there is. `digest` gets each header's JSON and gives
  /// what becomes `CheckpointShard.headerDigest`.
  ///
  /// Throws `.notFound` (no weights; a shard that the index names is absent), `.format` (a header, index or config that is not
  /// valid), `.unsupported` (weights of another format; an adapter), and whatever `files` throws.
  package static func open(
    files: some ModelFiles, fileName: String? = nil, digest: ([UInt8]) -> UInt128 = { _ in 0 }
  ) throws(IngotError) -> Checkpoint {
    let (weights, notices) = try locate(files, fileName)
    let config = try readConfig(files)
    if weights.hasSuffix(indexSuffix) {
      return try openShards(files, index: weights, config: config, notices: notices, digest: digest)
    }
    let (shard, header) = try readShard(files, weights, digest)
    let tensors = header.tensors.map { CheckpointTensor($0, shard: 0) }
    return try Checkpoint(displayPath: files.displayPath, shards: [shard], tensors: tensors, config: config, notices: notices)
      .requireTensors()
  }

  // MARK: - Which file

  private static func locate(_ files: some ModelFiles, _ fileName: String?) throws(IngotError) -> (String, [Notice]) {
    if let fileName {
      guard try files.size(of: fileName) != nil else {
        throw IngotError(.notFound, "there is no such file", subject: files.path(of: fileName))
      }
      if fileName.hasSuffix(".safetensors") || fileName.hasSuffix(indexSuffix) { return (fileName, []) }
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
    if candidates == ["adapter_model.safetensors"] {
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
    throw otherFormat(names, files)
  }

  private static func list(_ names: [String]) -> String {
    names.prefix(3).joined(separator: ", ") + (names.count > 3 ? ", …" : "")
  }

  /// The error when there are no safetensors: `.unsupported` when other weights are there, else `.notFound`.
  private static func otherFormat(_ names: [String], _ files: some ModelFiles) -> IngotError {
    let pickles = names.filter { name in [".bin", ".pt", ".pth", ".bin.index.json"].contains { name.hasSuffix($0) } }
    if !pickles.isEmpty {
      return IngotError(
        .unsupported, "the weights are PyTorch pickle files (\(list(pickles))), expected safetensors",
        hint: "convert them: load the model with transformers and call save_pretrained(…, safe_serialization=True)",
        subject: files.displayPath)
    }
    let others = names.filter { name in [".gguf", ".ggml", ".onnx", ".h5", ".msgpack"].contains { name.hasSuffix($0) } }
    if !others.isEmpty {
      return IngotError(
        .unsupported, "the weights are in another format (\(list(others))), expected safetensors",
        hint: "use the model's safetensors release", subject: files.displayPath)
    }
    return IngotError(
      .notFound, "no weights: looked for \(singleFileName), \(indexFileName) and one *.safetensors file, found \(names.count) other files",
      hint: "is this the model's directory, and is its download complete?", subject: files.displayPath)
  }

  private static func readConfig(_ files: some ModelFiles) throws(IngotError) -> JSONValue? {
    guard let bytes = try files.readWhole("config.json", limit: CheckpointLimit.configBytes) else { return nil }
    let origin = files.path(of: "config.json")
    let config = try JSON.parse(bytes, origin: origin, options: .python)
    _ = try config.requireObject(origin, in: origin)
    return config
  }

  // MARK: - Reading

  private static func readShard(
    _ files: some ModelFiles, _ name: String, _ digest: ([UInt8]) -> UInt128
  ) throws(IngotError) -> (CheckpointShard, SafetensorsHeader) {
    let path = files.path(of: name)
    guard let size = try files.size(of: name) else { throw IngotError(.notFound, "there is no such file", subject: path) }
    let prefixCount = SafetensorsHeader.prefixBytes
    let prefix = size < UInt64(prefixCount) ? [] : try files.read(name, offset: 0, count: prefixCount)
    let length = try SafetensorsHeader.length(prefix: prefix, fileSize: size, origin: path)
    let json = try files.read(name, offset: UInt64(prefixCount), count: length)
    let header = try SafetensorsHeader.parse(json, fileSize: size, origin: path)
    let shard = CheckpointShard(
      name: name, size: size, modificationTime: files.modificationTime(of: name), headerDigest: digest(json), metadata: header.metadata)
    return (shard, header)
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
      let (shard, header) = try readShard(files, name, digest)
      shards.append(shard)
      var found = 0
      var unnamed: [String] = []
      for tensor in header.tensors {
        if map.shardOf[tensor.name] == number {
          tensors.append(CheckpointTensor(tensor, shard: number))
          found += 1
        } else {
          unnamed.append(tensor.name)
        }
      }
      if found != map.counts[number] { throw absentTensor(files, map, index, number, header) }
      if let first = unnamed.first {
        // The index is what every loader goes by, so it decides; but a person should know that bytes are left behind.
        notices.append(
          Notice(
            .warning,
            "\(name) holds \(unnamed.count) tensors that \(index) does not place there (the first is \"\(first)\"); they are left out",
            subject: files.displayPath))
      }
    }
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
    _ files: some ModelFiles, _ map: ShardIndex, _ index: String, _ number: Int, _ header: SafetensorsHeader
  ) -> IngotError {
    let present = Set(header.tensors.map(\.name))
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
