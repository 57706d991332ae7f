import IngotCheckpoints
import IngotErrors
import IngotTensors
import Testing

@Suite("safetensors header")
struct SafetensorsHeaderTests {
  @Test("entries, absolute offsets and metadata are read")
  func reading() throws {
    let json = #"""
      {"__metadata__":{"format":"pt","é":"\u00fc"},
       "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},
       "a":{"shape":[],"data_offsets":[12,16],"dtype":"F32"}, "e":{"dtype":"I64","shape":[0,5],"data_offsets":[16,16]} }
      """#
    let header = try parseHeader(json, dataBytes: 16)
    let start = UInt64(8 + json.utf8.count)
    #expect(header.tensors.map(\.name) == ["b", "a", "e"])
    #expect(header.tensors.map(\.dtype) == [.bf16, .f32, .i64])
    #expect(header.tensors.map(\.shape) == [Shape([2, 3]), Shape([]), Shape([0, 5])])
    #expect(header.tensors.map(\.fileOffset) == [start, start + 12, start + 16])
    #expect(header.tensors.map(\.byteCount) == [12, 4, 0])
    #expect(header.metadata == [MetadataEntry("format", "pt"), MetadataEntry("é", "ü")])
  }

  @Test("tensors come in the order of their bytes, whatever the order of the text")
  func order() throws {
    let json = #"""
      {"z":{"dtype":"U8","shape":[4],"data_offsets":[4,8]},"y":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
       "empty":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}
      """#
    #expect(try parseHeader(json, dataBytes: 8).tensors.map(\.name) == ["y", "empty", "z"])
  }

  @Test("an empty tensor may stand after the one that begins where it is")
  func emptyAfter() throws {
    let json = #"""
      {"z":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"empty":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}
      """#
    #expect(try parseHeader(json, dataBytes: 4).tensors.map(\.name) == ["empty", "z"])
  }

  @Test("every dtype of the format parses", arguments: DType.allCases)
  func dtypes(_ dtype: DType) throws {
    let bytes = 8 * dtype.bits / 8
    let json = #"{"t":{"dtype":"\#(dtype.safetensorsName)","shape":[2,4],"data_offsets":[0,\#(bytes)]}}"#
    let header = try parseHeader(json, dataBytes: bytes)
    #expect(header.tensors.first?.dtype == dtype)
    #expect(header.tensors.first?.byteCount == bytes)
  }

  @Test("no tensors, null metadata, padding and unknown keys of an entry are fine")
  func lenient() throws {
    #expect(try parseHeader("{}", dataBytes: 0).tensors.isEmpty)
    #expect(try parseHeader("{\"__metadata__\":null}   ", dataBytes: 0).metadata.isEmpty)
    let json = #"{"t":{"dtype":"U8","note":{"x":[1,"y"]},"shape":[1],"data_offsets":[0,1]}}"#
    #expect(try parseHeader(json, dataBytes: 1).tensors.count == 1)
  }

  @Test(
    "the length prefix is checked against the limit and the file",
    arguments: [
      ([], 0, "expected at least 8"),
      ([1, 0, 0], 3, "expected at least 8"),
      ([1, 0, 0, 0, 0, 0, 0, 0], 8, "only 0 follow"),
      ([255, 255, 255, 255, 255, 255, 255, 255], 1 << 40, "header length is 18446744073709551615"),
      ([1, 225, 245, 5, 0, 0, 0, 0], 1 << 40, "header length is 100000001"),
      ([0, 225, 245, 5, 0, 0, 0, 0], 100_000_007, "only 99999999 follow"),
    ] as [([UInt8], UInt64, String)])
  func lengths(_ prefix: [UInt8], _ size: UInt64, _ words: String) throws {
    let error = try #require(throws: IngotError.self) {
      try SafetensorsHeader.length(prefix: prefix, fileSize: size, origin: "m.safetensors")
    }
    #expect(error.status == .format)
    #expect(error.subject == "m.safetensors")
    #expect(error.message.contains(words), "\(error.message)")
  }

  @Test("the largest header is allowed")
  func longest() throws {
    let prefix: [UInt8] = [0, 225, 245, 5, 0, 0, 0, 0]
    #expect(try SafetensorsHeader.length(prefix: prefix, fileSize: 100_000_008, origin: "m") == 100_000_000)
  }

  struct Bad: Sendable, CustomTestStringConvertible {
    var json: String
    var bytes: Int
    var status = Status.format
    var subject = "t"
    var words: [String]
    var testDescription: String { words.joined(separator: " ") }
  }

  static let huge = "9223372036854775807"
  static let bad: [Bad] = [
    Bad(json: #"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, bytes: 7, words: ["[0, 8]", "7 bytes", "cut short"]),
    Bad(json: #"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, bytes: 9, subject: "m.safetensors", words: ["\"t\"", "8", "9"]),
    Bad(json: "{}", bytes: 1, subject: "m.safetensors", words: ["no tensor", "0", "1"]),
    Bad(json: #"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, bytes: 4, words: ["4 bytes", "expected 8", "F32 [2]"]),
    Bad(json: #"{"t":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, bytes: 8, words: ["[8, 0]", "backwards"]),
    Bad(
      json: #"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"t":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#, bytes: 8,
      words: ["byte 4", "inside \"a\"", "8"]),
    Bad(
      json: #"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"t":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#, bytes: 8,
      words: ["byte 4", "expected 2", "2 bytes before it"]),
    Bad(json: #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#, bytes: 8, words: ["expected 0"]),
    Bad(
      json: #"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"t":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}"#, bytes: 8,
      words: ["inside \"a\""]),
    Bad(
      json: #"{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#, bytes: 2,
      words: ["two tensors"]),
    Bad(
      json: #"{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0074":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#, bytes: 2,
      words: ["two tensors"]),
    Bad(json: #"{"t":{"dtype":"F7","shape":[1],"data_offsets":[0,1]}}"#, bytes: 1, status: .dtype, words: ["\"F7\"", "BF16"]),
    Bad(json: #"{"t":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}}"#, bytes: 4, status: .dtype, words: ["\"f32\""]),
    Bad(json: #"{"t":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#, bytes: 1, words: ["whole bytes"]),
    Bad(json: #"{"t":{"dtype":"U8","shape":[\#(huge),2],"data_offsets":[0,0]}}"#, bytes: 0, words: ["63 bits"]),
    Bad(json: #"{"t":{"dtype":"F64","shape":[\#(huge)],"data_offsets":[0,8]}}"#, bytes: 8, words: ["63 bits"]),
    Bad(json: #"{"t":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,8]}}"#, bytes: 8, words: ["63 bits"]),
    Bad(json: #"{"t":{"dtype":"U8","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}"#, bytes: 0, words: ["63 bits"]),
    Bad(
      json: #"{"t":{"dtype":"U8","shape":[\#(Array(repeating: "1", count: 33).joined(separator: ","))],"data_offsets":[0,1]}}"#, bytes: 1,
      words: ["32 axes"]),
    Bad(json: #"{"t":{"shape":[1],"data_offsets":[0,1]}}"#, bytes: 1, words: ["no dtype"]),
    Bad(json: #"{"t":{"dtype":"U8","data_offsets":[0,1]}}"#, bytes: 1, words: ["no shape"]),
    Bad(json: #"{"t":{"dtype":"U8","shape":[1]}}"#, bytes: 1, words: ["no data_offsets"]),
    Bad(json: #"{"t":{}}"#, bytes: 0, words: ["no dtype"]),
  ]

  @Test("a header that does not describe its file is refused by the tensor's name", arguments: bad)
  func refused(_ bad: Bad) throws {
    let error = try #require(throws: IngotError.self) { try parseHeader(bad.json, dataBytes: bad.bytes) }
    #expect(error.status == bad.status)
    #expect(error.subject == bad.subject)
    for word in bad.words { #expect(error.message.contains(word), "\(error.message)") }
    #expect(error.subject == "m.safetensors" || error.message.contains("m.safetensors"), "\(error.message)")
  }

  @Test(
    "a header of another form is refused with its place",
    arguments: [
      "", "[]", "null", "{", "{\"t\":1}", "{\"t\":{\"dtype\":1}}", "{\"t\":{\"shape\":1}}", "{\"t\":{\"shape\":[-1]}}",
      "{\"t\":{\"shape\":[1.5]}}", "{\"t\":{\"shape\":[1e3]}}", "{\"t\":{\"shape\":[99999999999999999999]}}",
      "{\"t\":{\"shape\":[01]}}", "{\"t\":{\"data_offsets\":[0]}}", "{\"t\":{\"data_offsets\":[0,1,2]}}",
      "{\"t\":{\"data_offsets\":[-1,1]}}", "{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", "{\"__metadata__\":[]}",
      "{\"__metadata__\":{\"a\":1}}", "{\"__metadata__\":{},\"__metadata__\":{}}", "{} x", "{\"a\\u0000b\":{}}", "{\"__metadata__\":{},}",
      "{\"t\":{\"x\":\(String(repeating: "[", count: 5000))",
    ])
  func malformed(_ json: String) throws {
    let error = try #require(throws: IngotError.self) { try parseHeader(json, dataBytes: 0) }
    #expect(error.status == .format)
    #expect(error.position?.origin == "m.safetensors")
  }

  @Test("no truncation and no changed byte crashes, and what still parses stays inside the file")
  func mutations() throws {
    let json = Array(
      #"{"__metadata__":{"f":"p"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}"#
        .utf8)
    for end in 0..<json.count {
      #expect(throws: IngotError.self) { try SafetensorsHeader.parse(Array(json[..<end]), fileSize: UInt64(8 + end + 11), origin: "m") }
    }
    for place in json.indices {
      for byte: UInt8 in [0x00, 0x20, 0x22, 0x30, 0x31, 0x39, 0x2D, 0x5B, 0x5D, 0x7B, 0x7D, 0x2C, 0xFF] {
        var changed = json
        changed[place] = byte
        let size = UInt64(8 + json.count + 11)
        guard let header = try? SafetensorsHeader.parse(changed, fileSize: size, origin: "m") else { continue }
        #expect(header.tensors.reduce(0) { $0 + $1.byteCount } == 11)
        #expect(header.tensors.allSatisfy { $0.fileOffset + UInt64($0.byteCount) <= size })
      }
    }
  }
}
