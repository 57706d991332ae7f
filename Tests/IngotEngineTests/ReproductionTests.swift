import Foundation
import IngotEngine
import IngotErrors
import IngotJSON
import IngotRecipes
import IngotTensors
import Testing

/// A merged directory says enough to compute it again.
@Suite struct ReproductionTests {
  static let recipe = """
    merge_method: dare_ties
    base_model: "@base"
    models:
      - model: "@a"
        parameters: {weight: 0.5, density: 0.6}
      - model: "@b"
        parameters: {weight: 0.5, density: [0.2, 0.9]}
    seed: 7
    """

  private func merged(_ scratch: Scratch, _ recipe: String = Self.recipe) throws {
    for (name, value) in [("base", 0.25), ("a", 0.5), ("b", -0.75)] {
      let tensors = languageModel(layers: 2, value: value)
      for tensor in tensors { for index in 0..<tensor.count { tensor.set(index, value * Double(index % 13) / 13) } }
      try scratch.model(name, tensors, config: languageConfig(layers: 2))
    }
    try scratch.merge(recipe)
  }

  @Test func givesTheSameAgain() throws {
    let scratch = try Scratch()
    try merged(scratch)
    let before = scratch.files("OUT")
    let found = try Engine().reproduce(scratch("OUT"))
    #expect(found.differences.isEmpty && found.tensors == 7 && found.bytes > 0)
    try found.requireSame()
    #expect(try JSON.parse(found.json(), origin: "reproduce")["reproduced"]?.asBool == true)
    #expect(scratch.files("OUT") == before && !scratch.exists("OUT.partial"))
  }

  /// The plan's seed wins over the recipe's: the record has the one that was used.
  @Test func usesTheSeedThatWasUsed() throws {
    let scratch = try Scratch()
    try merged(scratch)
    let text = try #require(scratch.text("OUT/ingot.json"))
    try scratch.write("OUT/ingot.json", text.replacing("\"seed\": \"7\"", with: "\"seed\": \"8\"").utf8)
    let found = try Engine().reproduce(scratch("OUT"))
    #expect(!found.differences.isEmpty)
    let error = #expect(throws: IngotError.self) { try found.requireSame() }
    #expect(error?.status == .stale && error?.subject == found.differences.first?.tensor)
  }

  /// What the command line said beside the recipe is in the record too.
  @Test func usesTheRoundingAndTheRuleForAbsentTensors() throws {
    let scratch = try Scratch()
    try merged(scratch)
    var options = PlanOptions()
    options.numerics = .stepwise
    options.missing = .union
    let recipe =
      "{merge_method: linear, dtype: bfloat16, models: [{model: \(scratch("a")), parameters: {weight: 1}}, {model: \(scratch("b")), parameters: {weight: 2}}]}"
    let plan = try Plan.make(try Recipe(recipe), options: options, models: LocalModels(environment: [:]))
    _ = try Engine().merge(plan, to: scratch("STEPS"), options: .quick)
    #expect(try Engine().reproduce(scratch("STEPS")).differences.isEmpty)
    options.numerics = .once
    let other = try Plan.make(try Recipe(recipe), options: options, models: LocalModels(environment: [:]))
    #expect(other.digest != plan.digest)
  }

  @Test func findsTheModelsOfEarlierDocuments() throws {
    let scratch = try Scratch()
    try merged(scratch)
    let recipe = """
      name: first
      merge_method: linear
      models: [{model: "@a", parameters: {weight: 1}}, {model: "@b", parameters: {weight: 1}}]
      ---
      merge_method: slerp
      base_model: first
      models: [{model: first}, {model: "@base"}]
      parameters: {t: 0.3}
      """
    try scratch.merge(recipe, to: "GRAPH")
    let found = try Engine().reproduce(scratch("GRAPH"))
    #expect(found.differences.isEmpty && found.tensors == 7)
  }

  @Test func findsChangedWeights() throws {
    let scratch = try Scratch()
    try merged(scratch)
    var bytes = try #require(scratch.read("a/model.safetensors"))
    bytes[bytes.count - 1] ^= 0x40
    try scratch.write("a/model.safetensors", bytes)
    let found = try Engine().reproduce(scratch("OUT"))
    #expect(found.differences.count == 1)
    #expect(found.notices.contains { $0.message.contains("written again since the merge") })
  }

  @Test func namesASourceThatIsGone() throws {
    let scratch = try Scratch()
    try merged(scratch)
    try scratch.write("elsewhere/x", [])
    try scratch.remove("elsewhere")
    try moveDirectory(scratch("a"), to: scratch("elsewhere"))
    let error = #expect(throws: IngotError.self) { try Engine().reproduce(scratch("OUT")) }
    #expect(error?.status == .notFound && error?.subject == scratch("a"))
    #expect(error?.message.contains("is not at") == true)
    let found = try Engine().reproduce(scratch("OUT"), places: [scratch("a"): scratch("elsewhere")])
    #expect(found.differences.isEmpty)
    let other = #expect(throws: IngotError.self) { try Engine().reproduce(scratch("OUT"), places: ["x": "y"]) }
    #expect(other?.status == .invalidArgument && other?.subject == "x")
  }

  @Test func namesASourceThatChanged() throws {
    let scratch = try Scratch()
    try merged(scratch)
    try scratch.model("b", languageModel(layers: 3, value: 1), config: languageConfig(layers: 3))
    let error = #expect(throws: IngotError.self) { try Engine().reproduce(scratch("OUT")) }
    #expect(error?.status == .stale && error?.subject == scratch("b"))
    #expect(error?.message.contains("model.safetensors has") == true)
  }

  @Test func carriesNonfiniteValuesThroughAgain() throws {
    let scratch = try Scratch()
    let tensor = TestTensor("w", .f32, [3], [1, .nan, 2])
    try scratch.model("a", [tensor])
    var options = DirectoryOptions.quick
    options.run.allowsNonfinite = true
    try scratch.merge("{merge_method: linear, models: [{model: \"@a\", parameters: {weight: 0.5}}]}", options: options)
    #expect(try Engine().reproduce(scratch("OUT")).differences.isEmpty)
  }

  @Test func damagedRecords() throws {
    let scratch = try Scratch()
    try merged(scratch)
    let text = try #require(scratch.text("OUT/ingot.json"))
    for (old, new) in [
      ("\"seed\": \"7\"", "\"seed\": \"-7\""), ("\"recipe\": ", "\"recip\": "), ("\"models\": [", "\"models\": 3, \"m\": ["),
      ("\"header_digest\": \"", "\"header_digest\": \"z"),
    ] {
      try scratch.write("OUT/ingot.json", text.replacing(old, with: new).utf8)
      let error = #expect(throws: IngotError.self) { try Engine().reproduce(scratch("OUT")) }
      #expect(error?.status == .format, "\(new)")
    }
  }

  /// An adapter is a source too: it is found again, applied again, and missed when it is gone.
  @Test func appliesAdaptersAgain() throws {
    let scratch = try Scratch()
    try scratch.model("plain", [TestTensor("m.weight", .f32, [2, 4], (0..<8).map(Double.init))], config: "{}")
    let factors = [
      TestTensor("base_model.model.m.lora_A.weight", .f32, [1, 4], [1, 0, 0, 2]),
      TestTensor("base_model.model.m.lora_B.weight", .f32, [2, 1], [1, -1]),
    ]
    try scratch.model("factors", factors)
    try scratch.write("lora/adapter_model.safetensors", try #require(scratch.read("factors/model.safetensors")))
    try scratch.write(
      "lora/adapter_config.json", #"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": "plain"}"#.utf8)
    try scratch.merge("{merge_method: linear, dtype: float32, models: [{model: '@plain+@lora', parameters: {weight: 1}}]}")
    #expect(try scratch.tensors()["m.weight"]?.values == [1, 1, 2, 5, 3, 5, 6, 5])
    #expect(try Engine().reproduce(scratch("OUT")).differences.isEmpty)
    // As versions wrote it that applied one adapter at most.
    var record = try JSON.parse(try #require(scratch.read("OUT/ingot.json")), origin: "ingot.json")
    var model = try #require(record["models"]?.asArray?.first)
    #expect(model["adapters"]?.asArray?.count == 1)
    model["adapters"] = nil
    model["adapter"] = .string(scratch("lora"))
    record["models"] = .array([model])
    try scratch.write("OUT/ingot.json", JSON.bytes(record, style: .pretty))
    #expect(try Engine().reproduce(scratch("OUT")).differences.isEmpty)
    try scratch.remove("lora")
    let error = #expect(throws: IngotError.self) { try Engine().reproduce(scratch("OUT")) }
    #expect(error?.status == .notFound && error?.message.contains(scratch("lora")) == true)
    model["adapter"] = 3
    record["models"] = .array([model])
    try scratch.write("OUT/ingot.json", JSON.bytes(record, style: .pretty))
    #expect(#expect(throws: IngotError.self) { try Engine().reproduce(scratch("OUT")) }?.status == .format)
  }

  // MARK: Against a recipe

  private func plan(_ scratch: Scratch, _ recipe: String = Self.recipe, shardSize: Int? = nil) throws -> Plan {
    try scratch.plan(recipe, shardSize: shardSize)
  }

  @Test(arguments: [1, 2, 3]) func recomputesTheSame(_ threads: Int) throws {
    let scratch = try Scratch()
    try merged(scratch)
    let before = scratch.files("OUT")
    let engine = try DirectoryMergeTests.engine(threads: threads)
    let plan = try plan(scratch, shardSize: 300)
    let all = try engine.recompute(scratch("OUT"), against: plan, share: 1)
    #expect(all.differences.isEmpty && all.tensors == 7 && all.bytes == plan.bytesWritten)
    let part = try engine.recompute(scratch("OUT"), against: plan, share: 0.3)
    #expect(part.differences.isEmpty && part.tensors < 7 && part.tensors > 0 && part.bytes * 10 >= plan.bytesWritten * 3)
    #expect(part.run.bytesWritten == part.bytes)
    try part.requireSame()
    #expect(scratch.files("OUT") == before)
    // A sample is of one plan: the same each time.
    #expect(try engine.recompute(scratch("OUT"), against: plan, share: 0.3).bytes == part.bytes)
  }

  /// One bit of one tensor, with a digest in the record that fits it: only computing again can tell.
  @Test func recomputingFindsWhatDigestsCannot() throws {
    let scratch = try Scratch()
    try merged(scratch)
    let plan = try plan(scratch)
    let victim = try #require(plan.tensors.first { $0.name.contains("mlp") })
    var bytes = try #require(scratch.read("OUT/model.safetensors"))
    bytes[victim.offset + 9] ^= 1
    try scratch.write("OUT/model.safetensors", bytes)
    let found = try Engine().recompute(scratch("OUT"), against: plan, share: 1)
    #expect(found.differences.map(\.tensor) == [victim.name])
    #expect(found.differences.first?.problem.contains("byte 9 ") == true)
    let error = #expect(throws: IngotError.self) { try found.requireSame() }
    #expect(error?.status == .stale && error?.subject == victim.name)
  }

  @Test func recomputingFindsAnotherRecipeAndOtherTensors() throws {
    let scratch = try Scratch()
    try merged(scratch)
    let other = Self.recipe.replacingOccurrences(of: "density: 0.6", with: "density: 0.5")
    #expect(try !Engine().recompute(scratch("OUT"), against: plan(scratch, other), share: 1).differences.isEmpty)
    try scratch.model("OUT2", languageModel(layers: 1, value: 1), config: languageConfig(layers: 1))
    let found = try Engine().recompute(scratch("OUT2"), against: plan(scratch), share: 1)
    #expect(found.differences.contains { $0.problem.contains("is not there") })
    let narrow = languageModel(layers: 3, value: 1).map { TestTensor($0.name, $0.name.contains("norm") ? .f16 : $0.dtype, $0.shape) }
    try scratch.model("OUT3", narrow, config: languageConfig(layers: 3))
    let problems = try Engine().recompute(scratch("OUT3"), against: plan(scratch), share: 1).differences.map(\.problem)
    #expect(problems.contains { $0.contains("does not give this tensor") } && problems.contains { $0.contains("expected F32") })
  }

  @Test(arguments: [0, -1, 1.01, .nan]) func impossibleSamples(_ share: Double) throws {
    let scratch = try Scratch()
    try merged(scratch)
    let plan = try plan(scratch)
    let error = #expect(throws: IngotError.self) { try Engine().recompute(scratch("OUT"), against: plan, share: share) }
    #expect(error?.status == .invalidArgument)
  }
}
