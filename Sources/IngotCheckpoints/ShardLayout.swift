package import IngotErrors
import IngotJSON
import IngotTensors

/// Which tensor goes to which output file, and the index that says so.
package struct ShardLayout: Sendable {
  package struct Shard: Sendable {
    package let fileName: String
    /// Places in the given list of tensors; `layout.fileOffsets` runs in the same order.
    package let tensors: [Int]
    package let layout: SafetensorsLayout
  }

  /// The name and text of `….safetensors.index.json`.
  package struct Index: Sendable {
    package let fileName: String
    package let text: [UInt8]
  }

  package let shards: [Shard]
  /// nil when there is one shard: it needs no index.
  package let index: Index?
  /// Bytes of all tensors, without headers.
  package let totalBytes: UInt64

  /// Splits `tensors`, in their order, into files of at most `limit` bytes of tensor data.
  ///
  /// A tensor that would take a non-empty shard over the limit begins the next one; a tensor larger than the limit gets its own.
  /// `limit` 0 means one file. Files are `BASE.safetensors`, or `BASE-00001-of-0000N.safetensors` with an index.
  /// Throws what `SafetensorsLayout.init` throws.
  package init(
    tensors: [TensorDescription], limit: UInt64, metadata: [MetadataEntry], baseName: String = "model"
  ) throws(IngotError) {
    var groups: [[Int]] = [[]]
    var filled: UInt64 = 0
    var total: UInt64 = 0
    for (place, tensor) in tensors.enumerated() {
      let bytes = UInt64(try SafetensorsLayout.byteCount(of: tensor))
      let (sum, overflowed) = total.addingReportingOverflow(bytes)
      guard !overflowed else {
        throw IngotError(.shape, "the tensors take more bytes than 64 bits can count", subject: tensor.name)
      }
      total = sum
      if limit > 0, let last = groups.last, !last.isEmpty, bytes > limit || filled > limit - bytes {
        groups.append([])
        filled = 0
      }
      groups[groups.count - 1].append(place)
      filled += bytes
    }
    var shards: [Shard] = []
    for (number, places) in groups.enumerated() {
      let name =
        groups.count == 1
        ? "\(baseName).safetensors"
        : "\(baseName)-\(Self.padded(number + 1))-of-\(Self.padded(groups.count)).safetensors"
      let layout = try SafetensorsLayout(tensors: places.map { tensors[$0] }, metadata: metadata)
      shards.append(Shard(fileName: name, tensors: places, layout: layout))
    }
    if groups.count > 1 { try Self.checkNamesDiffer(tensors) }
    self.shards = shards
    totalBytes = total
    index =
      groups.count == 1
      ? nil : Index(fileName: "\(baseName).safetensors.index.json", text: Self.indexText(tensors, shards: shards, total: total))
  }

  /// Within a file the layout has checked this already.
  private static func checkNamesDiffer(_ tensors: [TensorDescription]) throws(IngotError) {
    var names: Set<String> = []
    for tensor in tensors where !names.insert(tensor.name).inserted {
      throw IngotError(.invalidArgument, "two output tensors of one name", subject: tensor.name)
    }
  }

  private static func padded(_ number: Int) -> String {
    let digits = String(number)
    return String(repeating: "0", count: max(0, 5 - digits.count)) + digits
  }

  private static func indexText(_ tensors: [TensorDescription], shards: [Shard], total: UInt64) -> [UInt8] {
    var writer = JSONWriter(reserving: 96 * (tensors.count + 2))
    writer.raw("{\n  \"metadata\": {\n    \"total_size\": \(total)\n  },\n  \"weight_map\": {")
    var separator = "\n    "
    for shard in shards {
      for place in shard.tensors {
        writer.raw(separator)
        separator = ",\n    "
        writer.string(tensors[place].name)
        writer.raw(": ")
        writer.string(shard.fileName)
      }
    }
    writer.raw("\n  }\n}\n")
    return writer.bytes
  }
}
