import IngotCheckpoints
import IngotErrors
import IngotJSON
import IngotTensors
import Testing

@Suite("Output layout")
struct LayoutTests {
  static func describe(_ name: String, _ dtype: DType, _ shape: Int...) -> TensorDescription {
    TensorDescription(name: name, dtype: dtype, shape: Shape(shape))
  }

  @Test("a written header reads back, aligned, with wider types first")
  func roundTrip() throws {
    let tensors = [
      Self.describe("bytes", .u8, 3), Self.describe("a \"quoted\"\n名", .bf16, 5, 1), Self.describe("x", .f32, 2, 2),
      Self.describe("scalar", .f64), Self.describe("none", .f32, 0, 7), Self.describe("y", .f32, 1),
    ]
    let layout = try SafetensorsLayout(tensors: tensors, metadata: [MetadataEntry("format", "pt"), MetadataEntry("k", "ü\\")])
    #expect(layout.header.count % 8 == 0)
    let length = try SafetensorsHeader.length(prefix: Array(layout.header.prefix(8)), fileSize: layout.fileSize, origin: "o")
    #expect(length + 8 == layout.header.count)
    let header = try SafetensorsHeader.parse(Array(layout.header.dropFirst(8)), fileSize: layout.fileSize, origin: "o")
    #expect(header.tensors.map(\.name) == ["scalar", "x", "none", "y", "a \"quoted\"\n名", "bytes"])
    #expect(header.metadata == [MetadataEntry("format", "pt"), MetadataEntry("k", "ü\\")])
    for (index, tensor) in tensors.enumerated() {
      let read = try #require(header.tensors.first { $0.name == tensor.name })
      #expect(read.dtype == tensor.dtype && read.shape == tensor.shape)
      #expect(read.fileOffset == layout.fileOffsets[index] && read.byteCount == layout.byteCounts[index])
      #expect(read.fileOffset % UInt64(max(1, tensor.dtype.bits / 8)) == 0)
    }
    #expect(layout.fileSize == UInt64(layout.header.count + 8 + 16 + 0 + 4 + 10 + 3))
  }

  @Test("an empty file is valid")
  func empty() throws {
    let layout = try SafetensorsLayout(tensors: [], metadata: [])
    #expect(layout.fileSize == 16)
    #expect(try SafetensorsHeader.parse(Array(layout.header.dropFirst(8)), fileSize: 16, origin: "o").tensors.isEmpty)
  }

  @Test(
    "what cannot be written is refused",
    arguments: [
      [describe("a", .f32, 1), describe("a", .f32, 1)], [describe("__metadata__", .f32, 1)], [describe("a\0b", .f32, 1)],
      [describe("a", .f32, Int.max)], [describe("a", .f32, -1)], [describe("a", .f4, 1)],
      [describe("a", .u8, Int.max), describe("b", .u8, Int.max)],
    ])
  func refused(_ tensors: [TensorDescription]) throws {
    let error = try #require(throws: IngotError.self) { try SafetensorsLayout(tensors: tensors, metadata: []) }
    #expect([.invalidArgument, .shape].contains(error.status))
    #expect(error.subject != nil)
    #expect(throws: IngotError.self) { try ShardLayout(tensors: tensors, limit: 0, metadata: []) }
    #expect(throws: IngotError.self) { try ShardLayout(tensors: tensors, limit: 1, metadata: []) }
  }

  @Test(
    "shards split before the limit is passed",
    arguments: [
      ([10, 10, 10], 0, [3]), ([10, 10, 10], 30, [3]), ([10, 10, 10], 29, [2, 1]), ([10, 10, 10], 20, [2, 1]),
      ([10, 10, 10], 19, [1, 1, 1]), ([10, 10, 10], 1, [1, 1, 1]), ([5, 50, 5, 5], 20, [1, 1, 2]), ([50, 5], 20, [1, 1]),
      ([0, 0, 20, 0, 1], 20, [4, 1]), ([], 10, [0]),
    ] as [([Int], UInt64, [Int])])
  func splitting(_ sizes: [Int], _ limit: UInt64, _ counts: [Int]) throws {
    let tensors = sizes.enumerated().map { Self.describe("t\($0.offset)", .u8, $0.element) }
    let layout = try ShardLayout(tensors: tensors, limit: limit, metadata: [])
    #expect(layout.shards.map(\.tensors.count) == counts)
    #expect(layout.shards.flatMap(\.tensors) == Array(sizes.indices))
    #expect(layout.totalBytes == UInt64(sizes.reduce(0, +)))
    #expect((layout.index == nil) == (counts.count == 1))
    if counts.count == 1 { #expect(layout.shards.map(\.fileName) == ["model.safetensors"]) }
  }

  @Test("names and the index")
  func index() throws {
    let tensors = (0..<3).map { Self.describe("t\"\($0)", .u8, 4) }
    let layout = try ShardLayout(tensors: tensors, limit: 8, metadata: [])
    #expect(layout.shards.map(\.fileName) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
    let index = try #require(layout.index)
    #expect(index.fileName == "model.safetensors.index.json")
    let expected: JSONValue = .object([
      "metadata": .object(["total_size": .int(12)]),
      "weight_map": .object([
        "t\"0": .string("model-00001-of-00002.safetensors"), "t\"1": .string("model-00001-of-00002.safetensors"),
        "t\"2": .string("model-00002-of-00002.safetensors"),
      ]),
    ])
    #expect(String(decoding: index.text, as: UTF8.self) == JSON.text(expected, style: .pretty) + "\n")
  }

  @Test("one name in two shards is refused")
  func sameName() throws {
    let tensors = [Self.describe("a", .u8, 4), Self.describe("b", .u8, 4), Self.describe("a", .u8, 4)]
    let error = try #require(throws: IngotError.self) { try ShardLayout(tensors: tensors, limit: 4, metadata: []) }
    #expect(error.subject == "a")
  }
}
