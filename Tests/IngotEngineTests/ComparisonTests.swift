import IngotEngine
import IngotErrors
import IngotJSON
import IngotTensors
import Synchronization
import Testing

/// `Engine.compare` against its definition in f64.
@Suite struct EngineComparisonTests {
  static func provided(_ scratch: Scratch, _ name: String) throws -> ProvidedModel {
    try LocalModels(environment: [:]).open(path: scratch(name), isDirectory: true)
  }

  static func random(_ name: String, _ dtype: DType, _ shape: [Int], seed: UInt64) -> TestTensor {
    var source = SplitMix(seed)
    return TestTensor(name, dtype, shape, (0..<shape.reduce(1, *)).map { _ in source.normal() * 0.02 })
  }

  /// A tensor of more than one item, small ones of every floating type, mixed types, an integer one, an empty one.
  static func models(_ seed: UInt64) -> [TestTensor] {
    [
      random("big", .bf16, [1500, 1001], seed: seed),
      random("f32", .f32, [70_003], seed: seed + 1),
      random("f16", .f16, [37], seed: seed + 2),
      random("mixed", seed % 2 == 0 ? .f32 : .bf16, [5001], seed: seed + 3),
      random("f64", .f64, [17], seed: seed + 4),
      TestTensor("empty", .f32, [0, 4]),
      TestTensor("integer", .i64, [3], [1, 2, Double(seed)]),
      random("scalar", .f32, [], seed: seed + 5),
    ]
  }

  @Test func figuresAreTheirDefinition() throws {
    let scratch = try Scratch()
    let (x, y, z) = (Self.models(10), Self.models(21), Self.models(30))
    try scratch.model("a", x, shards: 2)
    try scratch.model("b", y)
    try scratch.model("c", z)
    let found = try Engine().compare(
      Self.provided(scratch, "a"), Self.provided(scratch, "b"), base: Self.provided(scratch, "c"))
    #expect(found.tensors.count == x.count && !found.isEqual)
    for (a, (b, c)) in zip(x, zip(y, z)) {
      let tensor = try #require(found.tensors.first { $0.name == a.name })
      #expect(tensor.isEqual == (a.dtype == b.dtype && a.hasBytes(of: b)), "\(a.name)")
      if a.dtype == .i64 {
        #expect(tensor.values == nil && tensor.differing == 1)
        continue
      }
      // F64 is compared as f32.
      let values = zip(zip(a.values, b.values), c.values).map { (Double(Float($0.0)), Double(Float($0.1)), Double(Float($1))) }
      func sum(_ of: ((Double, Double, Double)) -> Double) -> Double { values.reduce(0) { $0 + of($1) } }
      let (aa, bb) = (sum { $0.0 * $0.0 }.squareRoot(), sum { $0.1 * $0.1 }.squareRoot())
      let result = try #require(tensor.values)
      #expect(result.largest == (values.map { abs($0.0 - $0.1) }.max() ?? 0))
      close(result.rms, (sum { ($0.0 - $0.1) * ($0.0 - $0.1) } / Double(max(values.count, 1))).squareRoot())
      close(result.normA, aa)
      close(result.normB, bb)
      if aa > 0 { close(try #require(result.cosine), sum { $0.0 * $0.1 } / (aa * bb), 1e-9) } else { #expect(result.cosine == nil) }
      let vectors = try #require(tensor.taskVectors)
      let opposite = values.count {
        Float($0.0) - Float($0.2) > 0 && Float($0.1) - Float($0.2) < 0 || Float($0.0) - Float($0.2) < 0 && Float($0.1) - Float($0.2) > 0
      }
      #expect(vectors.signs.opposite == opposite, "\(a.name)")
      #expect(vectors.signs.both <= values.count && vectors.signs.both >= opposite)
      // Subtracted in f32.
      close(vectors.normA, sum { Double(Float($0.0) - Float($0.2)) * Double(Float($0.0) - Float($0.2)) }.squareRoot())
    }
  }

  private func close(_ found: Double, _ expected: Double, _ tolerance: Double = 1e-12, _ at: SourceLocation = #_sourceLocation) {
    #expect(abs(found - expected) <= tolerance * max(abs(expected), 1e-300), "\(found), expected \(expected)", sourceLocation: at)
  }

  @Test func distancesAreInTheCoarserType() throws {
    let scratch = try Scratch()
    let one = TestTensor("w", .f32, [4], [1, 1.00390625, 2, 0])
    let rounded = TestTensor("w", .bf16, [4], [1, 1, 2, 0])
    try scratch.model("a", [one])
    try scratch.model("b", [rounded])
    let tensor = try #require(try Engine().compare(Self.provided(scratch, "a"), Self.provided(scratch, "b")).tensors.first)
    // 1 + 2^-8 is half way between two bf16 values and goes to the even one, 1: the rounded model differs nowhere.
    #expect(tensor.differing == 0 && tensor.values?.ulps == 0 && tensor.values?.unit == .bf16)
    #expect(tensor.values?.largest == 0.00390625 && !tensor.isEqual)
    try scratch.model("c", [TestTensor("w", .bf16, [4], [1.015625, -1, 2, 0])])
    let other = try #require(try Engine().compare(Self.provided(scratch, "b"), Self.provided(scratch, "c")).tensors.first)
    #expect(other.differing == 2 && other.values?.ulps == UInt64(2 * 0x3f80))
  }

  @Test func nonfiniteValuesAreCountedApart() throws {
    let scratch = try Scratch()
    try scratch.model("a", [TestTensor("w", .f32, [4], [1, .nan, .infinity, 2])])
    try scratch.model("b", [TestTensor("w", .f32, [4], [1, 5, 3, 2.5])])
    let tensor = try #require(try Engine().compare(Self.provided(scratch, "a"), Self.provided(scratch, "b")).tensors.first)
    #expect(tensor.values?.nonfiniteA == 2 && tensor.values?.nonfiniteB == 0)
    #expect(tensor.values?.largest == 0.5 && tensor.differing == 3)
  }

  @Test func figuresDependOnNothingElse() throws {
    let scratch = try Scratch()
    for (name, seed) in [("a", 10), ("b", 21), ("c", 30)] as [(String, UInt64)] { try scratch.model(name, Self.models(seed)) }
    var expected: String?
    for set in InstructionSet.available {
      for threads in [1, 2, 5] {
        var options = EngineOptions()
        options.threads = threads
        options.instructionSet = set.name
        options.memoryBudget = threads == 2 ? 1 << 20 : 64 << 20
        let calls = set.callCount
        let found = try Engine(options).compare(
          Self.provided(scratch, "a"), Self.provided(scratch, "b"), base: Self.provided(scratch, "c"))
        #expect(set.callCount > calls)
        if let expected { #expect(found.json() == expected, "\(set), \(threads) threads") } else { expected = found.json() }
      }
    }
  }

  @Test func modelsThatDifferInTensors() throws {
    let scratch = try Scratch()
    try scratch.model(
      "a",
      [
        TestTensor("both", .f32, [2], [1, 2]), TestTensor("shape", .f32, [2]), TestTensor("one", .bf16, [2]), TestTensor("type", .i64, [2]),
      ])
    try scratch.model(
      "b",
      [
        TestTensor("both", .f32, [2], [1, 2]), TestTensor("shape", .f32, [3]), TestTensor("other", .f32, [1]),
        TestTensor("type", .f32, [2]),
      ])
    let found = try Engine().compare(Self.provided(scratch, "a"), Self.provided(scratch, "b"))
    #expect(found.onlyA.map(\.name) == ["one"] && found.onlyB.map(\.name) == ["other"])
    #expect(found.sorted(by: .name).map(\.name) == ["shape", "type", "both"])
    for name in ["shape", "type"] {
      let tensor = try #require(found.tensors.first { $0.name == name })
      #expect(!tensor.isEqual && tensor.values == nil && tensor.differing == nil)
    }
    #expect(found.tensors.first { $0.name == "both" }?.isEqual == true)
  }

  @Test func aModelEqualsItself() throws {
    let scratch = try Scratch()
    try scratch.model("a", Self.models(3), config: languageConfig(layers: 2), shards: 3)
    try scratch.model("b", Self.models(3), config: languageConfig(layers: 2))
    let found = try Engine().compare(Self.provided(scratch, "a"), Self.provided(scratch, "b"))
    #expect(found.isEqual && found.tensors.allSatisfy { $0.differing == 0 })
    #expect(found.totals.equal == found.tensors.count && found.totals.rms == 0)
  }

  @Test func cancels() throws {
    let scratch = try Scratch()
    try scratch.model("a", Self.models(3))
    let watcher = unsafe Watcher(listener: { _ in 7 }, unsafe: nil, intervalMilliseconds: 1)
    let error = #expect(throws: IngotError.self) {
      try Engine().compare(Self.provided(scratch, "a"), Self.provided(scratch, "a"), watcher: watcher)
    }
    #expect(error?.status == .cancelled && error?.userCode == 7)
  }

  @Test func truncatedFilesAreErrors() throws {
    let scratch = try Scratch()
    try scratch.model("a", Self.models(3))
    try scratch.model("b", Self.models(4))
    let (a, b) = (try Self.provided(scratch, "a"), try Self.provided(scratch, "b"))
    try scratch.write("b/model.safetensors", [1, 2, 3])
    let error = #expect(throws: IngotError.self) { try Engine().compare(a, b) }
    #expect(error?.status == .io || error?.status == .stale)
  }

  /// A quantised model and what it was made from are compared by value; two quantised ones as they are stored.
  @Test func quantisedModels() throws {
    let scratch = try Scratch()
    let config = #"{"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}"#
    let weight = TestTensor("m.weight", .f8E4M3, [2, 2])
    // 1, 2, -1, 0 of E4M3.
    for (index, bits) in [0x38, 0x40, 0xb8, 0x00].enumerated() {
      unsafe weight.bytes.storeBytes(of: UInt8(bits), toByteOffset: index, as: UInt8.self)
    }
    for (name, scale) in [("quantised", 0.5), ("rescaled", 0.25)] {
      try scratch.model(name, [weight, TestTensor("m.weight_scale_inv", .f32, [1, 1], [scale])], config: config)
    }
    try scratch.model("plain", [TestTensor("m.weight", .bf16, [2, 2], [0.5, 1, -0.5, 0.25])], config: "{}")
    let found = try Engine().compare(Self.provided(scratch, "plain"), Self.provided(scratch, "quantised"))
    let tensor = try #require(found.tensors.first)
    #expect(found.tensors.count == 1 && found.onlyA.isEmpty && found.onlyB.isEmpty)
    #expect(tensor.values?.largest == 0.25 && tensor.differing == 1)
    let stored = try Engine().compare(Self.provided(scratch, "quantised"), Self.provided(scratch, "rescaled"))
    #expect(stored.tensors.map(\.isEqual).sorted { $0 && !$1 } == [true, false])
    #expect(stored.tensors.first { $0.name == "m.weight_scale_inv" }?.values?.largest == 0.25)
  }

  // MARK: - Files

  private func files(_ a: [String: String], _ b: [String: String], only: Bool = false) throws -> [FileDifference] {
    let scratch = try Scratch()
    try scratch.model("a", [TestTensor("w", .f32, [1])], extra: a)
    try scratch.model("b", [TestTensor("w", .f32, [1])], extra: b)
    var options = Comparison.Options()
    options.tensorsOnly = only
    return try Engine().compare(Self.provided(scratch, "a"), Self.provided(scratch, "b"), options: options).files
  }

  @Test func configurationKeys() throws {
    let found = try files(
      ["config.json": #"{"a": 1, "n": {"x": [1, 2], "y": 0.1}, "old": true}"#, "README.md": "A"],
      ["config.json": #"{"n": {"y": 0.1, "x": [1, 3]}, "a": 1, "new": null}"#, "README.md": "B"])
    #expect(found.map(\.name) == ["config.json"] && found.first?.kind == .changed)
    #expect(
      found.first?.changes == [
        .init(key: "n.x", a: "[1,2]", b: "[1,3]"), .init(key: "old", a: "true", b: nil), .init(key: "new", a: nil, b: "null"),
      ])
  }

  @Test func orderOfKeysIsNoDifference() throws {
    #expect(try files(["config.json": #"{"a": 1, "b": 2}"#], ["config.json": #"{"b":2,"a":1}"#]).isEmpty)
  }

  @Test func tokenizersAndTemplates() throws {
    let found = try files(
      ["tokenizer.json": #"{"model": {"vocab": {"a": 0, "b": 1, "c": 2}}}"#, "chat_template.jinja": "x", "merges.txt": "m"],
      ["tokenizer.json": #"{"model": {"vocab": {"a": 0, "c": 1, "d": 2}}}"#, "chat_template.jinja": "y", "vocab.json": "{}"])
    #expect(found.map(\.name) == ["chat_template.jinja", "merges.txt", "tokenizer.json", "vocab.json"])
    #expect(found.map(\.kind) == [.changed, .onlyA, .changed, .onlyB])
    #expect(
      found[2].changes == [
        .init(
          key: "model.vocab", a: #"3 tokens, 1 of its own ("b"), 1 with another number"#,
          b: #"3 tokens, 1 of its own ("d"), 1 with another number"#)
      ])
  }

  @Test func brokenFilesAreComparedByteByByte() throws {
    let found = try files(["config.json": "{}", "tokenizer_config.json": "{"], ["config.json": "{}", "tokenizer_config.json": "["])
    #expect(found == [FileDifference(name: "tokenizer_config.json", kind: .changed, changes: [])])
    #expect(try files(["tokenizer_config.json": "{"], ["tokenizer_config.json": "["], only: true).isEmpty)
  }
}
