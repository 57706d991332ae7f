import IngotJSON
import Testing

@Suite("JSON writing")
struct WriteTests {
  @Test("the pretty form is Python's indent=2")
  func pretty() throws {
    let text = """
      {
        "a": [
          1,
          2.50,
          {
            "b": "é\\n\\"\\\\\\u0001"
          }
        ],
        "empty": [],
        "none": {},
        "last": null
      }
      """
    let value = try JSON.parse(text, origin: "t")
    #expect(JSON.text(value, style: .pretty) == text)
    #expect(JSON.text(value) == #"{"a":[1,2.50,{"b":"é\n\"\\\u0001"}],"empty":[],"none":{},"last":null}"#)
  }

  @Test("every control character survives writing and reading")
  func controls() throws {
    let text = String(String.UnicodeScalarView((0...0x9F).compactMap { Unicode.Scalar($0) }))
    #expect(try JSON.parse(JSON.bytes(.string(text)), origin: "t").asString == text)
  }

  @Test("values made in code")
  func building() throws {
    let value: JSONValue = .object([
      "i": .int(UInt64.max), "d": .double(1e-5), "nan": .double(.nan), "b": .bool(true), "a": .array([.string("x"), .null]),
    ])
    #expect(JSON.text(value) == #"{"i":18446744073709551615,"d":1e-05,"nan":null,"b":true,"a":["x",null]}"#)
    #expect(value.position(in: "t") == nil)
  }

  @Test("members are replaced in place, appended, removed", arguments: [3, 8, 9, 40])
  func editing(_ count: Int) throws {
    var object = JSONObject()
    for index in 0..<count { object["k\(index)"] = .int(index) }
    object["k1"] = .int(-1)
    object["new"] = .bool(true)
    object["k0"] = nil
    object["absent"] = nil
    #expect(object.keys == (1..<count).map { "k\($0)" } + ["new"])
    #expect(object["k1"]?.asInt == -1)
    #expect(object["k0"] == nil)
    #expect(object["new"]?.asBool == true)
    #expect(object.index(of: "k\(count - 1)") == count - 2)
    var value = JSONValue.object(["text_config": .object(object)])
    value["text_config"]?["k2"] = .string("deep")
    #expect(value[path: "text_config.k2"]?.asString == "deep")
  }

  @Test("equality is by content, not by place")
  func equality() throws {
    #expect(try JSON.parse("[1,{\"a\":2}]", origin: "x") == JSON.parse(" [1 ,\n{\"a\" : 2}]", origin: "y"))
    #expect(try JSON.parse("[1]", origin: "x") != JSON.parse("[1.0]", origin: "x"))
  }

  @Test("a document given away in pieces is the same text, and is never held whole")
  func pieces() throws {
    func write(_ document: inout JSONDocument) {
      document.object { document in
        document.list("numbers") { list in
          for number in 0..<50_000 { list.object { $0.field("number", number) } }
        }
      }
    }
    var whole = JSONDocument()
    write(&whole)
    let expected = whole.line()
    var found: [UInt8] = []
    var largest = 0
    var document = JSONDocument { piece in
      found += piece
      largest = max(largest, piece.count)
    }
    write(&document)
    document.finish()
    #expect(String(decoding: found, as: UTF8.self) == expected)
    #expect(largest < 1 << 17 && expected.utf8.count > 1 << 20)
  }
}
