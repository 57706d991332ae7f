import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// `preset: paper`: the published rules, against the numbers of the published code.
@Suite struct PaperPresetTests {
  private func merged(
    _ method: String, _ models: [String: [TestTensor]], density: String = "density: 0.5", global: String = "", paper: Bool = true
  ) throws -> [String: TestTensor] {
    let list = ["a", "b", "c"].filter { models[$0] != nil }.map { "  - {model: \($0), parameters: {weight: 1, \(density)}}\n" }.joined()
    let preset = paper ? "preset: paper\n" : ""
    return try merge(
      recipe: "merge_method: \(method)\nbase_model: base\nmodels:\n\(list)parameters: {\(global)}\n\(preset)", models: models
    ).tensors
  }

  private func agree(_ found: [Double], _ expected: [Double]) -> Bool {
    found.count == expected.count && zip(found, expected).allSatisfy { abs($0 - $1) <= 2e-6 }
  }

  /// Thresholds over the whole model: cut into two tensors the result is the same, and not mergekit's.
  @Test func tiesOverTheModel() throws {
    let golden = try ElementwiseGolden()
    let whole = try #require(try merged("ties", golden.tensors)["w"])
    #expect(agree(whole.values, golden.numbers("ties_model")))
    let parts = golden.tensors.mapValues { tensors in
      let values = tensors[0].values
      return [TestTensor("first", .f32, [4], Array(values[..<4])), TestTensor("second", .f32, [2], Array(values[4...]))]
    }
    func joined(_ tensors: [String: TestTensor]) -> [Double] { (tensors["first"]?.values ?? []) + (tensors["second"]?.values ?? []) }
    #expect(agree(joined(try merged("ties", parts)), golden.numbers("ties_model")))
    let base = golden.tensors["base"]?[0].values ?? []
    let byTensor = zip(base, golden.numbers("ties_per_tensor_tau")).map { $0 + $1 }
    #expect(agree(joined(try merged("ties", parts, paper: false)), byTensor))
  }

  /// Sums of exactly zero take the sign that most sums have; plus otherwise.
  @Test func tiesAtZero() throws {
    let golden = try ElementwiseGolden()
    let models = [
      "base": [TestTensor("w", .f32, [2])], "a": [TestTensor("w", .f32, [2], [0.5, -0.5])],
      "b": [TestTensor("w", .f32, [2], [-0.5, 0.25])],
    ]
    #expect(agree(try merged("ties", models, density: "density: 1")["w"]?.values ?? [], golden.numbers("ties_zero_sum_ref")))
    #expect(
      agree(try merged("ties", models, density: "density: 1", paper: false)["w"]?.values ?? [], golden.numbers("ties_zero_sum_mergekit")))
    #expect(
      agree(try merged("ties", models, density: "density: 1", global: "zero_sign: minus", paper: false)["w"]?.values ?? [], [-0.5, -0.5]))
    // As many sums on either side: none is elected.
    let balanced = [
      "base": [TestTensor("w", .f32, [3])], "a": [TestTensor("w", .f32, [3], [0.5, 1, -1])],
      "b": [TestTensor("w", .f32, [3], [-0.5, 1, -1])],
    ]
    #expect(try merged("ties", balanced, density: "density: 1")["w"]?.values == [0, 1, -1])
    // The majority is one of the model: the larger tensor decides for the smaller.
    let large = TestTensor("large", .f32, [5], [1, 1, 1, 1, -1])
    let two = models.mapValues { [$0[0], large] }.merging(["base": [TestTensor("w", .f32, [2]), TestTensor("large", .f32, [5])]]) { $1 }
    for method in ["ties", "dare_ties"] {
      #expect(try merged(method, two, density: "density: 1")["w"]?.values == [0.5, -0.5], "\(method)")
    }
  }

  /// Layer-wise masks are masks by tensor, which mergekit has too.
  @Test(arguments: [true, false]) func breadcrumbsByTensor(_ paper: Bool) throws {
    let golden = try ElementwiseGolden()
    let found = try merged("breadcrumbs", golden.tensors, density: "density: 0.5, gamma: 0.17", global: "lambda: 0.2", paper: paper)
    #expect(agree(found["w"]?.values ?? [], golden.numbers("breadcrumbs_model_a.2")))
  }

  /// DARE's 1/p: what is kept is exactly τ / p.
  @Test func dareDividesByTheKeepProbability() throws {
    let base = TestTensor("w", .f32, [5000])
    let model = TestTensor("w", .f32, [5000], (0..<5000).map { Double($0 + 1) })
    let found = try #require(try merged("dare_linear", ["base": [base], "a": [model]], density: "density: 0.25")["w"])
    let kept: [Int] = (0..<5000).filter { found.value($0) != 0 }
    let isExact = kept.allSatisfy { found.value($0) == 4 * model.value($0) }
    #expect(isExact)
    #expect((1100...1400).contains(kept.count))
    let mergekit = try #require(try merged("dare_linear", ["base": [base], "a": [model]], density: "density: 0.25", paper: false)["w"])
    let (mass, rescaled): (Double, Double) = (model.values.reduce(0, +), mergekit.values.reduce(0, +))
    #expect(abs(rescaled - mass) < 1e-3 * mass)
    #expect(kept.contains { mergekit.value($0) != found.value($0) })
  }

  /// Recipes that name a rule have it, whatever the preset.
  @Test func givenRulesPrevail() throws {
    let models = ReferenceTests.small.models
    let explicit = "scope: tensor, ties: hash, zero_sign: plus"
    let found = try merged("ties", models, global: explicit)
    for (name, tensor) in try merged("ties", models, paper: false) { #expect(tensor.hasBytes(of: found[name])) }
  }

  /// Help shows both defaults.
  @Test func helpShowsBothDefaults() throws {
    let help = try MethodRegistry.catalog.require("ties").help(width: 200)
    #expect(help.contains("default tensor; model under preset: paper"))
    #expect(help.contains("default plus; majority under preset: paper"))
    #expect(try MethodRegistry.catalog.require("della").help(width: 200).contains("default l1; inverse_keep under preset: paper"))
  }
}
