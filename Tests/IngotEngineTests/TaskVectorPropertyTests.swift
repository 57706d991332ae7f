import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// What must hold of the task-vector methods whatever the numbers are.
@Suite struct TaskVectorPropertyTests {
  static let models = ReferenceTests.small.models
  private static let recipe = TaskVectorGoldenTests.recipe

  private func run(
    _ method: String, _ models: [String] = ["a", "b", "c"], parameters: String = "", global: String = "",
    tensors: [String: [TestTensor]] = Self.models
  ) throws -> [String: TestTensor] {
    try merge(recipe: TaskVectorGoldenTests.recipe(method, models, parameters: parameters, global: global), models: tensors).tensors
  }

  private func expectSame(_ found: [String: TestTensor], _ expected: [String: TestTensor], _ note: String = "") {
    #expect(found.count == expected.count && !found.isEmpty)
    for (name, tensor) in expected { #expect(tensor.hasBytes(of: found[name]), "\(name) \(note)") }
  }

  private var base: [String: TestTensor] { Dictionary(uniqueKeysWithValues: (Self.models["base"] ?? []).map { ($0.name, $0) }) }

  static let identical: [(String, String, String)] = [
    ("magmax", "", ""), ("consensus", "", ""), ("emr", "", ""), ("emr", "", "task: 1"), ("pcb", "weight: 0.3", ""), ("widen", "", ""),
    ("pcb", "", "pcb_variant: vision"), ("ties_sv", "weight: 0.3, density: 0.5", ""), ("ties_sv", "weight: 0.3", "protect: 2"),
    ("hi_merging", "weight: 0.3", ""), ("mediator", "", "task: 1"), ("twin", "", "task: 2"), ("twin", "weight: 0.4", "compress: bernoulli"),
    ("breadcrumbs", "weight: 0.3, density: 0.4", "scope: row"), ("sce", "", "sce_apply_mask: false, select_topk: 0.5"),
  ]

  /// Every finite pattern of 16 bits comes back where all models are alike.
  @Test(arguments: identical, [DType.bf16, .f16]) func identicalModelsReturnThemselves(_ item: (String, String, String), _ dtype: DType)
    throws
  {
    let tensor = PropertyTests.patterns(dtype, "model.layers.0.w")
    let found = try run(
      item.0, ["a", "b"], parameters: item.1, global: item.2, tensors: ["base": [tensor], "a": [tensor], "b": [tensor]])
    #expect(tensor.hasBytes(of: found["model.layers.0.w"]))
  }

  /// Sums of small multiples of a power of two are exact, so that the order of the models leaves no trace.
  @Test(arguments: ["consensus", "emr", "pcb", "ties_sv", "hi_merging", "mediator", "twin"]) func orderOfModelsDoesNotMatter(
    _ method: String
  ) throws {
    var random = SplitMix(8)
    var models: [String: [TestTensor]] = [:]
    for name in ["base", "a", "b", "c"] {
      models[name] = [TestTensor("w", .f32, [50, 41], (0..<50 * 41).map { _ in Double(Int(random.next() % 65) - 32) / 64 })]
    }
    let weighted = ["ties_sv", "hi_merging"].contains(method)
    var outputs: [[Double]] = []
    for order in [["a", "b", "c"], ["c", "a", "b"], ["b", "a", "c"]] {
      let found = try run(method, order, parameters: weighted ? "weight: 1" : "", tensors: models)
      outputs.append(try #require(found["w"]).values)
    }
    for other in outputs.dropFirst() {
      let isSame = zip(outputs[0], other).allSatisfy { abs($0 - $1) <= 1e-6 }
      #expect(isSame)
    }
  }

  @Test func magmaxOfOneAndOfTwins() throws {
    let one = try run("magmax", ["a"])
    expectSame(try run("magmax", ["a", "a"]), one)
    expectSame(one, try run("task_arithmetic", ["a"], parameters: "weight: 1"))
    // Folding in one model after another, exact where differences are.
    var random = SplitMix(9)
    var models: [String: [TestTensor]] = [:]
    for name in ["base", "a", "b", "c"] {
      models[name] = [TestTensor("w", .f32, [999], (0..<999).map { _ in Double(Int(random.next() % 65) - 32) / 64 })]
    }
    let whole = try run("magmax", tensors: models)
    models["ab"] = [try #require(try run("magmax", ["a", "b"], tensors: models)["w"])]
    expectSame(try run("magmax", ["ab", "c"], tensors: models), whole)
    // The later of two opposite ones.
    let opposite = ["base": 0.0, "a": 1, "b": -1].mapValues { [TestTensor("w", .f32, [1], [$0])] }
    #expect(try run("magmax", ["a", "b"], tensors: opposite)["w"]?.values == [-1])
    #expect(try run("magmax", ["b", "a"], tensors: opposite)["w"]?.values == [1])
  }

  @Test func consensusBetweenArithmeticAndTheBase() throws {
    expectSame(try run("consensus", global: "consensus_k: 0"), try run("task_arithmetic", parameters: "weight: 1"))
    expectSame(try run("consensus", global: "consensus_k: 4"), base)
    // Without a threshold what a task uses is what it changed.
    let found = try run("consensus", global: "task: 1, tall_lambda: 0")
    let sum = try run("task_arithmetic", parameters: "weight: 1")
    for (base, a) in zip(Self.models["base"] ?? [], Self.models["a"] ?? []) where base.dtype == .f32 {
      let own = try #require(found[base.name])
      let all = try #require(sum[base.name])
      let isRight = (0..<own.count).allSatisfy { own.value($0) == (a.value($0) == base.value($0) ? base : all).value($0) }
      #expect(isRight)
    }
  }

  /// Σ |λ m u| = Σ |τ|, and what the mask keeps has the task's sign.
  @Test(arguments: 1...3) func emrKeepsTheTasksSize(_ task: Int) throws {
    let found = try run("emr", global: "task: \(task)")
    var (all, kept) = (0.0, 0.0)
    for (number, base) in (Self.models["base"] ?? []).enumerated() where base.dtype == .f32 {
      let own = try #require(Self.models[MethodCase.models[task - 1]]?[number])
      let output = try #require(found[base.name])
      var agrees = true
      for index in 0..<base.count {
        let (delta, merged) = (own.value(index) - base.value(index), output.value(index) - base.value(index))
        if merged * delta < 0 { agrees = false }
        all += abs(delta)
        kept += abs(merged)
      }
      #expect(agrees)
    }
    // One tensor of the model: the sums are equal over all of it, which a test of one tensor shows.
    let single = Self.models.mapValues { Array($0.prefix(1)) }
    let alone = try #require(try run("emr", global: "task: \(task)", tensors: single)[single["base"]?[0].name ?? ""])
    (all, kept) = (0, 0)
    let (base, own) = (try #require(single["base"]?[0]), try #require(single[MethodCase.models[task - 1]]?[0]))
    for index in 0..<base.count {
      all += abs(own.value(index) - base.value(index))
      kept += abs(alone.value(index) - base.value(index))
    }
    #expect(abs(all - kept) <= 1e-6 * all)
  }

  @Test func emrOfOneModelIsTheModel() throws {
    for global in ["", "task: 1"] {
      let found = try run("emr", ["a"], global: global)
      for (base, a) in zip(Self.models["base"] ?? [], Self.models["a"] ?? []) where base.dtype == .f32 {
        let output = try #require(found[base.name])
        let isNear = (0..<base.count).allSatisfy { abs(output.value($0) - a.value($0)) <= 1e-6 * (abs(a.value($0)) + abs(base.value($0))) }
        #expect(isNear)
      }
    }
  }

  /// Slack 0 is TIES to the bit, whatever the scope.
  @Test(arguments: ["tensor", "model"]) func noSlackIsTies(_ scope: String) throws {
    let parameters = "weight: 0.5, density: 0.3"
    let ties = try run("ties", parameters: parameters, global: "scope: \(scope)")
    expectSame(try run("ties_sv", parameters: parameters, global: "slack: 0, scope: \(scope)"), ties)
    let slack = try run("ties_sv", parameters: parameters, global: "slack: 0.9, scope: \(scope)")
    #expect(!ties.allSatisfy { $1.hasBytes(of: slack[$0]) })
  }

  @Test func nothingPrunedIsTies() throws {
    expectSame(try run("hi_merging", parameters: "weight: 0.5, prune: 0, scale: 1"), try run("ties", parameters: "weight: 0.5"))
  }

  /// A row as long as the tensor is the tensor; shorter ones differ.
  @Test func breadcrumbsOfOneRow() throws {
    let parameters = "weight: 0.5, density: 0.4, gamma: 0.05"
    for method in ["breadcrumbs", "breadcrumbs_ties"] {
      for rescale in [false, true] {
        let rows = try run(method, parameters: parameters, global: "scope: row, rescale: \(rescale)")
        let tensors = try run(method, parameters: parameters, global: "rescale: \(rescale)")
        for name in ["model.flat.weight", "model.small.bias"] { #expect(rows[name]?.hasBytes(of: tensors[name]) == true, "\(method)") }
        #expect(rows["model.rows.weight"]?.hasBytes(of: tensors["model.rows.weight"]) == false)
      }
    }
  }

  /// Of each row exactly as many stay as the densities say.
  @Test func breadcrumbsKeepExactlyByRow() throws {
    var random = SplitMix(5)
    let (rows, columns) = (37, 211)
    let base = TestTensor("w", .f32, [rows, columns])
    // Eight magnitudes: ties at every threshold.
    let model = TestTensor("w", .bf16, [rows, columns], (0..<rows * columns).map { _ in Double(random.next() % 8 + 1) / 8 })
    let found = try #require(
      try run(
        "breadcrumbs", ["a"], parameters: "weight: 1, density: 0.3, gamma: 0.1", global: "scope: row",
        tensors: ["base": [base], "a": [model]])["w"])
    for row in 0..<rows {
      let kept = (0..<columns).filter { found.value(row * columns + $0) != 0 }
      let dropped = (0..<columns).filter { found.value(row * columns + $0) == 0 }.map { model.value(row * columns + $0) }.sorted()
      #expect(kept.count == 63)
      let values = kept.map { found.value(row * columns + $0) }
      // 21 outliers above what is kept, the rest below.
      #expect((values.max() ?? 9) <= dropped[dropped.count - 21] && (values.min() ?? 0) >= dropped[dropped.count - 22])
    }
  }

  @Test func widenOfOneModel() throws {
    // With one model the softmax is 1, and so is what replaces it.
    expectSame(try run("widen", ["a"]), try run("task_arithmetic", ["a"], parameters: "weight: 1"))
    // An element that a model left as it was weighs nothing either way; every other one is above no part of the mean.
    let single = Self.models.mapValues { Array($0.prefix(1)) }
    let found = try run("widen", global: "widen_ratio: 0", tensors: single)
    for (name, sum) in try run("task_arithmetic", parameters: "weight: 1", tensors: single) {
      let output = try #require(found[name])
      let isNear = (0..<sum.count).allSatisfy { abs(output.value($0) - sum.value($0)) <= 1e-6 * (1 + abs(sum.value($0))) }
      #expect(isNear)
    }
  }

  /// Rows of padding, which are zero in every model, stay as they are.
  @Test func widenOfZeroColumns() throws {
    let zeroes = TestTensor("model.embed_tokens.weight", .f32, [4, 3], [1, 2, 3, 0, 0, 0, 4, 5, 6, 0, 0, 0])
    let other = TestTensor("model.embed_tokens.weight", .f32, [4, 3], [1, 2, 4, 0, 0, 0, 4, 4, 6, 0, 0, 0])
    let found = try #require(
      try run("widen", ["a", "b"], tensors: ["base": [zeroes], "a": [other], "b": [zeroes]])["model.embed_tokens.weight"])
    let isFinite = found.values.allSatisfy { $0.isFinite }
    #expect(isFinite && found.value(3) == 0 && found.value(9) == 0)
  }

  /// Task vectors of one magnitude each: every place between the bounds is 0, and nothing divides by 0.
  @Test(arguments: ["raw", "vision"]) func competitionOfEqualMagnitudes(_ variant: String) throws {
    func model(_ size: Double) -> [TestTensor] { [TestTensor("w", .f32, [100], (0..<100).map { $0 % 3 == 0 ? -size : size })] }
    let models = ["base": [TestTensor("w", .f32, [100])], "a": model(0.5), "b": model(0.25)]
    let found = try #require(try run("pcb", ["a", "b"], global: "pcb_ratio: 0.5, pcb_variant: \(variant)", tensors: models)["w"])
    let isFinite = found.values.allSatisfy { $0.isFinite && abs($0) <= 0.5 }
    #expect(isFinite)
  }

  /// Where the models oppose each other all scores of one are negative, and the cut lies among those.
  @Test func competitionOfOpponents() throws {
    let weak = (0..<200).map { Double($0 % 20 + 1) / 64 }
    let models = ["base": [Double](repeating: 0, count: 200), "a": weak, "b": weak.map { -2 * $0 }].mapValues {
      [TestTensor("w", .f32, [200], $0)]
    }
    let recipe = Self.recipe("pcb", ["a", "b"], "", "pcb_ratio: 0.3")
    let result = try merge(recipe: recipe, models: models)
    let findings = result.report.findings.map(\.finding).filter { $0.model == 0 }
    let cut = try #require(findings.first { $0.name == "cut" }).value
    let top = try #require(findings.first { $0.name == "top" }).value
    #expect(cut < 0 && top < 0 && cut < top)
    let isFinite = result.tensors["w"]?.values.allSatisfy { $0.isFinite } == true
    #expect(isFinite)
  }

  @Test func mediatorRoutesWhatConflicts() throws {
    // Layer 1 is where the models part.
    var models: [String: [TestTensor]] = ["base": [], "a": [], "b": []]
    for layer in 0..<3 {
      let name = "model.layers.\(layer).w"
      let step = (0..<40).map { Double($0 % 7 + 1) / 64 }
      models["base"]?.append(TestTensor(name, .f32, [4, 10]))
      models["a"]?.append(TestTensor(name, .f32, [4, 10], step))
      models["b"]?.append(TestTensor(name, .f32, [4, 10], step.map { layer == 1 ? -$0 : 2 * $0 }))
    }
    let result = try merge(recipe: Self.recipe("mediator", ["a", "b"], "", "task: 1, sparse_density: 1"), models: models)
    let routed = result.report.findings.map(\.finding.name).filter { $0.hasPrefix("routed") }
    #expect(routed == ["routed model.layers.1"])
    // All of what is its own makes the model itself; the other layers are means.
    #expect(models["a"]?[1].hasBytes(of: result.tensors["model.layers.1.w"]) == true)
    let mean = try #require(result.tensors["model.layers.0.w"])
    let isMean = (0..<40).allSatisfy { mean.value($0) == 1.5 * (models["a"]?[0].value($0) ?? .nan) }
    #expect(isMean)
  }

  /// All of its own part, at full weight, is the model.
  @Test func twinOfOneTask() throws {
    let found = try run("twin", parameters: "density: 1", global: "task: 2")
    for (base, b) in zip(Self.models["base"] ?? [], Self.models["b"] ?? []) where base.dtype == .f32 {
      let output = try #require(found[base.name])
      let isNear = (0..<base.count).allSatisfy { abs(output.value($0) - b.value($0)) <= 2e-6 * (1 + abs(b.value($0))) }
      #expect(isNear)
    }
    expectSame(try run("twin", global: "lambda: 0"), base)
    let sum = try run("task_arithmetic", parameters: "weight: 1", global: "lambda: 0.3")
    expectSame(try run("twin"), sum)
  }

  // MARK: Bad input

  static let mistakes: [(String, String, [String])] = [
    ("consensus", "task: 4", ["'task' is 4", "3 models"]), ("emr", "task: 7", ["'task' is 7"]), ("emr", "task: -1", ["task"]),
    ("ties_sv", "weight: 1, protect: 4", ["'protect' is 4"]), ("twin", "task: 1, weight: 0.5", ["task", "weight"]),
    ("mediator", "task: 1, weight: 0.5", ["task", "weight"]), ("pcb", "pcb_clip: 0.5", ["pcb_clip"]),
    ("pcb", "pcb_ratio: 1.5", ["pcb_ratio"]),
    ("consensus", "tall_lambda: -1", ["tall_lambda"]), ("widen", "widen_ratio: -1", ["widen_ratio"]),
    ("breadcrumbs", "weight: 1, scope: model", ["scope"]),
    ("ties_sv", "weight: 1, slack: 2", ["slack"]), ("pcb", "pcb_variant: text", ["pcb_variant"]),
    ("pcb", "pcb_ratio: [{filter: flat, value: 0.1}, {value: 0.2}]", ["pcb_ratio", "model.flat.weight"]),
    ("emr", "task: [{filter: flat, value: 1}, {value: 2}]", ["task"]),
    ("ties_sv", "weight: 1, scope: model, density: [{filter: flat, value: 0.1}, {value: 0.2}]", ["density"]),
    ("consensus", "density: 0.3", ["density", "with merge: ties", "sum"]), ("consensus", "scope: model", ["scope", "with merge: ties"]),
    ("consensus", "merge: sum, ties: index", ["ties", "with merge: ties"]),
    ("consensus", "task: 1, consensus_k: 3", ["consensus_k", "with task: 0", "1"]),
    ("emr", "rescaler: tensor_means", ["rescaler", "another task than 0"]),
    ("twin", "compress: bernoulli, ties: index", ["ties", "compress: magnitude", "bernoulli"]),
    ("sce", "sce_apply_mask: maybe", ["sce_apply_mask"]), ("hi_merging", "weight: 1, prune: 1.5", ["prune"]),
  ]

  @Test(arguments: mistakes) func mistakesAreNamed(_ item: (String, String, [String])) throws {
    let error = #expect(throws: IngotError.self) { _ = try run(item.0, global: item.1) }
    #expect(error?.status == .recipe, "\(error?.message ?? "")")
    for word in item.2 { #expect(error?.message.contains(word) == true, "\(error?.message ?? "")") }
  }

  @Test func mediatorOfOneModel() throws {
    let error = #expect(throws: IngotError.self) { _ = try run("mediator", ["a"]) }
    #expect(error?.status == .recipe)
  }
}
