import IngotErrors
import IngotJSON

/// The content of a `….safetensors.index.json` or `….bin.index.json`, checked: which shard each tensor is in.
struct ShardIndex {
  /// File names, sorted by their bytes.
  let shards: [String]
  /// Place in `shards` by tensor name.
  let shardOf: [String: Int]
  /// How many tensors the index places in each shard.
  let counts: [Int]

  static func read(_ files: some ModelFiles, _ name: String) throws(IngotError) -> ShardIndex {
    let origin = files.path(of: name)
    guard let bytes = try files.readWhole(name, limit: Limit.indexBytes) else {
      throw IngotError(.notFound, "there is no such file", subject: origin)
    }
    let root = try JSON.parse(bytes, origin: origin, options: .python)
    guard let node = root["weight_map"] else {
      throw IngotError(.format, "no \"weight_map\", expected an object that gives each tensor its file", subject: origin)
    }
    let ending = name.hasSuffix(Checkpoint.indexSuffix) ? ".safetensors" : ".bin"
    return try ShardIndex(try node.requireObject("weight_map", in: origin), ending: ending, origin: origin)
  }

  private init(_ map: JSONObject, ending: String, origin: String) throws(IngotError) {
    var checked: [String: Int] = [:]
    var names: [String] = []
    var places: [(name: String, shard: Int)] = []
    places.reserveCapacity(map.count)
    for member in map.members {
      let file = try member.value.requireString(member.key, in: origin)
      if let known = checked[file] {
        places.append((member.key, known))
        continue
      }
      try Self.checkFileName(file, ending: ending, tensor: member.key, position: member.value.position(in: origin))
      checked[file] = names.count
      places.append((member.key, names.count))
      names.append(file)
    }
    let order = names.indices.sorted { names[$0].utf8.lexicographicallyPrecedes(names[$1].utf8) }
    var rank = [Int](repeating: 0, count: names.count)
    for (place, index) in order.enumerated() { rank[index] = place }
    var counts = [Int](repeating: 0, count: names.count)
    var shardOf: [String: Int] = Dictionary(minimumCapacity: places.count)
    for (name, shard) in places {
      shardOf[name] = rank[shard]
      counts[rank[shard]] += 1
    }
    shards = order.map { names[$0] }
    self.shardOf = shardOf
    self.counts = counts
  }

  /// A shard is a file beside its index and nothing else: an index from a stranger must not reach another place of the disk.
  private static func checkFileName(_ file: String, ending: String, tensor: String, position: SourcePosition?) throws(IngotError) {
    let forbidden: Set<UInt8> = [UInt8(ascii: "/"), UInt8(ascii: "\\"), 0]
    guard !file.utf8.contains(where: { forbidden.contains($0) || $0 < 0x20 }), file != "..", file != "." else {
      throw IngotError(
        .format,
        "the index names the file \"\(JSON.text(.string(file)).dropFirst().dropLast())\", expected a plain name in its own directory",
        hint: "do not use this checkpoint unless you know who made it", subject: tensor, position: position)
    }
    guard file.hasSuffix(ending) else {
      throw IngotError(
        .format, "the index names the file \"\(file)\", expected one that ends in \(ending)", subject: tensor, position: position)
    }
  }
}
