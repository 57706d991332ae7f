import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// Fisher averages, OTA, RCP and activation-informed merging: published numbers, definitions in f64, properties, degenerate cases.
@Suite struct SideMethodTests {
  private func tensor(_ values: [Double], _ shape: [Int]? = nil, _ name: String = "w") -> [TestTensor] {
    [TestTensor(name, .f32, shape ?? [values.count], values)]
  }

  private func agree(_ found: TestTensor?, _ expected: [Double], _ tolerance: Double = 2e-6) -> Bool {
    found?.count == expected.count && zip(found?.values ?? [], expected).allSatisfy { abs($0 - $1) <= tolerance }
  }

  // MARK: Published numbers

  @Test func fisher() throws {
    let golden = try ElementwiseGolden()
    var models = golden.tensors
    models["fa"] = tensor([4, 1, 0, 2, 0.001, 1])
    models["fb"] = tensor([1, 1, 0, 6, 0.002, 3])
    func output(_ parameters: String) throws -> (TestTensor?, RunReport) {
      let recipe = """
        merge_method: fisher
        models: [{model: a, side: {fisher: fa}}, {model: b, side: {fisher: fb}}]
        parameters: {weight: 0.5, \(parameters)}
        """
      let result = try merge(recipe: recipe, models: models)
      return (result.tensors["w"], result.report)
    }
    let (plain, _) = try output("fisher_norm: none, fisher_floor: 0")
    var expected = golden.numbers("fisher_plain")
    expected[2] = (models["a"]?[0].value(2) ?? 0) / 2 + (models["b"]?[0].value(2) ?? 0) / 2
    #expect(agree(plain, expected))
    let (authors, report) = try output("fisher_floor_mode: absolute")
    #expect(agree(authors, golden.numbers("fisher_matena_floor")))
    let norms = report.findings.map(\.finding).filter { $0.name == "fisher_norm" }.sorted { $0.model ?? 0 < $1.model ?? 0 }.map(\.value)
    let close = zip(norms, golden.numbers("fisher_matena_norm")).allSatisfy { abs($0 - $1) < 1e-6 }
    #expect(close && norms.count == 2)
    let (uniform, _) = try output("fisher_floor_mode: absolute, fisher_floor_rule: add, favor_target: false")
    #expect(agree(uniform, golden.numbers("fisher_fb")))
  }

  @Test func ota() throws {
    let golden = try ElementwiseGolden()
    var models = golden.tensors
    models["va"] = tensor([1, 2, 0.01, 9, 0.01, 4].map { $0 * 1e-6 })
    models["vb"] = tensor([4, 1, 0.01, 1, 0.09, 1].map { $0 * 1e-6 })
    func output(_ base: Bool, _ parameters: String) throws -> TestTensor? {
      let recipe = """
        merge_method: ota
        \(base ? "base_model: base" : "")
        models: [{model: a, side: {second_moment: va}}, {model: b, side: {second_moment: vb}}]
        parameters: {\(parameters)}
        """
      return try merge(recipe: recipe, models: models).tensors["w"]
    }
    #expect(agree(try output(true, "density: 0.5, ota_epsilon: 1e-12"), golden.numbers("ota_ffg_model")))
    #expect(agree(try output(false, "ota_epsilon: 1e-12"), golden.numbers("ota_noffg_model")))
    // The same masks by numbers between the third and the fourth saliency.
    let threshold = "ota_epsilon: 1.0e-12, ffg_threshold: 0.12e-6"
    let recipe = """
      merge_method: ota
      base_model: base
      models:
        - {model: a, side: {second_moment: va}, parameters: {ffg_threshold: 0.2e-6}}
        - {model: b, side: {second_moment: vb}, parameters: {ffg_threshold: 0.09e-6}}
      parameters: {ota_epsilon: 1.0e-12}
      """
    #expect(agree(try merge(recipe: recipe, models: models).tensors["w"], golden.numbers("ota_ffg_model")))
    #expect(throws: IngotError.self) { _ = try output(true, "density: 0.5, \(threshold)") }
  }

  /// The rank-one form gives what the whole second moments would.
  @Test func otaFromSums() throws {
    let golden = try ElementwiseGolden()
    let rankOne = golden.numbers("rank1_v")
    var models = [
      "base": tensor([Double](repeating: 0, count: 9), [3, 3]), "a": tensor((0..<9).map { Double($0) - 4 }, [3, 3]),
      "b": tensor((0..<9).map { 1 + Double($0) / 8 }, [3, 3]), "whole": tensor(rankOne.map { $0 * 1e-9 }, [3, 3]),
      "even": tensor([Double](repeating: 1e-9, count: 9), [3, 3]),
    ]
    models["sums"] = tensor([6e-9, 12e-9, 2e-9], [3], "w.row_sums") + tensor([4e-9, 6e-9, 10e-9], [3], "w.column_sums")
    func output(_ side: String, _ more: String = "") throws -> TestTensor? {
      let recipe = """
        merge_method: ota
        base_model: base
        models: [{model: a, side: {second_moment: \(side)}}, {model: b, side: {second_moment: even}}]
        parameters: {\(more)}
        """
      return try merge(recipe: recipe, models: models).tensors["w"]
    }
    for more in ["", "density: 0.5", "density: 0.5, ota_post: linear", "density: 0.7, ota_post: ties", "ota_normalize: mean"] {
      #expect(agree(try output("sums", more), try #require(try output("whole", more)).values), "\(more)")
    }
    // No moments at all: nothing of the model counts.
    models["sums"] = tensor([0, 0, 0], [3], "w.row_sums") + tensor([0, 0, 0], [3], "w.column_sums")
    #expect(agree(try output("sums"), try #require(models["b"]?[0]).values))
  }

  @Test func rcp() throws {
    let golden = try ElementwiseGolden()
    var models = golden.tensors
    models["prior"] = tensor([0.01, 0, 0.05, 0, 0.2, 0])
    let samples = [[0.2, -0.1, 0.4, -0.3, 0.05, 0], [-0.4, -0.2, 0.1, -0.1, 0.2, 0.1], [-0.3, 0.3, -0.2, -0.2, 0.1, -0.1]]
    for (number, sample) in samples.enumerated() { models["g\(number)"] = tensor(sample) }
    models["votes"] = tensor(golden.numbers("rcp_vote"))
    func output(_ first: String, _ second: String) throws -> TestTensor? {
      let recipe = """
        merge_method: rcp
        base_model: base
        models: [{model: a\(first)}, {model: b, side: {\(second)}}]
        parameters: {rcp_lambda: 1}
        """
      return try merge(recipe: recipe, models: models).tensors["w"]
    }
    let prior = ", side: {prior: prior}"
    #expect(agree(try output(prior, "gradients: [g0, g1, g2]"), golden.numbers("rcp_model")))
    #expect(agree(try output("", "votes: votes"), golden.numbers("rcp_model")))
    // One sample may be named without a list.
    #expect(try output(prior, "gradients: g0")?.hasBytes(of: output(prior, "gradients: [g0]")) == true)
    for (first, second) in [
      (prior, "votes: votes"), ("", "gradients: [g0]"), (prior, "gradients: [g0], votes: votes"), (prior, "prior: prior"),
    ] {
      let error = #expect(throws: IngotError.self) { _ = try output(first, second) }
      #expect(error?.status == .recipe && error?.subject?.hasPrefix("side") == true, "\(first) \(second)")
    }
  }

  @Test func activationInformed() throws {
    let golden = try ElementwiseGolden()
    let models = [
      "base": tensor([1, 1, 1, 2, 0, -1], [2, 3], "m.weight"), "a": tensor([1.5, 0.5, 2, 2, 1, 0], [2, 3], "m.weight"),
      "norms": tensor([0.5, 2, 1], [3], "m"),
    ]
    func output(_ method: String, _ omega: String = "", base: String = "") throws -> TestTensor? {
      let weight = method == "passthrough" ? "" : "parameters: {weight: 1}\n"
      let recipe = "merge_method: \(method)\n\(base)models: [{model: a}]\n\(weight)aim: {side: norms\(omega)}\n"
      return try merge(recipe: recipe, models: models).tensors["m.weight"]
    }
    let expected = golden.numbers("aim_out")
    let base = "base_model: base\n"
    #expect(agree(try output("task_arithmetic", base: base), expected))
    #expect(agree(try output("ties", ", omega: 0.4", base: base), expected))
    // Methods that know no base take that of aim.
    for method in ["linear", "passthrough"] { #expect(agree(try output(method, ", base_model: base"), expected)) }
    #expect(try output("linear", ", omega: 1, base_model: base")?.hasBytes(of: models["a"]?[0]) == true)
    let frozen = try #require(try output("linear", ", omega: 0, base_model: base"))
    #expect(frozen.value(1) == 1 && frozen.value(4) == 0)
  }

  // MARK: Definitions

  static let cases: [MethodCase] = [
    MethodCase(method: "fisher", weights: [0.5, 0.25, 2]),
    MethodCase(method: "fisher", weights: [0.5, 0, 2], isPaper: true),
    MethodCase(method: "fisher", weights: [1, 1, 1], extra: ["fisher_norm": "none", "fisher_floor": "0.001", "favor_target": "false"]),
    MethodCase(method: "fisher", weights: [1, 1, 1], extra: ["fisher_floor_rule": "add", "favor_target": "false"]),
    MethodCase(method: "ota", weights: [1, 1, 1]),
    MethodCase(method: "ota", weights: [1, 0.5, 2], densities: [0.4, 0.3, 0.6]),
    MethodCase(method: "ota", weights: [1, 0.5, 2], densities: [0.4, 0.3, 0.1], extra: ["power": "0.7", "ota_normalize": "mean"]),
    MethodCase(method: "ota", weights: [1, 0.5, 2], densities: [0.4, 0.3, 0.6], extra: ["power": "1", "ota_epsilon": "1.0e-15"]),
    MethodCase(method: "ota", weights: [1, 0.5, 2], densities: [0.4, 0.3, 0.6], extra: ["ota_post": "linear"]),
    MethodCase(method: "ota", weights: [1, 0.5, 2], densities: [0.4, 0.3, 1], extra: ["ota_post": "ties"]),
    MethodCase(method: "ota", weights: [1, 0.5, 2], densities: [0.4, 0.3, 0.6], extra: ["ota_rescale": "operator"]),
    MethodCase(
      method: "ota", weights: [1, 0.5, 2], densities: [0.4, 0.3, 1],
      extra: ["ota_rescale": "operator", "ota_post": "linear", "rescale_threshold": "0.5"]),
    MethodCase(method: "wise", weights: [1, 0.5, 2], densities: [1, 1, 1]),
    MethodCase(method: "wise", weights: [1, 0.5, 2], densities: [0.1, 0.2, 0.6]),
    MethodCase(method: "rcp"), MethodCase(method: "rcp", extra: ["rcp_lambda": "0"]),
  ]
  static let small = ReferenceModels([
    .init(name: "model.flat.weight", shape: [70_001], dtypes: [.f32, .f32, .f32, .f32]),
    .init(name: "model.rows.weight", shape: [37, 1111], dtypes: [.bf16, .bf16, .f16, .f32]),
    .init(name: "model.small.bias", shape: [37], dtypes: [.f16, .f16, .f16, .f16]),
    .init(name: "model.cube.weight", shape: [3, 5, 7], dtypes: [.f32, .bf16, .f32, .f16]),
  ]).withSides

  @Test(arguments: cases) func equalsTheDefinition(_ item: MethodCase) throws {
    let result = try merge(recipe: item.recipe, models: Self.small)
    let lead = item.recipe.contains("base_model") ? "base" : "a"
    let expected = SideReference(item: item, models: Self.small).run()
    for (tensor, expectation) in zip(Self.small[lead] ?? [], expected) {
      let found = try #require(result.tensors[tensor.name])
      #expect(found.dtype == tensor.dtype)
      let wrong = found.elements(unlike: expectation, tolerance: 1e-6)
      let examples = wrong.prefix(3).map { ($0, found.value($0), expectation.values[$0]) }
      #expect(wrong.isEmpty, "\(tensor.name): \(wrong.count) of \(found.count), the first \(examples)")
    }
  }

  /// The last step of any method: the method's own result in f32 with its differences to the base scaled by channel.
  @Test(arguments: [
    MethodCase(method: "task_arithmetic", outDType: "float32", omega: 0.4), MethodCase(method: "linear", outDType: "float32", omega: 0),
    MethodCase(method: "ties", densities: [0.5, 0.2, 0.9], outDType: "float32", omega: 0.25),
    MethodCase(method: "slerp", outDType: "float32", omega: 0.6),
    MethodCase(method: "fisher", weights: [1, 2, 1], outDType: "float32", omega: 0.4),
  ]) func scalesChannels(_ item: MethodCase) throws {
    var plain = item
    plain.omega = nil
    let merged = try merge(recipe: plain.recipe, models: Self.small)
    let scaled = try merge(recipe: item.recipe, models: Self.small)
    for base in Self.small["base"] ?? [] {
      let (before, after) = (try #require(merged.tensors[base.name]), try #require(scaled.tensors[base.name]))
      guard let norms = Self.small["norms"]?.first(where: { $0.name + ".weight" == base.name }) else {
        #expect(before.hasBytes(of: after))
        continue
      }
      let most = norms.values.max() ?? 1
      var differing = 0
      for index in 0..<base.count {
        let factor = Double(Float(1 - norms.value(index % norms.count) / most * (1 - (item.omega ?? 1))))
        let expected = base.value(index) + factor * (before.value(index) - base.value(index))
        let bound = 1e-6 * (abs(base.value(index)) + abs(before.value(index)))
        if abs(after.value(index) - expected) > bound { differing += 1 }
      }
      #expect(differing == 0, "\(base.name)")
      #expect(!before.hasBytes(of: after))
    }
  }

  /// What is kept of a task vector gets the norm of the whole again: its length, its largest singular value, the largest norm of a column.
  @Test func keepsTheOperatorNorm() throws {
    func output(_ values: [Double], _ shape: [Int], _ name: String, density: Double, more: String = "") throws -> [Double] {
      let models = [
        "base": tensor(values.map { _ in 0.0 }, shape, name), "a": tensor(values, shape, name),
        "v": tensor(values.map { _ in 1 }, shape, name),
      ]
      let recipe = """
        merge_method: ota
        base_model: base
        models: [{model: a, side: {second_moment: v}}]
        parameters: {density: \(density), ota_rescale: operator, ota_post: linear\(more)}
        """
      return try #require(try merge(recipe: recipe, models: models).tensors[name]).values
    }
    #expect(agree(TestTensor("w", .f32, [2], try output([3, 4], [2], "w", density: 0.5)), [0, 5]))
    // What is kept of diag(4, 1) has its largest singular value already.
    let diagonal = try output([4, 0, 0, 1], [2, 2], "w", density: 0.25)
    #expect(abs(diagonal[0] - 4) < 1e-4 && diagonal.dropFirst().allSatisfy { $0 == 0 }, "\(diagonal)")
    // Rank one, so that one step is exact: σ is 5 √2 and what is kept, the fours, has 4 √2.
    let rankOne = try output([3, 4, 3, 4], [2, 2], "w", density: 0.5)
    #expect(zip(rankOne, [0, 5, 0, 5]).allSatisfy { abs($0 - $1) < 1e-5 }, "\(rankOne)")
    let name = "model.embed_tokens.weight"
    // Columns (3, 4) and (6, 0): the norm is 6, of what is kept, (0, 4) and (6, 0), too.
    #expect(try output([3, 6, 4, 0], [2, 2], name, density: 0.5) == [0, 6, 4, 0])
    #expect(try output([3, 4], [2], "w", density: 0.5, more: ", rescale_threshold: 0.9") == [0, 0])
    #expect(try output([3, 4], [2], "w", density: 0) == [0, 0])
    let error = #expect(throws: IngotError.self) {
      let models = ["a": tensor([1, 2]), "v": tensor([1, 1])]
      let recipe = "merge_method: ota\nmodels: [{model: a, side: {second_moment: v}}]\nparameters: {ota_rescale: operator}\n"
      _ = try merge(recipe: recipe, models: models)
    }
    #expect(error?.status == .recipe && error?.message.contains("ota_rescale") == true)
  }

  /// Side memories with masks apart keep everything, and where they overlap a vote decides; without masks files it is TIES.
  @Test func sideMemories() throws {
    var models = [
      "base": tensor([1, 1, 1, 1]), "a": tensor([3, 3, 3, 3]), "b": tensor([0, 0, -2, 2]), "ma": tensor([1, 1, 1, 0]),
      "mb": tensor([0, 0, 0.5, -1]),
    ]
    func output(_ a: String, _ b: String, _ parameters: String = "") throws -> [Double] {
      let recipe =
        "merge_method: wise\nbase_model: base\nmodels: [{model: a\(a)}, {model: b\(b)}]\nparameters: {\(parameters)}\n"
      return try #require(try merge(recipe: recipe, models: models).tensors["w"]).values
    }
    // Deltas 2 2 2 . and . . -3 1.
    let found = try output(", side: {mask: ma}", ", side: {mask: mb}")
    #expect(found == [3, 3, -2, 2])
    #expect(try output("", ", side: {mask: mb}") == [3, 3, -2, 2.5])
    #expect(try output(", side: {mask: ma}", ", side: {mask: mb}", "density: 0.25, ties: index") == [3, 1, -2, 1])
    let plain = "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1, density: 0.5}\n"
    let ties = try merge(recipe: plain, models: models)
    #expect(try output("", "", "density: 0.5") == ties.tensors["w"]?.values)
    // A mask of other tensors, or of another shape, is an error before anything is computed.
    models["mb"] = tensor([1, 1], nil, "other")
    let stray = #expect(throws: IngotError.self) { _ = try output("", ", side: {mask: mb}") }
    #expect(stray?.status == .shape && stray?.message.contains("belongs to a merged tensor") == true)
    models["mb"] = tensor([1, 1])
    let shape = #expect(throws: IngotError.self) { _ = try output("", ", side: {mask: mb}") }
    #expect(shape?.status == .shape)
  }

  // MARK: Properties

  /// Every finite pattern of 16 bits comes back where all models are alike, whatever the side files say.
  @Test(arguments: [DType.bf16, .f16]) func identicalModelsReturnThemselves(_ dtype: DType) throws {
    let weights = PropertyTests.patterns(dtype, "m.weight")
    var random = SplitMix(4)
    func side(_ size: Double, _ name: String = "m.weight") -> [TestTensor] {
      tensor((0..<weights.count).map { _ in Double(random.next() % 1000) * size }, nil, name)
    }
    let models = [
      "base": [weights], "a": [weights], "b": [weights], "sa": side(1e-4), "sb": side(1e-7), "norms": side(1, "m"),
    ]
    let recipes = [
      "merge_method: fisher\nmodels: [{model: a, side: {fisher: sa}}, {model: b, side: {fisher: sb}}]\n",
      "merge_method: ota\nbase_model: base\nmodels: [{model: a, side: {second_moment: sa}}, {model: b, side: {second_moment: sb}}]\nparameters: {density: 0.5}\n",
      "merge_method: ota\nmodels: [{model: a, side: {second_moment: sa}}, {model: b, side: {second_moment: sb}}]\n",
      "merge_method: ota\nbase_model: base\nmodels: [{model: a, side: {second_moment: sa}}, {model: b, side: {second_moment: sb}}]\nparameters: {density: 0.5, ota_rescale: operator}\n",
      "merge_method: wise\nbase_model: base\nmodels: [{model: a, side: {mask: sa}}, {model: b}]\nparameters: {density: 0.5}\n",
      "merge_method: rcp\nbase_model: base\nmodels: [{model: a, side: {prior: sa}}, {model: b, side: {gradients: sb}}]\n",
      "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\naim: {side: norms, base_model: base}\n",
    ]
    for recipe in recipes {
      let found = try merge(recipe: recipe, models: models).tensors["m.weight"]
      #expect(weights.hasBytes(of: found), "\(recipe)")
    }
  }

  /// Multiplying all Fisher information by one number changes nothing while floors are relative.
  @Test func fisherIsFreeOfScale() throws {
    var models = Self.small
    let item = MethodCase(method: "fisher", weights: [1, 1, 1], outDType: "float32", extra: ["favor_target": "false"])
    let first = try merge(recipe: item.recipe, models: models)
    for name in MethodCase.models {
      models[name + ".fisher"] = models[name + ".fisher"]?.map { old in
        TestTensor(old.name, .f32, old.shape, old.values.map { $0 * 0x1p-20 })
      }
    }
    let second = try merge(recipe: item.recipe, models: models)
    for (name, tensor) in first.tensors { #expect(agree(second.tensors[name], tensor.values, 1e-6)) }
  }

  /// Without any information the first model stands, or the mean where no model is favoured.
  @Test func noInformation() throws {
    let models = [
      "base": tensor([1, 2, -0.0]), "a": tensor([3, 4, -0.0]), "b": tensor([5, 8, -0.0]), "none": tensor([0, 0, 0]),
      "norms": tensor([0, 0, 0], nil, "none"),
    ]
    func output(_ method: String, _ input: String, _ parameters: String, base: Bool = false) throws -> [Double] {
      let recipe = """
        merge_method: \(method)
        \(base ? "base_model: base" : "")
        models: [{model: a, side: {\(input): none}}, {model: b, side: {\(input): none}}]
        parameters: {\(parameters)}
        """
      return try #require(try merge(recipe: recipe, models: models).tensors["w"]).values
    }
    #expect(try output("fisher", "fisher", "") == [3, 4, 0])
    #expect(try output("fisher", "fisher", "favor_target: false") == [4, 6, 0])
    #expect(try output("fisher", "fisher", "fisher_floor: 0") == [4, 6, 0])
    #expect(try output("ota", "second_moment", "", base: true) == [1, 2, 0])
    #expect(try output("ota", "second_moment", "fallback_to_base: false", base: true) == [4, 6, 0])
    #expect(try output("ota", "second_moment", "") == [4, 6, 0])
    #expect(try output("ota", "second_moment", "density: 0", base: true) == [1, 2, 0])
    #expect(try output("ota", "second_moment", "density: 0, ota_post: ties", base: true) == [1, 2, 0])
    // A zero keeps its sign.
    let sign = try merge(
      recipe: "merge_method: fisher\nmodels: [{model: a, side: {fisher: none}}, {model: b, side: {fisher: none}}]", models: models)
    #expect(sign.tensors["w"]?.value(2).sign == .minus)
  }

  /// A module that was never active is left as it is merged.
  @Test func neverActive() throws {
    let models = [
      "base": tensor([1, 2], nil, "m.weight"), "a": tensor([3, 5], nil, "m.weight"), "norms": tensor([0, 0], nil, "m"),
    ]
    let recipe = "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\naim: {side: norms, omega: 0, base_model: base}"
    #expect(try merge(recipe: recipe, models: models).tensors["m.weight"]?.values == [3, 5])
  }

  @Test func emptyTensorsAndScalars() throws {
    func model(_ value: Double) -> [TestTensor] {
      [
        TestTensor("empty.weight", .f32, [0, 4]), TestTensor("scalar", .f32, [], [value]), TestTensor("one.weight", .f16, [1], [value]),
        TestTensor("ids", .i64, [1], [7]),
      ]
    }
    let models = ["base": model(1), "a": model(2), "b": model(4), "side": model(1)]
    for (method, input, base) in [("fisher", "fisher", false), ("ota", "second_moment", true)] {
      let recipe = """
        merge_method: \(method)
        \(base ? "base_model: base" : "")
        models: [{model: a, side: {\(input): side}}, {model: b, side: {\(input): side}}]
        """
      let result = try merge(recipe: recipe, models: models)
      #expect(result.tensors["scalar"]?.values == [3] && result.tensors["one.weight"]?.values == [3])
      #expect(result.tensors["empty.weight"]?.shape == [0, 4] && result.tensors["ids"]?.values == [7])
    }
  }
}
