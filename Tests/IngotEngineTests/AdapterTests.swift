import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotJSON
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

/// The files of an adapter that exist only in memory.
struct AdapterFiles: ModelFiles {
  let displayPath = "lora"
  let config: [UInt8]
  func fileNames() throws(IngotError) -> [String] { [Adapter.configName] }
  func size(of name: String) throws(IngotError) -> UInt64? { name == Adapter.configName ? UInt64(config.count) : nil }
  func read(_ name: String, offset: UInt64, count: Int) throws(IngotError) -> [UInt8] { config }
  func modificationTime(of name: String) -> Int64 { 0 }
}

private func applied(_ base: ProvidedModel, _ adapter: ProvidedModel, _ config: String) throws -> ProvidedModel {
  try base.applying(adapter, files: AdapterFiles(config: Array(config.utf8)), name: "org/base")
}

/// A model of f32 tensors that follow each other, of small numbers.
private func filled(_ tensors: [(String, [Int])]) throws -> ProvidedModel {
  var bytes: [UInt8] = []
  var described: [CheckpointTensor] = []
  for (name, shape) in tensors {
    let count = shape.reduce(1, *)
    described.append(
      CheckpointTensor(name: name, dtype: .f32, shape: Shape(shape), shard: 0, fileOffset: UInt64(bytes.count), byteCount: 4 * count))
    for index in 0..<count { bytes += word(Float(index * 7 % 23 - 11) / 16) }
  }
  return try model(bytes, described)
}

private func word(_ value: Float) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value.bitPattern >> (8 * UInt32($0))) } }

@Suite("Adapters")
struct AdapterTests {
  static let config = #"{"peft_type": "LORA", "r": 3, "lora_alpha": 6, "base_model_name_or_path": "org/base""#

  static func pair(_ module: String, outputs: Int, inputs: Int, magnitude: Bool = false) -> [(String, [Int])] {
    let name = "base_model.model.\(module)"
    let both = [("\(name).lora_A.weight", [3, inputs]), ("\(name).lora_B.weight", [outputs, 3])]
    return both + (magnitude ? [("\(name).lora_magnitude_vector", [outputs])] : [])
  }

  @Test("any ranges give what the whole gives", arguments: [false, true], [false, true])
  func ranges(_ isTurned: Bool, _ usesDora: Bool) throws {
    for (rows, columns) in [(40, 2100), (3, 70_000), (3000, 5)] {
      let base = try filled([("m.weight", [rows, columns]), ("other", [4])])
      let adapter = try filled(
        Self.pair("m", outputs: isTurned ? columns : rows, inputs: isTurned ? rows : columns, magnitude: usesDora))
      let result = try applied(base, adapter, Self.config + ", \"fan_in_fan_out\": \(isTurned), \"use_dora\": \(usesDora)}")
      let tensor = try #require(result.checkpoint["m.weight"])
      #expect(tensor.dtype == .f32 && result.checkpoint["other"]?.shard == 0)
      try result.checkRanges("m.weight", width: 4, seed: 8)
      #expect(try result.bytes("m.weight") != base.bytes("m.weight"))
    }
  }

  @Test("the values, by the definition")
  func values() throws {
    let base = try filled([("m.weight", [5, 7])])
    let adapter = try filled(Self.pair("m", outputs: 5, inputs: 7))
    let result = try applied(base, adapter, Self.config + "}")
    func value(_ index: Int) -> Float { Float(index * 7 % 23 - 11) / 16 }
    let found = try result.bytes("m.weight")
    for row in 0..<5 {
      for column in 0..<7 {
        // Small multiples of 1/256: every sum is exact.
        let sum = (0..<3).reduce(Float(0)) { $0 + value(row * 3 + $1) * value($1 * 7 + column) }
        let place = (row * 7 + column) * 4
        #expect(Array(found[place..<place + 4]) == word(value(row * 7 + column) + 2 * sum))
      }
    }
  }

  @Test("another base's name is a warning, what decides the values is in the identity of the sources")
  func identity() throws {
    let base = try filled([("m.weight", [5, 7])])
    let adapter = try filled(Self.pair("m", outputs: 5, inputs: 7))
    func open(_ more: String) throws -> Checkpoint { try applied(base, adapter, Self.config + more + "}").checkpoint }
    let plain = try open("")
    #expect(!plain.notices.contains { $0.severity == .warning })
    #expect(plain.shards.map(\.name) == ["m.bin", "m/m.bin", "with the adapter applied"])
    #expect(try open("").shards == plain.shards)
    #expect(try open(#", "use_rslora": true"#).shards != plain.shards)
    let other = try applied(base, adapter, Self.config.replacing("org/base", with: "other/thing") + "}")
    #expect(other.checkpoint.notices.contains { $0.severity == .warning && $0.message.contains("other/thing") })
  }

  @Test("a run that resumes sees that the adapter changed")
  func resume() throws {
    let scratch = try Scratch()
    try scratch.model("base", [TestTensor("m.weight", .f32, [5, 7]), TestTensor("n.weight", .f32, [3])])
    try scratch.model("lora", Self.pair("m", outputs: 5, inputs: 7).map { TestTensor($0.0, .f32, $0.1, [1, 2, 3]) })
    try scratch.write("lora/adapter_model.safetensors", try #require(scratch.read("lora/model.safetensors")))
    try scratch.write("lora/adapter_config.json", (Self.config + "}").utf8)
    let recipe = "merge_method: passthrough\nmodels: [{model: @base+@lora}]\n"
    let first = try scratch.plan(recipe)
    #expect(try scratch.plan(recipe).sourceDigest == first.sourceDigest)
    try scratch.write("lora/adapter_config.json", (Self.config.replacing("6", with: "7") + "}").utf8)
    let second = try scratch.plan(recipe)
    #expect(second.sourceDigest != first.sourceDigest && second.digest == first.digest)
    #expect(second.models.first?.adapters.map(\.path) == [scratch("lora")])
  }

  /// Two adapters are added one after the other, any range gives what the whole gives, and their order is part of what identifies the sources.
  @Test func chains() throws {
    let base = try filled([("m.weight", [5, 7]), ("n.weight", [5, 7])])
    let first = try filled(Self.pair("m", outputs: 5, inputs: 7))
    let second = try filled(Self.pair("m", outputs: 5, inputs: 7) + Self.pair("n", outputs: 5, inputs: 7))
    let once = try applied(base, first, Self.config + "}")
    let twice = try applied(once, second, Self.config + #", "use_rslora": true}"#)
    let plain = try applied(base, second, Self.config + #", "use_rslora": true}"#)
    for index in 0..<35 {
      let sum = try once.floats("m.weight")[index] + (plain.floats("m.weight")[index] - base.floats("m.weight")[index])
      #expect(abs(try twice.floats("m.weight")[index] - sum) <= 2e-6)
    }
    #expect(try twice.bytes("n.weight") == plain.bytes("n.weight") && twice.bytes("m.weight") != once.bytes("m.weight"))
    try twice.checkRanges("m.weight", width: 4, seed: 3)
    #expect(twice.adapters.count == 2 && twice.checkpoint.shards.count == 5)
    let other = try applied(try applied(base, second, Self.config + #", "use_rslora": true}"#), first, Self.config + "}")
    #expect(other.checkpoint.shards != twice.checkpoint.shards)
  }

  /// BASE+LORA+PACK#TASK and BASE+PACK#TASK+LORA of files, against the merges of which they consist; what belongs to another base stays refused.
  @Test func chainsWithPacks() throws {
    let scratch = try Scratch()
    func write(_ name: String, _ seed: Int) throws {
      try scratch.model(name, [TestTensor("m.weight", .f32, [5, 7], (0..<35).map { Double(($0 * seed) % 17) / 8 })], config: "{}")
    }
    try write("base", 3)
    try write("tuned", 5)
    try write("other", 7)
    try scratch.model("factors", Self.pair("m", outputs: 5, inputs: 7).map { TestTensor($0.0, .f32, $0.1, [1, 2, 3]) })
    try scratch.write("lora/adapter_model.safetensors", try #require(scratch.read("factors/model.safetensors")))
    try scratch.write("lora/adapter_config.json", (Self.config + "}").utf8)
    try scratch.pack("tall", ["tuned", "other"])
    func merge(_ model: String, to name: String) throws {
      try scratch.merge("{merge_method: passthrough, dtype: float32, models: [{model: \(model)}]}", to: name)
    }
    try merge("'@base+@PACK#1'", to: "unpacked")
    try merge("'@unpacked+@lora'", to: "in-two-steps")
    try merge("'@base+@PACK#1+@lora'", to: "chained")
    try merge("{model: '@base', lora: [{path: '@PACK', task: other}, '@lora']}", to: "listed")
    let values = try ["in-two-steps", "chained", "listed", "unpacked"].map { try scratch.tensors($0)["m.weight"]?.values }
    #expect(values[0] == values[1] && values[1] == values[2] && values[2] != values[3])
    #expect(try Engine().reproduce(scratch("chained")).differences.isEmpty)
    let record = try JSON.parse(try #require(scratch.text("chained/ingot.json")), origin: "record")
    let adapters = record["models"]?.asArray?.first?["adapters"]?.asArray
    #expect(adapters?.map { $0["path"]?.asString } == [scratch("PACK"), scratch("lora")])
    #expect(adapters?.map { $0["task"]?.asString } == ["other", nil])
    let card = try #require(scratch.text("chained/README.md"))
    #expect(card.contains("- base  # a local") && card.contains("- PACK  # a local") && card.contains("- lora  # a local"))
    // A pack of the adapted base, and the base that it was not made with.
    let plan = try PackPlan.make(
      method: "tall", base: scratch("base") + "+" + scratch("lora"), models: [scratch("tuned"), scratch("other")], parameters: [],
      provider: LocalModels(environment: [:]))
    _ = try Engine().pack(plan, to: scratch("PACK2"))
    try merge("'@base+@lora+@PACK2#0'", to: "last")
    for (model, words) in [("@base+@PACK2#0", "another one"), ("@base+@lora+@PACK#0", "another one")] {
      let error = try #require(throws: IngotError.self) { try merge("'\(model)'", to: "never") }
      #expect(error.status == .shape && error.message.contains(words) && error.position?.line == 1, "\(error)")
    }
    try scratch.model("narrow", Self.pair("m", outputs: 5, inputs: 6).map { TestTensor($0.0, .f32, $0.1, [1]) })
    try scratch.write("narrow/adapter_model.safetensors", try #require(scratch.read("narrow/model.safetensors")))
    try scratch.remove("narrow/model.safetensors")
    try scratch.write("narrow/adapter_config.json", (Self.config + "}").utf8)
    let error = try #require(throws: IngotError.self) { try merge("'@base+@lora+@narrow'", to: "never") }
    #expect(error.status == .shape && error.hint?.contains("trained on") == true)
    #expect(!scratch.exists("never"))
  }

  /// Names, shapes and settings at random: either an error or tensors that can be read.
  @Test func hostileAdapters() throws {
    var random = SplitMix(7)
    let base = try filled([("m.weight", [6, 4]), ("m.bias", [6]), ("e.weight", [4, 6]), ("n.weight", [6])])
    let names = [
      "m.lora_A.weight", "m.lora_B.weight", "m.lora_A.default.weight", "m.lora_B.bias", "m.lora_magnitude_vector", "e.lora_embedding_A",
      "e.lora_embedding_B", "n.weight", "n.modules_to_save.default.weight", "m.base_layer.weight", "lora_A", "", ".", "modules_to_save",
      "m.bias", "x.lora_A.weight",
    ]
    let settings = [
      "", #", "use_dora": true"#, #", "fan_in_fan_out": true"#, #", "rank_pattern": {"m": 2}"#, #", "rank_pattern": {"": 3, "\\": 1}"#,
      #", "alpha_pattern": {"m": 1e308}, "rank_pattern": {"^m$": 9223372036854775807}"#, #", "r": 0"#, #", "lora_alpha": "x""#,
      #", "rank_pattern": 3"#,
    ]
    var count = 0
    for _ in 0..<10_000 {
      var tensors: [(String, [Int])] = []
      for name in names where Int.random(in: 0..<4, using: &random) == 0 {
        let shapes = [[3, 4], [6, 3], [3, 6], [4, 3], [6], [4, 6], [6, 4], [0, 4], [3], [], [2, 3, 1]]
        tensors.append(("base_model.model." + name, shapes.randomElement(using: &random) ?? []))
      }
      if Bool.random(using: &random) {
        let pair = Self.pair("m", outputs: 6, inputs: 4, magnitude: Bool.random(using: &random))
        let extra = tensors.suffix(Int.random(in: 0...1, using: &random))
        tensors = pair + extra.filter { one in !pair.contains { $0.0 == one.0 } }
      }
      let config = Self.config + (settings.randomElement(using: &random) ?? "") + "}"
      guard let adapter = try? filled(tensors), let result = try? applied(base, adapter, config) else { continue }
      for tensor in result.checkpoint.tensors { #expect(try result.bytes(tensor.name).count == tensor.byteCount) }
      count += 1
    }
    #expect(count > 100)
  }
}
