import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// Numbers that published code gives for small examples, and what the methods do where it gives none.
@Suite struct PublishedNumberTests {
  private func output(
    _ method: String, _ models: [String: [TestTensor]], inputs: [String] = ["a", "b"], weight: String = "", global: String = ""
  ) throws -> TestTensor {
    let list = inputs.map { "{model: \($0)\(weight.isEmpty ? "" : ", parameters: {weight: \(weight)}")}" }.joined(separator: ", ")
    let base = models["base"] == nil ? "" : "base_model: base\n"
    let recipe = "merge_method: \(method)\n\(base)models: [\(list)]\nparameters: {\(global)}\n"
    return try #require(try merge(recipe: recipe, models: models).tensors["w"])
  }

  private func tensor(_ shape: [Int], _ values: [Double], _ dtype: DType = .f32) -> [TestTensor] { [TestTensor("w", dtype, shape, values)] }

  private func agree(_ found: TestTensor, _ expected: [Double], _ tolerance: Double = 2e-6) -> Bool {
    found.count == expected.count && zip(found.values, expected).allSatisfy { abs($0 - $1) <= tolerance }
  }

  @Test func nearSwap() throws {
    let golden = try ElementwiseGolden()
    let found = try output("nearswap", golden.tensors, inputs: ["a"], global: "t: 0.2")
    #expect(agree(found, golden.numbers("nearswap_t.2")))
  }

  @Test func reinforcedAgents() throws {
    let golden = try ElementwiseGolden()
    let models = [
      "base": tensor([6], []), "a": tensor([6], [0.2, 0, 0.1, 0, 0, 0.3]), "b": tensor([6], [0, 0, -0.3, 0.4, 0, 0.1]),
    ]
    #expect(agree(try output("ram", models), golden.numbers("ram_tau")))
    #expect(agree(try output("ramplus_tl", models), golden.numbers("ramplus_tau")))
  }

  @Test func arceeFusion() throws {
    let models = ["base": tensor([2, 3], [1, 2, 3, 0, 0, 0]), "a": tensor([2, 3], [1, 2.5, 3, 0.2, 0, -0.4])]
    let found = try output("arcee_fusion", models, inputs: ["a"])
    #expect(agree(found, [1, 2.5, 3, 0, 0, -0.4]))
    let recipe = "merge_method: arcee_fusion\nbase_model: base\nmodels: [{model: a}]\n"
    let threshold = try merge(recipe: recipe, models: models).report.findings.first { $0.finding.name == "threshold" }?.finding.value
    #expect(abs((threshold ?? 0) - 0.00855391) < 1e-8)
  }

  /// Of a few elements the quartiles are those of the sorted list at ⌊q (n − 1)⌋.
  @Test(arguments: 1...9) func arceeFusionOfFewElements(_ count: Int) throws {
    let base: [Double] = (0..<count).map { Double($0) * 0.25 }
    let other: [Double] = (0..<count).map { index in base[index] + Double((index * 5) % 7) / 8 }
    let found = try output("arcee_fusion", ["base": tensor([count], base), "a": tensor([count], other)], inputs: ["a"])
    // One row: the divergence scales all importances alike, so the differences decide.
    let sizes: [Double] = zip(base, other).map { abs($0 - $1) }
    let sorted = sizes.sorted()
    func quantile(_ q: Double) -> Double { sorted[Int(q * Double(count - 1))] }
    let threshold = quantile(0.5) + 1.5 * (quantile(0.75) - quantile(0.25))
    let expected: [Double] = (0..<count).map { sizes[$0] >= threshold ? other[$0] : base[$0] }
    #expect(agree(found, expected, 0))
  }

  /// Rows too short to keep their divergences, and more of them than are collected whole: found without a sample.
  @Test func arceeFusionOfShortRows() throws {
    let rows = 100_000
    var source = SplitMix(31)
    let base = (0..<rows * 3).map { _ in Double(Float(source.normal())) }
    let other = base.map { Double(Float($0 + source.normal() * 0.25)) }
    let found = try output("arcee_fusion", ["base": tensor([rows, 3], base), "a": tensor([rows, 3], other)], inputs: ["a"])
    let expected = Reference(item: MethodCase(method: "arcee_fusion")).arceeFusion(
      ReferenceTensor(name: "w", rowLength: 3, axes: 2, stride: 3, base: base, models: [other]))
    for (index, value) in found.values.enumerated() where value != expected.values[index] {
      #expect(value == expected.alternatives[index], "element \(index)")
    }
  }

  @Test func nuSlerp() throws {
    let golden = try ElementwiseGolden()
    var models = ["a": tensor([2, 3], [1, 0, 0, 0, 2, 0]), "b": tensor([2, 3], [0, 1, 0, 0, 2, 2])]
    func result(_ global: String) throws -> TestTensor {
      let recipe = """
        merge_method: nuslerp
        \(models["base"] == nil ? "" : "base_model: base")
        models: [{model: a, parameters: {weight: 0.75}}, {model: b, parameters: {weight: 0.25}}]
        parameters: {\(global)}
        """
      return try #require(try merge(recipe: recipe, models: models).tensors["w"])
    }
    #expect(agree(try result("nuslerp_flatten: false"), golden.numbers("nuslerp_lastdim_t.25")))
    #expect(agree(try result("nuslerp_flatten: false, nuslerp_row_wise: true"), golden.numbers("nuslerp_dim0_t.25")))
    #expect(agree(try result(""), golden.numbers("nuslerp_flat_t.25")))
    #expect(agree(try result("nuslerp_row_wise: true"), golden.numbers("nuslerp_flat_t.25")))
    models["base"] = tensor([2, 3], [0.5, 0.5, 0, 0, 1, 1])
    #expect(agree(try result(""), golden.numbers("nuslerp_base_flat_t.25")))
  }

  /// Opposite vectors: between them lies no one arc. mergekit's result there is rounding error divided by rounding error.
  @Test(arguments: ["", "nuslerp_flatten: false", "nuslerp_flatten: false, nuslerp_row_wise: true"]) func oppositeVectors(_ global: String)
    throws
  {
    var random = SplitMix(2)
    let values = (0..<77 * 7).map { _ in random.normal() }
    let models = ["a": tensor([77, 7], values), "b": tensor([77, 7], values.map { -$0 })]
    let recipe =
      "merge_method: nuslerp\nmodels: [{model: a, parameters: {weight: 0.6}}, {model: b, parameters: {weight: 0.4}}]\nparameters: {\(global)}"
    let found = try #require(try merge(recipe: recipe, models: models).tensors["w"])
    #expect(agree(found, values.map { 0.2 * $0 }, 1e-6))
  }

  /// A leading axis of length 1 in three dimensions, which stops mergekit; one of length 0.
  @Test func leadingAxes() throws {
    for shape in [[1, 3, 2], [2, 3, 1], [1, 1, 6], [6, 1, 1]] {
      let models = ["a": tensor(shape, [1, 2, 3, 4, 5, 6]), "b": tensor(shape, [1, 2, 3, 4, 5, 6])]
      for global in ["nuslerp_flatten: false", "nuslerp_flatten: false, nuslerp_row_wise: true"] {
        let found = try output("nuslerp", models, weight: "1", global: global)
        #expect(found.shape == shape && agree(found, [1, 2, 3, 4, 5, 6], 1e-6))
      }
    }
    let empty = ["a": tensor([0, 4], []), "b": tensor([0, 4], [])]
    #expect(try output("nuslerp", empty, weight: "1", global: "nuslerp_flatten: false, nuslerp_row_wise: true").count == 0)
  }

  /// The sums of a tensor's columns are part of the budget: too many are an error that says how many bytes they take.
  @Test func columnsThatExceedTheBudget() throws {
    let models = ["a": tensor([2, 1_000_000], [], .bf16), "b": tensor([2, 1_000_000], [], .bf16)]
    let recipe = """
      merge_method: nuslerp
      models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]
      parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}
      """
    var options = EngineOptions()
    options.memoryBudget = 20 << 20
    let error = #expect(throws: IngotError.self) { _ = try merge(recipe: recipe, models: models, options: options) }
    #expect(error?.status == .memory && error?.message.contains("24002560") == true, "\(error?.message ?? "")")
    let plan = try Plan.make(try Recipe(recipe), models: try MemoryModels(models))
    defer { withExtendedLifetime(models) {} }
    options.memoryBudget = plan.leastMemory
    let report = try Engine(options).run(plan, into: NullSink())
    #expect(report.peakMemory <= options.memoryBudget)
  }

  /// Every finite pattern of 16 bits comes back where all models are alike.
  @Test(
    arguments: [
      "nearswap", "ram", "ramplus_tl", "sce", "arcee_fusion", "nuslerp", "model_stock", "breadcrumbs", "breadcrumbs_ties", "della_linear",
    ], [DType.bf16, .f16])
  func identicalModelsReturnThemselves(_ method: String, _ dtype: DType) throws {
    let tensor = PropertyTests.patterns(dtype)
    let models = ["base": [tensor], "a": [tensor], "b": [tensor]]
    let single = ["nearswap", "arcee_fusion"].contains(method)
    let isWeighted = !single && !["ram", "ramplus_tl", "sce", "model_stock"].contains(method)
    let global = method == "nearswap" ? "t: 0.01" : method == "sce" ? "select_topk: 0.5" : ""
    let found = try output(method, models, inputs: single ? ["a"] : ["a", "b"], weight: isWeighted ? "0.3" : "", global: global)
    #expect(tensor.hasBytes(of: found))
  }

  /// Sums of small multiples of a power of two are exact, so that the order of the models leaves no trace.
  @Test(arguments: ["ram", "sce"]) func orderOfModelsDoesNotMatter(_ method: String) throws {
    var random = SplitMix(8)
    var models: [String: [TestTensor]] = [:]
    for name in ["base", "a", "b", "c"] {
      models[name] = tensor([50, 41], (0..<50 * 41).map { _ in Double(Int(random.next() % 65) - 32) / 64 })
    }
    let global = method == "sce" ? "select_topk: 0.4" : ""
    let first = try output(method, models, inputs: ["a", "b", "c"], global: global)
    for order in [["c", "a", "b"], ["b", "a", "c"]] {
      let other = try output(method, models, inputs: order, global: global)
      #expect(zip(first.values, other.values).allSatisfy { abs($0 - $1) <= 1e-6 })
    }
  }
}
