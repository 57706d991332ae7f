import IngotErrors
import IngotRecipes
import Testing

/// Loads text that must fail; the error.
func loadError(_ text: [UInt8], limits: RecipeLimits = RecipeLimits(), _ location: SourceLocation = #_sourceLocation) -> IngotError? {
  do throws(IngotError) {
    _ = try Node.load(text, origin: "t.yml", limits: limits)
  } catch {
    return error
  }
  Issue.record("loaded", sourceLocation: location)
  return nil
}

/// A tree as JSON-like text with positions left out, for comparing.
private func plain(_ node: Node) -> String { yamlFlow(node) }

@Suite struct NodeTests {
  @Test func everyNodeKnowsItsPlace() throws {
    let text = "# a comment\nmodels:\n  - model: \"a b\"\n    parameters: {weight: 0.5,\n      density: [1, é, 3]}\nx: 'y'\n"
    let root = try Node.load(Array(text.utf8), origin: "dir/r.yml")
    let top = try #require(root.mapping)
    #expect(root.position.description == "dir/r.yml:2:1")
    #expect(top.entries.map(\.key) == ["models", "x"])
    #expect(top["x"]?.keyPosition.description == "dir/r.yml:6:1")
    #expect(top["x"]?.value.position.description == "dir/r.yml:6:4")
    let first = try #require(top["models"]?.value.sequence?.first)
    #expect(first.position.description == "dir/r.yml:3:5")
    let parameters = try #require(first.mapping?["parameters"]?.value)
    #expect(parameters.position.description == "dir/r.yml:4:17")
    let density = try #require(parameters.mapping?["density"]?.value.sequence)
    // Columns count characters, not bytes.
    #expect(density.map(\.position.column) == [17, 20, 23])
    #expect(density.map(\.position.line) == [5, 5, 5])
  }

  @Test func aByteOrderMarkDoesNotShiftColumns() throws {
    let root = try Node.load([0xEF, 0xBB, 0xBF] + Array("a: 1".utf8), origin: "t")
    #expect(root.mapping?["a"]?.value.position == SourcePosition(origin: "t", line: 1, column: 4))
  }

  @Test func windowsLineEndsCount() throws {
    let root = try Node.load(Array("a: 1\r\nb: 2\r\n".utf8), origin: "t")
    #expect(root.mapping?["b"]?.value.position == SourcePosition(origin: "t", line: 2, column: 4))
  }

  @Test func aliasesStandForTheirAnchorsAndKeepTheirPlace() throws {
    let root = try Node.load(Array("a: &x [1, 2]\nb: *x\nc: {d: *x}\n".utf8), origin: "t")
    #expect(plain(root) == "{a: [1, 2], b: [1, 2], c: {d: [1, 2]}}")
    #expect(root.mapping?["b"]?.value.position == SourcePosition(origin: "t", line: 1, column: 4))
  }

  /// Expected values from PyYAML's safe loader.
  @Test(arguments: [
    ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", ["x": "1", "y": "3"]),
    ("a: &a {x: 1, y: 2}\nb: {y: 3, <<: *a}", ["x": "1", "y": "3"]),
    ("a: &a {x: 1, y: 2}\nc: &c {x: 5, z: 6}\nb: {<<: [*a, *c]}", ["x": "1", "y": "2", "z": "6"]),
    ("a: &a {x: 1, y: 2}\nc: &c {x: 5, z: 6}\nb: {<<: *a, <<: *c}", ["x": "5", "y": "2", "z": "6"]),
    ("b: {<<: {x: 1}, y: 2}", ["x": "1", "y": "2"]),
    ("b: {\"<<\": 7, y: 2}", ["<<": "7", "y": "2"]),
    ("b: {<<: []}", [:]),
  ]) func mergeKeys(_ text: String, _ expected: [String: String]) throws {
    let root = try Node.load(Array(text.utf8), origin: "t")
    let merged = try #require(root.mapping?["b"]?.value.mapping)
    #expect(Dictionary(uniqueKeysWithValues: merged.entries.map { ($0.key, plain($0.value)) }) == expected)
  }

  /// PyYAML takes the last of several, in the place of the first; a merge key is no writing of its own.
  @Test(
    arguments: [
      ("a: 1\nb: 2\na: 3\n", ["a": "3", "b": "2"], [1]), ("{\"a\": 1, 'a': 3}", ["a": "3"], [2]),
      ("a: 1\na: 2\n<<: {a: 4, b: 5}\na: 3\n", ["a": "3", "b": "5"], [1, 1]), ("<<: {a: 1}\n<<: {a: 2}\n", ["a": "2"], []),
    ] as [(String, [String: String], [Int])])
  func theLastOfEqualKeysCounts(_ text: String, _ expected: [String: String], _ columns: [Int]) throws {
    let mapping = try #require(try Node.load(Array(text.utf8), origin: "t").mapping)
    #expect(Dictionary(uniqueKeysWithValues: mapping.entries.map { ($0.key, plain($0.value)) }) == expected)
    #expect(mapping.entries.flatMap(\.superseded).map(\.keyPosition.column) == columns)
  }

  @Test(arguments: [
    ("!!str 5", ScalarValue.string("5")), ("!!int \"3\"", .integer(3)), ("!!float 1", .float(1)), ("!!float 1e3", .float(1000)),
    ("!!bool 'yes'", .boolean(true)), ("!!null x", .null), ("! 5", .string("5")),
  ]) func coreTags(_ text: String, _ expected: ScalarValue) throws {
    #expect(try Node.load(Array("[\(text)]".utf8), origin: "t").sequence?.first?.scalar?.value == expected)
  }

  @Test func jsonIsRead() throws {
    let text =
      "{\n\t\"path\": \"a\\/b\\u00e9\\ud83d\\ude00\\n\",\n\t\"t\":[0,0.5,1e-3,-2.5E+1],\"b\":true,\"n\":null,\"s\":\"\\\\ud83d\\\\ude00\",\"e\":{},\"x\":\"\"\n}\n"
    let top = try #require(try Node.load(Array(text.utf8), origin: "t.json").mapping)
    #expect(top["path"]?.value.scalar?.text == "a/bé😀\n")
    #expect(top["t"]?.value.sequence?.compactMap { $0.scalar?.text } == ["0", "0.5", "1e-3", "-2.5E+1"])
    #expect(top["b"]?.value.scalar?.value == .boolean(true))
    #expect(top["n"]?.value.isNull == true)
    #expect(top["s"]?.value.scalar?.text == "\\ud83d\\ude00")
    #expect(top["e"]?.value.mapping?.entries.isEmpty == true)
    #expect(top["x"]?.value.scalar?.value == .string(""))
    #expect(top["t"]?.keyPosition == SourcePosition(origin: "t.json", line: 3, column: 2))
  }

  /// Text, start of the message, line, column.
  @Test(arguments: [
    ("", "the recipe is empty", 1, 1),
    ("# only a comment\n", "the recipe is empty", 1, 1),
    ("a: &x 1\nb: &x 2\n", "the anchor &x is given twice; the first is at line 1, column 4", 2, 4),
    ("a: *nothing\n", "the alias *nothing has no anchor before it", 1, 4),
    ("a: &x\n  - *x\n", "the alias *x stands inside its own anchor", 2, 5),
    ("a: &x {b: {c: *x}}\n", "the alias *x stands inside its own anchor", 1, 15),
    ("? [a]\n: 1\n", "found a list of 1 as a key, expected a text", 1, 3),
    ("a: {<<: 5}\n", "found the number 5, expected a mapping to merge with <<", 1, 9),
    ("a: {<<: [{b: 1}, 5]}\n", "found the number 5, expected a mapping to merge with <<", 1, 18),
    ("a: !!python/object:os.system x\n", "the tag tag:yaml.org,2002:python/object:os.system does not fit", 1, 4),
    ("a: !!set {b}\n", "the tag tag:yaml.org,2002:set does not fit", 1, 4),
    ("a: !!seq {b: 1}\n", "the tag tag:yaml.org,2002:seq does not fit", 1, 4),
    ("a: !thing 5\n", "the tag !thing does not fit", 1, 4),
    ("a: !!int x\n", "the text \"x\" does not fit its tag", 1, 4),
    ("a: b\n  c: d\n", "not valid YAML: mapping values are not allowed in this context", 2, 4),
    ("a:\n\tb: 1\n", "not valid YAML: found character that cannot start any token", 2, 1),
    ("a: @x\n", "not valid YAML: found character that cannot start any token", 1, 4),
    ("a: [1, 2\n", "not valid YAML: did not find expected ',' or ']'", 2, 1),
    ("a: \"x\n", "not valid YAML: found unexpected end of stream", 2, 1),
    ("{\"a\": \"\\ud83d\"}", "not valid YAML: found invalid Unicode character escape code", 1, 10),
    // libyaml calls the end of a text the start of the next line.
    ("{\"a\": 1", "not valid YAML: did not find expected ',' or '}'", 2, 1),
  ]) func malformedText(_ text: String, _ message: String, _ line: Int, _ column: Int) {
    let error = loadError(Array(text.utf8))
    #expect(error?.status == .recipe)
    #expect(error?.message.hasPrefix(message) == true, "\(error?.message ?? "")")
    #expect(error?.position == SourcePosition(origin: "t.yml", line: line, column: column))
  }

  @Test func severalDocumentsAreRefused() {
    let error = loadError(Array("a: 1\n---\nb: 2\n".utf8))
    #expect(error?.status == .unsupported)
    #expect(error?.position == SourcePosition(origin: "t.yml", line: 3, column: 1))
    #expect(throws: Never.self) { try Node.load(Array("---\na: 1\n...\n".utf8), origin: "t") }
  }
}

@Suite struct HostileTextTests {
  @Test(arguments: [
    ([UInt8]("a: b\nc: ".utf8) + [0xFF, 0x41], "byte 8 is not UTF-8", 2, 4),
    ([UInt8]("é".utf8) + [0xC3], "byte 2 is not UTF-8", 1, 2),
    ([0xED, 0xA0, 0x80], "byte 0 is not UTF-8", 1, 1),
    ([0xFF, 0xFE, 0x61, 0x00], "byte 0 is not UTF-8", 1, 1),
    ([UInt8]("a: b\nc: x".utf8) + [0, 0x41], "not valid YAML: control characters are not allowed (character code 0)", 2, 5),
    ([UInt8]("é: ".utf8) + [0x1B], "not valid YAML: control characters are not allowed (character code 27)", 1, 4),
    ([0], "not valid YAML: control characters are not allowed", 1, 1),
  ]) func bytesThatAreNoText(_ text: [UInt8], _ message: String, _ line: Int, _ column: Int) {
    let error = loadError(text)
    #expect(error?.status == .recipe)
    #expect(error?.message.hasPrefix(message) == true, "\(error?.message ?? "")")
    #expect(error?.position == SourcePosition(origin: "t.yml", line: line, column: column))
  }

  /// Ten levels of ten aliases each: 10^10 values.
  @Test func billionLaughs() {
    var text = "a0: &a0 [lol]\n"
    for level in 1...10 {
      text += "a\(level): &a\(level) [" + Array(repeating: "*a\(level - 1)", count: 10).joined(separator: ", ") + "]\n"
    }
    let error = loadError(Array(text.utf8))
    #expect(error?.message.hasPrefix("more than 250000 values") == true)
    #expect(error?.position?.line == 7)
  }

  @Test func aliasesDoNotEvadeTheNestingLimit() {
    var text = "a0: &a0 [1]\n"
    for level in 1...80 { text += "a\(level): &a\(level) [*a\(level - 1)]\n" }
    #expect(loadError(Array(text.utf8))?.message.hasPrefix("lists and mappings more than 64 levels deep") == true)
  }

  @Test(arguments: ["[", "{a: ", "- ", "? ", "a:\n", "!!seq [", "&a ["]) func deepNesting(_ opening: String) {
    var text = ""
    for level in 0..<20_000 {
      text += opening == "a:\n" ? String(repeating: " ", count: min(level, 150)) + opening : opening
      if text.utf8.count > 60_000 { break }
    }
    let error = loadError(Array(text.utf8))
    #expect(error?.status == .recipe)
    #expect(error?.position != nil)
  }

  @Test func nestingUpToTheLimitIsRead() throws {
    func nested(_ depth: Int) -> [UInt8] { Array((String(repeating: "[", count: depth) + String(repeating: "]", count: depth)).utf8) }
    #expect(throws: Never.self) { try Node.load(nested(64), origin: "t") }
    #expect(loadError(nested(65))?.position?.column == 65)
  }

  @Test func limitsOfSizeAndCount() throws {
    var limits = RecipeLimits()
    limits.nodes = 4
    #expect(throws: Never.self) { try Node.load(Array("[1, 2, 3]".utf8), origin: "t", limits: limits) }
    #expect(loadError(Array("[1, 2, 3, 4]".utf8), limits: limits)?.position?.column == 11)
    limits.bytes = 9
    #expect(throws: Never.self) { try Node.load(Array("[1, 2, 3]".utf8), origin: "t", limits: limits) }
    #expect(loadError(Array("[1, 2,  3]".utf8), limits: limits)?.message == "the text has 10 bytes, at most 9 are read")
    #expect(loadError([UInt8](repeating: 0x61, count: 4 << 20 | 1))?.status == .recipe)
  }

  @Test func aHugeScalarIsReadAndCutInMessages() throws {
    let long = String(repeating: "x", count: 1 << 20)
    let root = try Node.load(Array(long.utf8), origin: "t")
    #expect(root.scalar?.text.utf8.count == 1 << 20)
    #expect(root.found.count < 100)
    let error = loadError(Array("{\"\(long)\": [*b]}".utf8))
    #expect((error?.message.count ?? .max) < 200)
  }

  @Test func controlCharactersDoNotReachMessages() throws {
    let root = try Node.load(Array("\"\\e[31mred\\u202e\\0\"".utf8), origin: "t")
    #expect(root.scalar?.text == "\u{1B}[31mred\u{202E}\0")
    #expect(root.found.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.isASCII })
  }

  @Test func manyDirectivesAreRefused() {
    var text = ""
    for number in 0..<100_000 { text += "%TAG !e\(number)! tag:\n" }
    let error = loadError(Array((text + "---\na: 1\n").utf8))
    #expect(error?.message == "more than 64 lines begin with %")
    #expect(error?.position?.line == 65)
  }

  /// Every prefix and many one-byte changes of a valid text either load or throw; nothing crashes.
  @Test func mutationsNeverCrash() {
    let seed = Array(
      "a: &x [1, 0x1f, -1:30.5, 'q', \"\\u00e9\\n\", ~]\nb: {<<: {k: *x}, c: !!str 5, é: |\n  text\n  more\n}\nd:\n  - e: *x\n  - [.inf, {f: 1}]\n"
        .utf8)
    var outcomes = [true: 0, false: 0]
    func attempt(_ text: [UInt8]) {
      let isRead = (try? Node.load(text, origin: "t")) != nil
      outcomes[isRead, default: 0] += 1
    }
    for length in 0...seed.count { attempt(Array(seed.prefix(length))) }
    let replacements: [UInt8] = [
      0, 9, 10, 13, 0x20, 0x21, 0x22, 0x25, 0x26, 0x27, 0x2A, 0x2C, 0x2D, 0x3A, 0x3E, 0x3F, 0x5B, 0x5D, 0x7B, 0x7C, 0x7D, 0x80, 0xC3, 0xFF,
    ]
    for at in seed.indices {
      for byte in replacements {
        var text = seed
        text[at] = byte
        attempt(text)
      }
    }
    #expect(outcomes[true, default: 0] > 0 && outcomes[false, default: 0] > 0)
  }
}
