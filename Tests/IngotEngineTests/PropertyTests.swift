import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

@Suite struct PropertyTests {
  static let methods = ["linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della"]

  /// A recipe for models in memory whose names are given; `base` among them only where the method wants one.
  static func recipe(_ method: String, _ models: [String], weight: String = "0.5", extra: String = "", global: String = "") -> String {
    let list = models.map { "  - {model: \($0), parameters: {weight: \(weight)\(extra.isEmpty ? "" : ", ")\(extra)}}\n" }.joined()
    if method == "slerp" {
      return "merge_method: slerp\nbase_model: base\nmodels: [{model: \(models[0])}]\nparameters: {t: 0.3}\n"
    }
    return "merge_method: \(method)\n\(method == "linear" ? "" : "base_model: base\n")models:\n\(list)parameters: {\(global)}\n"
  }

  /// Every finite pattern of a 16-bit type.
  static func patterns(_ dtype: DType, _ name: String = "w") -> TestTensor {
    var values: [UInt16] = []
    for bits in UInt16.min...UInt16.max where dtype == .f16 ? bits & 0x7c00 != 0x7c00 : bits & 0x7f80 != 0x7f80 { values.append(bits) }
    let tensor = TestTensor(name, dtype, [values.count])
    for (index, bits) in values.enumerated() { unsafe tensor.bytes.storeBytes(of: bits, toByteOffset: 2 * index, as: UInt16.self) }
    return tensor
  }

  @Test(arguments: methods, [DType.bf16, .f16]) func identicalModelsReturnThemselves(_ method: String, _ dtype: DType) throws {
    let tensor = Self.patterns(dtype)
    let models = ["base": [tensor], "a": [tensor], "b": [tensor]]
    for weight in ["0.5", "0.3"] {
      let names = method == "slerp" ? ["a"] : ["a", "b"]
      let recipe = Self.recipe(
        method, names, weight: weight, extra: method == "linear" ? "" : method.hasPrefix("task") || method == "slerp" ? "" : "density: 0.5")
      let result = try merge(recipe: recipe, models: models)
      #expect(tensor.hasBytes(of: result.tensors["w"]))
    }
  }

  /// Where base and models are alike every method gives them back: all finite patterns of 16 bits whose sums stay in f32.
  @Test(arguments: DegenerateCaseTests.methods, [DType.bf16, .f16]) func everyMethodReturnsIdenticalModels(
    _ method: String, _ dtype: DType
  ) throws {
    let tensor = Self.patterns(dtype, "model.layers.0.w")
    for index in 0..<tensor.count where abs(tensor.value(index)) > 0x1p120 { tensor.set(index, 1) }
    let found = try merge(
      recipe: DegenerateCaseTests.recipe(method, ["a", "b"]), models: ["base": [tensor], "a": [tensor], "b": [tensor]])
    #expect(tensor.hasBytes(of: found.tensors["model.layers.0.w"]))
  }

  /// In f32 too a model that equals its base adds exactly nothing, down to the sign of zero.
  @Test(arguments: ["task_arithmetic", "ties", "dare_linear", "dare_ties", "della"]) func zeroDeltasReturnTheBase(_ method: String) throws {
    var random = SplitMix(5)
    let base = TestTensor("w", .f32, [41, 103])
    for index in 0..<base.count { base.set(index, index % 7 == 0 ? -0.0 : random.normal() * 1e-3) }
    let density = method == "task_arithmetic" ? "" : "density: 0.4"
    let result = try merge(recipe: Self.recipe(method, ["a", "b"], extra: density), models: ["base": [base], "a": [base], "b": [base]])
    #expect(base.hasBytes(of: result.tensors["w"]))
    let other = TestTensor("w", .f32, [41, 103])
    for index in 0..<other.count { other.set(index, random.normal()) }
    let silent = try merge(
      recipe: Self.recipe(method, ["a"], extra: density, global: "lambda: 0"), models: ["base": [base], "a": [other]])
    #expect(base.hasBytes(of: silent.tensors["w"]))
  }

  /// Sums of small multiples of a power of two are exact, so that the order of the models leaves no trace.
  @Test(arguments: ["linear", "task_arithmetic", "ties", "della"]) func orderOfModelsDoesNotMatter(_ method: String) throws {
    var random = SplitMix(8)
    var models: [String: [TestTensor]] = [:]
    for name in ["base", "a", "b", "c"] {
      let tensor = TestTensor("w", .f32, [50, 41])
      for index in 0..<tensor.count { tensor.set(index, Double(Int(random.next() % 65) - 32) / 64) }
      models[name] = [tensor]
    }
    // DELLA draws by the model's place in the recipe, so it keeps all here.
    let density = method == "ties" ? "density: 0.4" : ""
    var outputs: [TestTensor] = []
    for order in [["a", "b", "c"], ["c", "a", "b"], ["b", "a", "c"]] {
      let result = try merge(recipe: Self.recipe(method, order, weight: "1", extra: density), models: models)
      outputs.append(try #require(result.tensors["w"]))
    }
    #expect(outputs[0].hasBytes(of: outputs[1]))
    #expect(outputs[0].hasBytes(of: outputs[2]))
  }

  @Test func singleModelTiesIsTheTrimmedModel() throws {
    var random = SplitMix(13)
    let base = TestTensor("w", .f32, [3000])
    let model = TestTensor("w", .f32, [3000])
    for index in 0..<3000 {
      base.set(index, Double(Int(random.next() % 1001)) / 1024)
      // Distinct magnitudes, exact in f32.
      model.set(index, base.value(index) + (random.next() & 1 == 0 ? 1 : -1) * Double(index + 1) / 1024)
    }
    let result = try merge(
      recipe: Self.recipe("ties", ["a"], weight: "1", extra: "density: 0.25"), models: ["base": [base], "a": [model]])
    let output = try #require(result.tensors["w"])
    for index in 0..<3000 { #expect(output.value(index) == (index >= 2250 ? model : base).value(index)) }
  }

  /// Two tensors of unlike scale: by tensor each keeps its share, by model the large one takes all places.
  @Test func scopesDiffer() throws {
    var models: [String: [TestTensor]] = ["base": [], "a": []]
    for (name, scale) in [("large", 100.0), ("small", 1.0)] {
      let zero = TestTensor(name, .f32, [1000])
      let tensor = TestTensor(name, .f32, [1000])
      for index in 0..<1000 { tensor.set(index, scale * (1 + Double(index) / 1000)) }
      models["base"]?.append(zero)
      models["a"]?.append(tensor)
    }
    func kept(_ scope: String) throws -> [Int] {
      let recipe = Self.recipe("ties", ["a"], weight: "1", extra: "density: 0.5", global: "scope: \(scope)")
      let result = try merge(recipe: recipe, models: models)
      return ["large", "small"].map { name in result.tensors[name]?.values.count { $0 != 0 } ?? -1 }
    }
    #expect(try kept("tensor") == [500, 500])
    #expect(try kept("model") == [1000, 0])
  }

  /// What a statistic is taken over shows in the result, wherever a method has a choice.
  @Test(arguments: [
    ("ties", "scope: tensor", "scope: model"), ("breadcrumbs", "scope: tensor", "scope: row"),
    ("breadcrumbs_ties", "scope: tensor", "scope: row"), ("model_stock", "filter_wise: false", "filter_wise: true"),
    ("nuslerp", "nuslerp_flatten: true", "nuslerp_flatten: false"),
    ("nuslerp", "nuslerp_flatten: false", "nuslerp_flatten: false, nuslerp_row_wise: true"),
    ("dare_linear", "rescale_rule: l1", "rescale_rule: inverse_keep"), ("della", "rescale_rule: l1", "rescale_rule: inverse_keep"),
    ("sce", "select_topk: 0.3, sce_apply_mask: true", "select_topk: 0.3, sce_apply_mask: false"),
  ])
  func choicesMatter(_ method: String, _ one: String, _ other: String) throws {
    let density = ["nuslerp", "model_stock", "sce"].contains(method) ? "" : "density: 0.5"
    let outputs = try [one, other].map { global in
      try merge(recipe: Self.recipe(method, ["a", "b"], extra: density, global: global), models: ReferenceTests.small.models).tensors
    }
    for name in ["model.rows.weight", "model.cube.weight"] {
      #expect(outputs[0][name]?.hasBytes(of: outputs[1][name]) == false, "\(name)")
    }
  }

  @Test(arguments: ["ties", "dare_linear", "dare_ties", "della"]) func densitiesZeroAndOne(_ method: String) throws {
    let models = ReferenceTests.small.models
    let nothing = Self.recipe(method, ["a", "b"], extra: "density: 0")
    if method == "ties" {
      // As in mergekit, the largest of nothing are refused where that holds for every tensor.
      let error = #expect(throws: IngotError.self) { _ = try merge(recipe: nothing, models: models) }
      #expect(error?.status == .recipe && error?.message == "density is 0, expected a number above 0 and at most 1")
    }
    let none = try merge(recipe: method == "ties" ? nothing.replacing("density: 0", with: "density: [0, 0]") : nothing, models: models)
    for tensor in models["base"] ?? [] { #expect(tensor.hasBytes(of: none.tensors[tensor.name])) }
    // With everything kept nothing is drawn and nothing rescaled.
    let votes = method != "dare_linear"
    let all = try merge(recipe: Self.recipe(method, ["a", "b"], extra: "density: 1", global: "normalize: false"), models: models)
    let plain = try merge(
      recipe: Self.recipe(votes ? "ties" : "task_arithmetic", ["a", "b"], global: "normalize: false"), models: models)
    for (name, tensor) in plain.tensors { #expect(tensor.hasBytes(of: all.tensors[name])) }
  }

  /// Below one element in a tensor nothing of it stays.
  @Test func densityBelowOneElement() throws {
    let base = TestTensor("w", .f32, [9], [Double](repeating: 1, count: 9))
    let model = TestTensor("w", .f32, [9], (0..<9).map(Double.init))
    let result = try merge(recipe: Self.recipe("ties", ["a"], extra: "density: 0.1"), models: ["base": [base], "a": [model]])
    #expect(base.hasBytes(of: result.tensors["w"]))
  }

  // MARK: Shapes

  @Test(arguments: methods + ["passthrough"]) func emptyTensorsAndScalars(_ method: String) throws {
    func model(_ value: Double) -> [TestTensor] {
      [
        TestTensor("empty", .f32, [0]), TestTensor("flat", .bf16, [3, 0]), TestTensor("scalar", .f32, [], [value]),
        TestTensor("one", .f16, [1], [value]), TestTensor("column", .f32, [3, 1], [value, -value, 2 * value]),
      ]
    }
    let models = ["base": model(1), "a": model(2), "b": model(4)]
    let names = method == "slerp" ? ["a"] : ["a", "b"]
    let recipe = method == "passthrough" ? "merge_method: passthrough\nmodels: [{model: a}]" : Self.recipe(method, names)
    let result = try merge(recipe: recipe, models: models)
    #expect(result.tensors["empty"]?.shape == [0])
    #expect(result.tensors["flat"]?.shape == [3, 0])
    #expect(result.tensors["scalar"]?.shape == [])
    let expected: Double =
      switch method {
      case "linear": 3
      case "slerp": 1.3
      case "task_arithmetic", "dare_linear", "dare_ties": 3
      case "passthrough": 2
      default: 3
      }
    #expect(abs((result.tensors["scalar"]?.value(0) ?? .nan) - expected) < 1e-6)
    #expect(abs((result.tensors["one"]?.value(0) ?? .nan) - expected) < 1e-3)
    // Digests are taken of nothing too.
    let plan = try Plan.make(try Recipe(recipe), models: try MemoryModels(models))
    defer { withExtendedLifetime(models) {} }
    #expect(try Engine().run(plan, into: NullSink()).digests.count == 5)
  }

  /// A model of nothing but an empty tensor ends, in both scopes.
  @Test(arguments: ["tensor", "model"]) func nothingToTrim(_ scope: String) throws {
    let models = ["base": [TestTensor("w", .f32, [0, 4])], "a": [TestTensor("w", .f32, [0, 4])]]
    let result = try merge(recipe: Self.recipe("ties", ["a"], extra: "density: 0.5", global: "scope: \(scope)"), models: models)
    #expect(result.tensors["w"]?.count == 0)
  }

  @Test func integersComeFromTheBase() throws {
    func model(_ value: Double, same: Double = 5) -> [TestTensor] {
      [TestTensor("w", .f32, [2], [value, value]), TestTensor("ids", .i64, [3], [value, 2, 3]), TestTensor("same", .i64, [1], [same])]
    }
    let models = ["base": model(1), "a": model(7), "b": model(9)]
    let result = try merge(recipe: Self.recipe("task_arithmetic", ["a", "b"]), models: models)
    #expect(result.tensors["ids"]?.values == [1, 2, 3])
    #expect(result.tensors["same"]?.values == [5])
    let warnings = result.plan.notices.filter { $0.severity == .warning }
    #expect(warnings.map(\.subject) == ["ids"])
    #expect(warnings.first?.message.contains("base") == true)
    // Without a base model they come from the first.
    let linear = try merge(recipe: Self.recipe("linear", ["a", "b"]), models: models)
    #expect(linear.tensors["ids"]?.values == [7, 2, 3])
  }

  @Test func integersOfOtherTypesAreRefused() throws {
    let error = #expect(throws: IngotError.self) {
      _ = try merge(
        recipe: Self.recipe("linear", ["a", "b"]), models: ["a": [TestTensor("ids", .i64, [2])], "b": [TestTensor("ids", .f32, [2])]])
    }
    #expect(error?.status == .dtype && error?.subject == "ids")
    #expect(error?.message.contains("I64") == true && error?.message.contains("F32") == true)
  }

  // MARK: Output types

  @Test func dtypesOfTheOutput() throws {
    let tensors = [TestTensor("f64", .f64, [2], [1, 3]), TestTensor("bf16", .bf16, [2], [1, 3])]
    let recipe = Self.recipe("linear", ["a", "b"])
    let plain = try merge(recipe: recipe, models: ["a": tensors, "b": tensors])
    #expect(plain.tensors["f64"]?.dtype == .f32 && plain.tensors["f64"]?.values == [1, 3])
    #expect(plain.tensors["bf16"]?.dtype == .bf16)
    #expect(plain.plan.notices.contains { $0.message.contains("F64") && $0.message.contains("F32") })
    let cast = try merge(recipe: recipe + "dtype: bfloat16\nout_dtype: float16\n", models: ["a": tensors, "b": tensors])
    #expect(cast.tensors.values.allSatisfy { $0.dtype == .f16 && $0.values == [1, 3] })
    let named = try merge(recipe: recipe + "dtype: float32\n", models: ["a": tensors, "b": tensors])
    #expect(named.tensors.values.allSatisfy { $0.dtype == .f32 })
  }
}
