package import IngotErrors
import IngotJSON
package import IngotTensors

/// A tensor before it has a place: what a plan knows of an output.
package struct TensorDescription: Sendable, Hashable {
  package var name: String
  package var dtype: DType
  package var shape: Shape

  package init(name: String, dtype: DType, shape: Shape) {
    self.name = name
    self.dtype = dtype
    self.shape = shape
  }
}

/// Where everything of a safetensors file that is yet to be written goes.
///
/// Inside the file wider element types come first, otherwise the given order holds: each tensor then begins at a multiple of its
/// element size, which torch demands of a mapped file.
package struct SafetensorsLayout: Sendable {
  /// The file's first bytes: length prefix, JSON, spaces up to a multiple of 8; of a page where the tensors take a megabyte or more, so that
  /// they can be written past the page cache whole pages at a time.
  package let header: [UInt8]
  /// Offset of each tensor from the start of the file, in the order the tensors were given.
  package let fileOffsets: [UInt64]
  /// Bytes of each tensor, in the order the tensors were given.
  package let byteCounts: [Int]
  package let fileSize: UInt64

  /// - Parameters: `leastHeader` is the number of bytes that the header takes at least: for files whose tensors are written before all shapes
  ///   are known.
  /// Throws `.shape` for sizes that overflow, `.invalidArgument` for a name that is there twice or cannot be written, or a header
  /// beyond the format's limit.
  package init(tensors: [TensorDescription], metadata: [MetadataEntry], leastHeader: Int = 0) throws(IngotError) {
    var byteCounts: [Int] = []
    byteCounts.reserveCapacity(tensors.count)
    var names: Set<String> = []
    for tensor in tensors {
      guard tensor.name != "__metadata__", !tensor.name.utf8.contains(0), names.insert(tensor.name).inserted else {
        throw IngotError(
          .invalidArgument, "a name that cannot be written to a safetensors file: reserved, with NUL, or there twice", subject: tensor.name)
      }
      byteCounts.append(try Self.byteCount(of: tensor))
    }
    let order = Self.order(of: tensors)
    var begins = [UInt64](repeating: 0, count: tensors.count)
    var end: UInt64 = 0
    for index in order {
      begins[index] = end
      let (sum, overflowed) = end.addingReportingOverflow(UInt64(byteCounts[index]))
      guard !overflowed, sum <= UInt64(Int64.max) else {
        throw IngotError(.shape, "the tensors of one file take more bytes than 63 bits can count", subject: tensors[index].name)
      }
      end = sum
    }
    header = try Self.header(
      tensors: tensors, order: order, begins: begins, byteCounts: byteCounts, metadata: metadata,
      alignment: end < 1 << 20 ? 8 : 4096, least: leastHeader)
    let start = UInt64(header.count)
    fileOffsets = begins.map { start + $0 }
    self.byteCounts = byteCounts
    fileSize = start + end
  }

  /// Places of `tensors` in the order in which their bytes lie in a file: wider types first, otherwise as given.
  package static func order(of tensors: [TensorDescription]) -> [Int] {
    // Swift's sort is stable in fact but not by contract, so the order is part of the key.
    tensors.indices.sorted { (tensors[$1].dtype.bits, $0) < (tensors[$0].dtype.bits, $1) }
  }

  static func byteCount(of tensor: TensorDescription) throws(IngotError) -> Int {
    do throws(IngotError) {
      return try tensor.shape.byteCount(tensor.dtype)
    } catch {
      var named = error
      named.subject = tensor.name
      throw named
    }
  }

  private static func header(
    tensors: [TensorDescription], order: [Int], begins: [UInt64], byteCounts: [Int], metadata: [MetadataEntry],
    alignment: Int, least: Int
  ) throws(IngotError) -> [UInt8] {
    var writer = JSONWriter(reserving: 128 * (tensors.count + 1))
    writer.raw("{")
    var separator = ""
    if !metadata.isEmpty {
      writer.raw("\"__metadata__\":{")
      for (index, entry) in metadata.enumerated() {
        if index > 0 { writer.raw(",") }
        writer.string(entry.key)
        writer.raw(":")
        writer.string(entry.value)
      }
      writer.raw("}")
      separator = ","
    }
    for index in order {
      let tensor = tensors[index]
      writer.raw(separator)
      separator = ","
      writer.string(tensor.name)
      writer.raw(":{\"dtype\":\"")
      writer.raw(tensor.dtype.safetensorsName)
      writer.raw("\",\"shape\":[")
      for (axis, extent) in tensor.shape.dimensions.enumerated() {
        if axis > 0 { writer.raw(",") }
        writer.raw(String(extent))
      }
      writer.raw("],\"data_offsets\":[")
      writer.raw(String(begins[index]))
      writer.raw(",")
      writer.raw(String(begins[index] + UInt64(byteCounts[index])))
      writer.raw("]}")
    }
    writer.raw("}")
    let json = writer.bytes
    let padding = max((alignment - (8 + json.count) % alignment) % alignment, least - 8 - json.count)
    let length = json.count + padding
    guard length <= Limit.headerBytes else {
      throw IngotError(
        .invalidArgument, "a safetensors header of \(length) bytes, expected at most \(Limit.headerBytes)",
        hint: "use a smaller shard size")
    }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(8 + length)
    for shift in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: length >> (8 * shift))) }
    bytes += json
    bytes += repeatElement(0x20, count: padding)
    return bytes
  }
}
