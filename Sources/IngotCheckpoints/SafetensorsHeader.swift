package import IngotErrors
import IngotJSON
package import IngotTensors

/// One tensor of a safetensors file.
package struct SafetensorsTensor: Sendable, Hashable {
  package var name: String
  package var dtype: DType
  package var shape: Shape
  /// Where its bytes begin, counted from the start of the file.
  package var fileOffset: UInt64
  package var byteCount: Int
}

/// A `"key": "value"` of a safetensors file's `__metadata__`.
package struct MetadataEntry: Sendable, Hashable {
  package var key: String
  package var value: String

  package init(_ key: String, _ value: String) {
    self.key = key
    self.value = value
  }
}

/// The header of a safetensors file, fully checked: whoever holds one may read `byteCount` bytes at `fileOffset` of every tensor.
///
/// The format: 8 bytes with the header's length (little-endian), that many bytes of JSON, then the data buffer. `data_offsets` count
/// from the start of the buffer. https://github.com/huggingface/safetensors
package struct SafetensorsHeader: Sendable {
  /// Bytes before the header's JSON.
  package static let prefixBytes = 8

  /// In the order of their bytes in the file.
  package let tensors: [SafetensorsTensor]
  package let metadata: [MetadataEntry]

  /// The length of the JSON, from the file's first 8 bytes.
  ///
  /// Throws `.format` when the file is shorter than 8 bytes, or the header longer than the limit or than the file.
  package static func length(prefix: [UInt8], fileSize: UInt64, origin: String) throws(IngotError) -> Int {
    guard prefix.count == prefixBytes, fileSize >= UInt64(prefixBytes) else {
      throw IngotError(
        .format, "found \(fileSize) bytes, expected at least \(prefixBytes): not a safetensors file", hint: downloadHint, subject: origin)
    }
    let length = prefix.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    guard length <= UInt64(Limit.headerBytes) else {
      throw IngotError(
        .format, "header length is \(length) bytes, expected at most \(Limit.headerBytes): not a safetensors file",
        subject: origin)
    }
    guard length <= fileSize - UInt64(prefixBytes) else {
      throw IngotError(
        .format,
        "header length is \(length) bytes, but only \(fileSize - UInt64(prefixBytes)) follow: the file is cut short or is not safetensors",
        hint: downloadHint, subject: origin)
    }
    return Int(length)
  }

  /// Parses and checks the JSON of a header.
  ///
  /// `json` is what follows the 8-byte prefix, `fileSize` the size of the whole file, `origin` the path for messages. Throws `.format`
  /// (bad JSON, duplicate names, offsets that do not tile the buffer exactly, a byte count other than shape × dtype) with the tensor
  /// as the subject, or `.dtype` for an unknown element type. Unknown keys of an entry are skipped, as the format's library does.
  package static func parse(_ json: [UInt8], fileSize: UInt64, origin: String) throws(IngotError) -> SafetensorsHeader {
    var parser = SafetensorsHeaderParser(json, fileSize: fileSize, origin: origin)
    return try parser.parse()
  }

  init(tensors: [SafetensorsTensor], metadata: [MetadataEntry]) {
    self.tensors = tensors
    self.metadata = metadata
  }

  static let downloadHint = "download the file again"
}
