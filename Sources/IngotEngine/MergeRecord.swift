package import IngotErrors
internal import IngotJSON
package import IngotRecipes
package import IngotStorage

/// What `ingot.json` says about the merge that wrote a directory.
package struct MergeRecord: Sendable {
  /// A tensor of the output as it was written.
  package struct Tensor: Sendable, Hashable {
    package var name: String
    package var file: String
    package var offset: Int
    package var bytes: Int
    package var digest: Digest128
  }

  /// A model that was read.
  package struct Model: Sendable {
    /// As the recipe names it.
    package var name: String
    package var path: String
    /// Of the adapters and packs that were applied to it, in that order.
    package var adapters: [PlannedModel.Adapter]
    package var shards: [ShardIdentity]
  }

  /// The file's name in the output.
  package static let fileName = "ingot.json"

  package let directory: String
  package let tensors: [Tensor]
  private let root: JSONValue

  /// Reads the record of `directory`.
  ///
  /// Throws `.notFound` (no directory, no record), `.io`, `.format`, `.unsupported`.
  package init(directory: String) throws(IngotError) {
    let file = try RecordFile(Self.fileName, in: directory, limit: Limit.recordBytes, from: "a merge of Ingot")
    try self.init(parsing: file.bytes, directory: directory)
  }

  /// Reads the bytes of a record, which `directory` is said to have.
  ///
  /// Throws `.format` (not a record, with the place), `.unsupported` (of a later version).
  package init(parsing bytes: [UInt8], directory: String) throws(IngotError) {
    let path = Self.path(in: directory)
    root = try JSONValue.record(bytes, path: path)
    let algorithm = try (root["digest_algorithm"] ?? .null).requireString("digest_algorithm", in: path)
    guard algorithm == "xxh3-128/1MiB" else {
      throw IngotError(.unsupported, "the digests are of \"\(algorithm.prefix(60))\", expected xxh3-128/1MiB", subject: path)
    }
    self.directory = directory
    var tensors: [Tensor] = []
    for member in try (root["tensors"] ?? .null).requireObject("tensors", in: path).members {
      tensors.append(try Self.tensor(member))
    }
    self.tensors = tensors
  }

  private static func path(in directory: String) -> String { RecordFile.path(of: fileName, in: directory) }

  private static func tensor(_ member: JSONMember) throws(IngotError) -> Tensor {
    let (name, value) = (member.key, member.value)
    return Tensor(
      name: name, file: try (value["file"] ?? .null).requireString("tensors.\(name).file", in: fileName),
      offset: try (value["offset"] ?? .null).requireInt("tensors.\(name).offset", in: fileName),
      bytes: try (value["bytes"] ?? .null).requireInt("tensors.\(name).bytes", in: fileName),
      digest: try digest(value, "digest", of: name))
  }

  private static func digest(_ value: JSONValue, _ key: String, of name: String) throws(IngotError) -> Digest128 {
    let hex = try (value[key] ?? .null).requireString("\(name).\(key)", in: fileName)
    guard let digest = Digest128(hex: hex) else {
      throw IngotError(
        .format, "found \"\(hex.prefix(40))\", expected a digest of 32 hexadecimal digits", subject: name,
        position: value.position(in: fileName))
    }
    return digest
  }

  // MARK: - What made it

  /// The text of the recipe. Throws `.format` when it is not there.
  package func recipe() throws(IngotError) -> String { try (root["recipe"] ?? .null).requireString("recipe", in: Self.path(in: directory)) }

  /// The version of Ingot that wrote it.
  package var version: String { root["ingot_version"]?.asString ?? "unknown" }

  package var planDigest: String? { root["plan_digest"]?.asString }

  /// True when NaN and infinities were carried through.
  package var allowsNonfinite: Bool { root["options"]?["allow_nonfinite"]?.asBool ?? false }

  /// What the run said beside the recipe about rounding and absent tensors.
  package var numerics: Recipe.Numerics? { root["numerics"]?.asString.flatMap(Recipe.Numerics.init(rawValue:)) }
  package var missing: Recipe.Missing? { root["options"]?["missing"]?.asString.flatMap(Recipe.Missing.init(rawValue:)) }

  package func seed() throws(IngotError) -> UInt64 {
    let path = Self.path(in: directory)
    let text = try (root["seed"] ?? .null).requireString("seed", in: path)
    guard let seed = UInt64(text) else {
      throw IngotError(.format, "found \"\(text.prefix(40))\", expected a seed from 0 to \(UInt64.max)", subject: "seed")
    }
    return seed
  }

  /// What was applied to a model. Versions that applied one adapter at most wrote its path as `adapter`.
  private static func adapters(_ model: JSONValue, in path: String) throws(IngotError) -> [PlannedModel.Adapter] {
    if let single = model["adapter"], !single.isNull {
      return [PlannedModel.Adapter(path: try single.requireString("models.adapter", in: path), task: nil)]
    }
    var adapters: [PlannedModel.Adapter] = []
    for entry in try model["adapters"]?.requireArray("models.adapters", in: path) ?? [] {
      let place = try (entry["path"] ?? .null).requireString("models.adapters.path", in: path)
      adapters.append(PlannedModel.Adapter(path: place, task: entry["task"]?.asString))
    }
    return adapters
  }

  /// The models that were read, in the recipe's order.
  package func models() throws(IngotError) -> [Model] {
    let path = Self.path(in: directory)
    var models: [Model] = []
    for value in try (root["models"] ?? .null).requireArray("models", in: path) {
      let name = try (value["name"] ?? .null).requireString("models.name", in: path)
      var shards: [ShardIdentity] = []
      for shard in try (value["shards"] ?? .null).requireArray("models.shards", in: path) {
        let size = try (shard["bytes"] ?? .null).requireInt("models.shards.bytes", in: path)
        shards.append(
          ShardIdentity(
            name: try (shard["file"] ?? .null).requireString("models.shards.file", in: path), size: UInt64(clamping: size),
            modified: Int64(try (shard["modified_ns"] ?? .null).requireInt("models.shards.modified_ns", in: path)),
            headerDigest: try Self.digest(shard, "header_digest", of: name)))
      }
      models.append(
        Model(
          name: name, path: try (value["path"] ?? .null).requireString("models.path", in: path),
          adapters: try Self.adapters(value, in: path), shards: shards))
    }
    return models
  }
}
