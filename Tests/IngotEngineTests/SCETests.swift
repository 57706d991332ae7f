import IngotEngine
import IngotErrors
import IngotMethods
import IngotTensors
import Testing

/// What SCE selects and how it weighs, where mergekit's numbers do not show it.
@Suite struct SCETests {
  static func recipe(_ share: Double, _ models: [String] = ["a", "b"]) -> String {
    "merge_method: sce\nbase_model: base\nmodels: [\(models.map { "{model: \($0)}" }.joined(separator: ", "))]\nparameters: {select_topk: \(share)}\n"
  }

  /// 680 × 0.7 is 476 in f32 and a little less in f64: mergekit computes it in f32.
  @Test(arguments: [(680, 0.7, 476), (10, 0.3, 3), (1000, 0.29, 290)]) func countsInSinglePrecision(
    _ count: Int, _ share: Double, _ kept: Int
  ) throws {
    let zero = TestTensor("w", .f32, [count + 5])
    let model = TestTensor("w", .f32, [count + 5])
    // Five elements do not differ and do not count.
    for index in 0..<count { model.set(index, Double(index + 1)) }
    let result = try merge(recipe: Self.recipe(share), models: ["base": [zero], "a": [model], "b": [zero]])
    let output = try #require(result.tensors["w"])
    for index in 0..<count + 5 { #expect((output.value(index) != 0) == (index >= count - kept && index < count), "\(index)") }
  }

  /// Beyond what is collected whole, with most elements alike, so that a sample sees few that count; with few, none.
  @Test(arguments: [7, 501, 100_003]) func samplesOfSparseDifferences(_ step: Int) throws {
    let count = 600_000
    let base = TestTensor("w", .bf16, [count])
    let model = TestTensor("w", .bf16, [count])
    var random = SplitMix(4)
    for index in 0..<count {
      base.set(index, 1)
      model.set(index, index % step == 0 ? 1 + Double(random.next() % 100 + 1) / 64 : 1)
    }
    let result = try merge(recipe: Self.recipe(0.5), models: ["base": [base], "a": [model], "b": [base]])
    let output = try #require(result.tensors["w"])
    let differing = (count + step - 1) / step
    #expect((0..<count).count { output.value($0) != 1 } == differing / 2)
  }

  @Test func nothingSelectedIsTheBase() throws {
    let models = ReferenceTests.small.models
    for result in [
      try merge(recipe: Self.recipe(0, ["a", "b", "c"]), models: models), try merge(recipe: Self.recipe(0.5, ["a"]), models: models),
    ] {
      for tensor in models["base"] ?? [] { #expect(tensor.hasBytes(of: result.tensors[tensor.name])) }
    }
  }

  /// The numbers of the published code for the specification's example, whose f64 values are in elementwise.json.
  @Test func equalsThePublishedExample() throws {
    let models = try ElementwiseGolden()
    let expected = models.numbers("sce_model")
    let result = try merge(recipe: Self.recipe(0.5, ["a", "b", "c"]), models: models.tensors)
    #expect(zip(try #require(result.tensors["w"]).values, expected).allSatisfy { abs($0 - $1) < 2e-6 })
  }
}

/// The shared example of the elementwise golden numbers: a base and three models of six elements, and the results by name.
struct ElementwiseGolden {
  let results: [String: Any]
  let tensors: [String: [TestTensor]]

  init() throws {
    results = try #require(try golden("elementwise.json") as? [String: Any])
    let base = [1, -2, 0.5, 0, 3, -1]
    tensors = [
      "base": base, "a": [1.5, -2.25, 0.125, 0.4375, 3.0625, -0.25], "b": [0.8125, -1, 0.625, 0.3125, 2.375, -1.25],
      "c": [1.25, -2.125, 0.9375, -0.5, 3.1875, -1.0625],
    ].mapValues { [TestTensor("w", .f32, [6], $0)] }
  }

  func numbers(_ name: String) -> [Double] { flatten(results[name]) }

  private func flatten(_ value: Any?) -> [Double] {
    if let list = value as? [Any] { return list.flatMap { flatten($0) } }
    return (value as? Double).map { [$0] } ?? []
  }
}
