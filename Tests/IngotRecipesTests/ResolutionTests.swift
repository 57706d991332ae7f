import IngotErrors
import IngotRecipes
import Testing

@Suite struct ResolutionTests {
  /// The values a run of mergekit gave for [0, .5, .3, .7, 1].
  @Test(arguments: [(0, 0), (0.1, 0.2), (0.25, 0.5), (0.5, 0.3), (0.9, 0.88), (1, 1)] as [(Double, Double)])
  func gradientsInterpolate(_ t: Double, _ expected: Double) {
    #expect(abs(interpolated([0, 0.5, 0.3, 0.7, 1], at: t) - expected) < 1e-15)
  }

  /// Python: (1-f)*s[i] + f*s[j] for x = t*(len-1), i = int(x), f = x-i; written down from a run, bit for bit.
  @Test(
    arguments: [
      ([0.0, 0.5, 0.3, 0.7, 1.0], 0.0, 0.0),
      ([0.0, 0.5, 0.3, 0.7, 1.0], 0.3333333333333333, 0.43333333333333335),
      ([0.0, 0.5, 0.3, 0.7, 1.0], 0.0, 0.0),
      ([0.0, 0.5, 0.3, 0.7, 1.0], 0.45454545454545453, 0.33636363636363636),
      ([0.0, 0.5, 0.3, 0.7, 1.0], 0.9090909090909091, 0.8909090909090909),
      ([0.0, 0.5, 0.3, 0.7, 1.0], 0.0967741935483871, 0.1935483870967742),
      ([0.0, 0.5, 0.3, 0.7, 1.0], 0.25806451612903225, 0.4935483870967742),
      ([0.0, 0.5, 0.3, 0.7, 1.0], 0.41935483870967744, 0.36451612903225805),
      ([0.0, 0.5, 0.3, 0.7, 1.0], 0.5806451612903226, 0.42903225806451617),
      ([0.0, 0.5, 0.3, 0.7, 1.0], 0.7419354838709677, 0.6870967741935483),
      ([0.0, 0.5, 0.3, 0.7, 1.0], 0.9032258064516129, 0.8838709677419354),
      ([0.0, 1.0], 0.5, 0.5),
      ([0.0, 1.0], 0.5, 0.5),
      ([0.0, 1.0], 0.09090909090909091, 0.09090909090909091),
      ([0.0, 1.0], 0.5454545454545454, 0.5454545454545454),
      ([0.0, 1.0], 1.0, 1.0),
      ([0.0, 1.0], 0.12903225806451613, 0.12903225806451613),
      ([0.0, 1.0], 0.2903225806451613, 0.2903225806451613),
      ([0.0, 1.0], 0.45161290322580644, 0.45161290322580644),
      ([0.0, 1.0], 0.6129032258064516, 0.6129032258064516),
      ([0.0, 1.0], 0.7741935483870968, 0.7741935483870968),
      ([0.0, 1.0], 0.9354838709677419, 0.9354838709677419),
      ([0.1, 0.7, 0.3], 1.0, 0.3),
      ([0.1, 0.7, 0.3], 0.6666666666666666, 0.5666666666666667),
      ([0.1, 0.7, 0.3], 0.18181818181818182, 0.3181818181818182),
      ([0.1, 0.7, 0.3], 0.6363636363636364, 0.5909090909090908),
      ([0.1, 0.7, 0.3], 0.0, 0.1),
      ([0.1, 0.7, 0.3], 0.16129032258064516, 0.29354838709677417),
      ([0.1, 0.7, 0.3], 0.3225806451612903, 0.4870967741935483),
      ([0.1, 0.7, 0.3], 0.4838709677419355, 0.6806451612903225),
      ([0.1, 0.7, 0.3], 0.6451612903225806, 0.5838709677419355),
      ([0.1, 0.7, 0.3], 0.8064516129032258, 0.45483870967741935),
      ([0.1, 0.7, 0.3], 0.967741935483871, 0.32580645161290317),
      ([0.001, 1000.0, -7.7], 0.0, 0.001),
      ([0.001, 1000.0, -7.7], 0.8333333333333334, 328.19999999999993),
      ([0.001, 1000.0, -7.7], 0.2727272727272727, 545.4549999999999),
      ([0.001, 1000.0, -7.7], 0.7272727272727273, 541.9545454545454),
      ([0.001, 1000.0, -7.7], 0.03225806451612903, 64.51706451612903),
      ([0.001, 1000.0, -7.7], 0.1935483870967742, 387.0973870967742),
      ([0.001, 1000.0, -7.7], 0.3548387096774194, 709.6777096774194),
      ([0.001, 1000.0, -7.7], 0.5161290322580645, 967.4935483870968),
      ([0.001, 1000.0, -7.7], 0.6774193548387096, 642.4290322580646),
      ([0.001, 1000.0, -7.7], 0.8387096774193549, 317.3645161290322),
      ([0.001, 1000.0, -7.7], 1.0, -7.7),
    ] as [([Double], Double, Double)])
  func gradientsAreExact(_ values: [Double], _ t: Double, _ expected: Double) {
    #expect(interpolated(values, at: t) == expected)
  }

  @Test(arguments: [-1, 2, .nan, .infinity, -.infinity] as [Double]) func positionsOutsideAreClamped(_ t: Double) {
    #expect(interpolated([3, 4], at: t) == (t >= 1 ? 4 : 3))
    #expect(interpolated([7], at: t) == 7)
  }

  @Test(arguments: [(0, 12, 0.0), (1, 12, 1.0 / 11), (11, 12, 1.0), (0, 1, 1.0), (0, 2, 0.0), (1, 2, 1.0)])
  func layerPositions(_ layer: Int, _ count: Int, _ expected: Double) {
    #expect(Recipe.layerPosition(layer, of: count) == expected)
  }

  /// Levels on which `density` is set (s: source, l: slice, g: recipe) and the value that wins.
  @Test(arguments: [("", 1.0), ("g", 0.1), ("l", 0.2), ("lg", 0.2), ("s", 0.3), ("sg", 0.3), ("sl", 0.3), ("slg", 0.3)])
  func precedence(_ levels: String, _ expected: Double) throws {
    func setting(_ level: Character, _ value: String) -> String { levels.contains(level) ? ", density: \(value)" : "" }
    let recipe = try parse(
      """
      {merge_method: ties, base_model: c, parameters: {weight: 1\(setting("g", "0.1"))},
       slices: [{sources: [{model: a, layer_range: [0, 2], parameters: {weight: 2\(setting("s", "0.3"))}}, {model: c, layer_range: [0, 2]}],
                 parameters: {weight: 3\(setting("l", "0.2"))}}]}
      """)
    #expect(try recipe.value(of: "density", outputName: "x", source: 0, slice: 0, at: 0) == .number(expected))
    #expect(try recipe.value(of: "weight", outputName: "x", source: 0, slice: 0, at: 0) == .number(2))
  }

  @Test func filtersFallThroughToTheNextLevel() throws {
    let recipe = try parse(
      """
      merge_method: ties
      base_model: c
      models:
        - model: a
          parameters:
            density: [{value: 0.1, filter: mlp}, {value: [0.2, 0.4], filter: self_attn}]
            weight: {value: 5, filter: mlp}
      parameters:
        density: [{value: 0.6, filter: norm}, {value: 0.7, filter: '*'}, {value: 0.8}]
        weight: [{value: 6, filter: MLP}, {value: 7, filter: null}]
      """)
    func density(_ name: String, _ t: Double) throws -> ParameterValue? {
      try recipe.value(of: "density", outputName: "other", inputName: name, source: 0, slice: 0, at: t)
    }
    #expect(try density("model.layers.0.mlp.up", 0.5) == .number(0.1))
    #expect(try density("model.layers.0.self_attn.q", 0) == .number(0.2))
    #expect(try density("model.layers.0.self_attn.q", 1) == .number(0.4))
    #expect(try density("model.norm", 0) == .number(0.6))
    #expect(try density("lm_head", 0) == .number(0.7))
    #expect(try recipe.value(of: "weight", outputName: "mlp", source: 0, slice: 0, at: 0) == .number(5))
    #expect(try recipe.value(of: "weight", outputName: "x", source: 0, slice: 0, at: 0) == .number(7))
  }

  @Test func filtersSeeTheRightName() throws {
    let recipe = try parse(
      """
      {merge_method: ties, base_model: c, models: [{model: a}], parameters: {weight: [{value: 1, filter: in}, {value: 2}],
       lambda: [{value: 1, filter: in}, {value: 2, filter: out}]}}
      """)
    #expect(try recipe.value(of: "weight", outputName: "out", inputName: "in", source: 0, slice: 0, at: 0) == .number(1))
    // A parameter of the whole tensor sees the output's name even when a source is named.
    #expect(try recipe.value(of: "lambda", outputName: "out", inputName: "in", source: 0, slice: 0, at: 0) == .number(2))
    #expect(try recipe.value(of: "lambda", outputName: "neither", slice: 0, at: 0) == .number(1))
  }

  @Test func aRequiredValueThatNoFilterGivesIsAnErrorExceptForTheBase() throws {
    let recipe = try parse("merge_method: ties\nbase_model: c\nmodels: [{model: a}]\nparameters:\n  weight: [{value: 1, filter: mlp}]\n")
    let error = #expect(throws: IngotError.self) { try recipe.value(of: "weight", outputName: "norm", source: 0, slice: 0, at: 0) }
    #expect(error?.message == "weight has no value for the model a: no filter of its settings matches this tensor")
    #expect(error?.subject == "norm")
    #expect(error?.position?.description == "r.yml:5:11")
    #expect(try recipe.value(of: "weight", outputName: "norm", source: 1, slice: 0, at: 0) == nil)
    #expect(try recipe.value(of: "density", outputName: "norm", source: 1, slice: 0, at: 0) == .number(1))
  }

  @Test func optionalParametersMayHaveNoValue() throws {
    let recipe = try parse("{merge_method: passthrough, models: [{model: a}]}")
    #expect(try recipe.value(of: "scale", outputName: "x", source: 0, slice: 0, at: 0) == nil)
  }

  @Test func wrongNamesAndIndicesThrow() throws {
    let recipe = try parse("{merge_method: passthrough, models: [{model: a}]}")
    #expect(throws: IngotError.self) { try recipe.value(of: "t", outputName: "x", slice: 0, at: 0) }
    #expect(throws: IngotError.self) { try recipe.value(of: "scale", outputName: "x", slice: 1, at: 0) }
    #expect(throws: IngotError.self) { try recipe.value(of: "scale", outputName: "x", source: 1, slice: 0, at: 0) }
  }

  /// As mergekit's validation turns them: booleans into numbers, numeric texts into numbers, numbers into booleans.
  @Test(arguments: [
    ("lambda: true", "lambda", ParameterValue.number(1)), ("lambda: no", "lambda", .number(0)), ("lambda: \"0.5\"", "lambda", .number(0.5)),
    ("lambda: 1e-5", "lambda", .number(1e-5)), ("lambda: 010", "lambda", .number(8)), ("lambda: 1:30", "lambda", .number(90)),
    ("normalize: 1", "normalize", .boolean(true)), ("normalize: 0.0", "normalize", .boolean(false)),
    ("normalize: off", "normalize", .boolean(false)),
    ("normalize: \"true\"", "normalize", .boolean(true)), ("normalize: \"0\"", "normalize", .boolean(false)),
    ("scope: off", "scope", .text("off")),
    ("scope: [{value: model, filter: mlp}, {value: 'off'}]", "scope", .text("off")), ("lambda: [3]", "lambda", .number(3)),
  ]) func valuesAreCoercedAsInMergekit(_ line: String, _ name: String, _ expected: ParameterValue) throws {
    let recipe = try parse("merge_method: ties\nbase_model: c\nmodels: [{model: a}]\nparameters:\n  weight: 1\n  \(line)\n")
    #expect(try recipe.value(of: name, outputName: "x", slice: 0, at: 0) == expected)
  }
}
