import IngotErrors
import IngotJSON
import Testing

@Suite("JSON parsing")
struct ParseTests {
  @Test("each kind of value is read, with its place")
  func kinds() throws {
    let text = """
      {"a": null, "b": [true, false],
        "c": -1.5e-05, "d": "x", "é": {"f": 7}}
      """
    let value = try JSON.parse(text, origin: "t.json")
    #expect(value["a"]?.isNull == true)
    #expect(value["b"]?.asArray?.compactMap(\.asBool) == [true, false])
    #expect(value["c"]?.asNumberText == "-1.5e-05")
    #expect(value["c"]?.asDouble == -1.5e-05)
    #expect(value["d"]?.asString == "x")
    #expect(value[path: "é.f"]?.asInt == 7)
    #expect(value[path: "é.g"] == nil)
    #expect(value["c"]?.position(in: "t.json") == SourcePosition(origin: "t.json", line: 2, column: 8))
    // Columns count scalars: é is one, although it takes two bytes.
    #expect(value[path: "é.f"]?.column == 39)
    #expect(value.asObject?.keys == ["a", "b", "c", "d", "é"])
    #expect(value.asObject?.members.last?.column == 28)
  }

  @Test("numbers keep their text", arguments: ["0", "-0", "10", "1e5", "1E+5", "0.10", "-12.50e-7", "123456789012345678901234567890"])
  func numberText(_ text: String) throws {
    let value = try JSON.parse("[\(text)]", origin: "t")
    #expect(JSON.text(value) == "[\(text)]")
    #expect(value.asArray?.first?.asDouble == Double(text))
  }

  @Test("integers are integers as written, in range")
  func integers() throws {
    let values = try #require(try JSON.parse("[1, -5, 1.0, 1e3, 9223372036854775808, \"1\"]", origin: "t").asArray)
    #expect(values.map(\.asInt) == [1, -5, nil, nil, nil, nil])
    #expect(try JSON.parse("1e999", origin: "t").asDouble == nil)
  }

  @Test("strings decode every escape")
  func escapes() throws {
    let value = try JSON.parse(#""\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\uDE00 ü😀""#, origin: "t")
    #expect(value.asString == "\"\\/\u{8}\u{c}\n\r\tAé😀 ü😀")
    #expect(try JSON.parse(#""\u0000""#, origin: "t").asString == "\0")
  }

  @Test(
    "what is not JSON is refused with its place",
    arguments: [
      ("", 1, 1, "ends here"),
      ("  \n ", 2, 2, "ends here"),
      ("{", 1, 2, "key"),
      ("[1,]", 1, 4, "expected a value"),
      ("[1 2]", 1, 4, "',' or ']'"),
      ("{\"a\":1,}", 1, 8, "key"),
      ("{\"a\" 1}", 1, 6, "':'"),
      ("{a:1}", 1, 2, "key"),
      ("{'a':1}", 1, 2, "key"),
      ("tru", 1, 1, "expected a value"),
      ("nul", 1, 1, "expected a value"),
      ("[1] x", 1, 5, "end of the text"),
      ("01", 1, 1, "leading zero"),
      ("-", 1, 1, "without digits"),
      ("1.", 1, 1, "after the point"),
      (".5", 1, 1, "expected a value"),
      ("1e", 1, 1, "exponent"),
      ("1e+", 1, 1, "exponent"),
      ("+1", 1, 1, "expected a value"),
      ("NaN", 1, 1, "expected a value"),
      ("-Infinity", 1, 1, "without digits"),
      ("\"a", 1, 1, "closing quote"),
      ("\"a\\", 1, 3, "escape"),
      ("\"\\x41\"", 1, 2, "unknown escape"),
      ("\"\\u12", 1, 2, "escape"),
      ("\"\\u12g4\"", 1, 2, "hexadecimal"),
      ("\"\\ud800\"", 1, 2, "high surrogate"),
      ("\"\\ud800\\u0041\"", 1, 2, "high surrogate"),
      ("\"\\udc00\"", 1, 2, "low surrogate"),
      ("\"a\nb\"", 1, 3, "control character"),
      ("\"\\n\u{1}\"", 1, 4, "control character"),
      ("{\"k\":1,\"k\":2}", 1, 8, "twice"),
      ("{\"k\":1,\n\"\\u006b\":2}", 2, 1, "twice"),
      ("// no\n1", 1, 1, "expected a value"),
    ])
  func refused(_ text: String, _ line: Int, _ column: Int, _ words: String) throws {
    let error = try #require(throws: IngotError.self) { try JSON.parse(text, origin: "bad.json") }
    #expect(error.status == .format)
    #expect(error.position == SourcePosition(origin: "bad.json", line: line, column: column))
    #expect(error.message.contains(words), "\(error.message)")
  }

  @Test(
    "bytes that are not UTF-8 are refused",
    arguments: [[0xFF], [0xC3], [0xC0, 0xAF], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0x80]] as [[UInt8]])
  func invalidUTF8(_ bytes: [UInt8]) throws {
    for prefix in ["", "\\n"] {
      let text = Array("[\"\(prefix)".utf8) + bytes + Array("\"]".utf8)
      let error = try #require(throws: IngotError.self) { try JSON.parse(text, origin: "t") }
      #expect(error.message.contains("UTF-8"))
    }
    // Outside a string no byte above 0x7F belongs.
    #expect(throws: IngotError.self) { try JSON.parse(bytes, origin: "t") }
  }

  @Test("duplicate keys are found in large objects too, and the option lets the last win")
  func duplicates() throws {
    let members = (0..<500).map { "\"k\($0)\":\($0)" } + ["\"k3\":-1"]
    let text = "{" + members.joined(separator: ",") + "}"
    let error = try #require(throws: IngotError.self) { try JSON.parse(text, origin: "t") }
    #expect(error.message.contains("\"k3\""))
    let value = try JSON.parse(text, origin: "t", options: .init(duplicateKeys: true))
    #expect(value["k3"]?.asInt == -1)
    #expect(value["k499"]?.asInt == 499)
    #expect(value.asObject?.count == 500)
  }

  @Test("Python's non-finite numbers are taken only with the option")
  func nonFinite() throws {
    let text = "[NaN, Infinity, -Infinity, -1]"
    #expect(throws: IngotError.self) { try JSON.parse(text, origin: "t") }
    let value = try JSON.parse(text, origin: "t", options: .python)
    #expect(value.asArray?.map { $0.asDouble?.isFinite } == [false, false, false, true])
    #expect(JSON.text(value) == "[NaN,Infinity,-Infinity,-1]")
  }

  @Test("nesting stops at the limit, however deep the text goes", arguments: ["[", "{\"a\":"])
  func nesting(_ open: String) throws {
    let deep = String(repeating: open, count: 100_000)
    let error = try #require(throws: IngotError.self) { try JSON.parse(deep, origin: "t") }
    #expect(error.message.contains("nested deeper than \(Limit.jsonNesting)"))
    let most = String(repeating: "[", count: Limit.jsonNesting) + String(repeating: "]", count: Limit.jsonNesting)
    #expect(JSON.text(try JSON.parse(most, origin: "t")) == most)
  }

  @Test("no prefix and no single changed byte of a text crashes")
  func mutations() throws {
    let text = Array(#"{"a":[1,-2.5e3,"x\u00e9\ud83d\ude00"],"b":{"c":null,"d":true},"é":"ü"}"#.utf8)
    var parsed = 0
    for end in 0..<text.count {
      if (try? JSON.parse(Array(text[..<end]), origin: "t")) != nil { parsed += 1 }
    }
    #expect(parsed == 0)
    for place in text.indices {
      for byte: UInt8 in [0, 0x22, 0x5C, 0x7B, 0x5D, 0x2C, 0x80, 0xFF] {
        var changed = text
        changed[place] = byte
        if let value = try? JSON.parse(changed, origin: "t", options: .python) {
          let again = try JSON.parse(JSON.bytes(value), origin: "t", options: .python)
          #expect(again == value)
        }
      }
    }
  }

  @Test("a byte order mark is skipped and takes no column")
  func byteOrderMark() throws {
    let value = try JSON.parse([0xEF, 0xBB, 0xBF] + Array("[1]".utf8), origin: "t")
    #expect(value.asArray?.first?.column == 2)
  }

  @Test("a wrong kind is an error that says what was found")
  func required() throws {
    let value = try JSON.parse("{\"n\": \"x\"}", origin: "c.json")
    let node = try #require(value["n"])
    let error = try #require(throws: IngotError.self) { try node.requireInt("n", in: "c.json") }
    #expect(error.message == "found a string, expected an integer")
    #expect(error.position?.column == 7)
    #expect(try node.requireString("n", in: "c.json") == "x")
  }
}

@Suite struct ExactTextTests {
  /// Swift takes these keys for equal; JSON does not.
  @Test func keysDifferByTheirBytes() throws {
    let names = ["é", "e\u{301}", "Ω", "\u{2126}", "K", "\u{212A}", "a", "b", "c", "d", "\u{F900}", "\u{8C48}"]
    for count in [4, names.count] {
      let text = "{" + names.prefix(count).enumerated().map { "\"\($0.element)\": \($0.offset)" }.joined(separator: ",") + "}"
      let value = try JSON.parse(text, origin: "test")
      for (place, name) in names.prefix(count).enumerated() { #expect(value[name]?.asInt == place) }
    }
    #expect(ExactText("é") != ExactText("e\u{301}"))
    #expect(JSONValue.string("é") != JSONValue.string("e\u{301}"))
  }
}
