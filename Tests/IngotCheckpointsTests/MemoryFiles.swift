import IngotCheckpoints
import IngotErrors
import IngotTensors

/// A model directory that exists only in memory.
struct MemoryFiles: ModelFiles {
  var displayPath = "models/test"
  var files: [String: [UInt8]] = [:]

  func fileNames() throws(IngotError) -> [String] { files.keys.sorted() }
  func size(of name: String) throws(IngotError) -> UInt64? { files[name].map { UInt64($0.count) } }
  func read(_ name: String, offset: UInt64, count: Int) throws(IngotError) -> [UInt8] {
    guard let bytes = files[name], offset <= UInt64(bytes.count), count <= bytes.count - Int(offset) else {
      throw IngotError(.io, "read beyond the end", subject: name)
    }
    return Array(bytes[Int(offset)..<(Int(offset) + count)])
  }
  func modificationTime(of name: String) -> Int64 { 42 }
}

/// The 8-byte length and the JSON, then `dataBytes` zero bytes.
func safetensors(_ json: String, dataBytes: Int = 0) -> [UInt8] {
  let body = Array(json.utf8)
  return (0..<8).map { UInt8(truncatingIfNeeded: body.count >> (8 * $0)) } + body + [UInt8](repeating: 0, count: dataBytes)
}

func parseHeader(_ json: String, dataBytes: Int) throws -> SafetensorsHeader {
  let body = Array(json.utf8)
  return try SafetensorsHeader.parse(body, fileSize: UInt64(8 + body.count + dataBytes), origin: "m.safetensors")
}

/// A file that holds these F32 tensors of one axis, all zero.
func zeros(_ tensors: KeyValuePairs<String, Int>) throws -> [UInt8] {
  let descriptions = tensors.map { TensorDescription(name: $0.key, dtype: .f32, shape: Shape([$0.value])) }
  let layout = try SafetensorsLayout(tensors: descriptions, metadata: [MetadataEntry("format", "pt")])
  return layout.header + [UInt8](repeating: 0, count: Int(layout.fileSize) - layout.header.count)
}
