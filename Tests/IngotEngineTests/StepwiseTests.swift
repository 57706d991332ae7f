import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// `numerics: stepwise`: every step rounded to the tensors' type, written down a second time.
@Suite struct StepwiseTests {
  struct Case: Sendable, CustomStringConvertible {
    var method: String
    var parameters = ""
    var global = ""
    var description: String { "\(method) \(parameters) \(global)" }
  }

  static let cases = [
    Case(method: "linear"), Case(method: "linear", global: "normalize: false"), Case(method: "task_arithmetic", global: "lambda: 0.7"),
    Case(method: "task_arithmetic", global: "normalize: true"), Case(method: "ties", parameters: "density: 0.4"),
    Case(method: "ties", parameters: "density: 0.4", global: "normalize: false, lambda: 1.3"),
    Case(method: "breadcrumbs", parameters: "density: 0.6, gamma: 0.1"),
    Case(method: "breadcrumbs_ties", parameters: "density: 0.6, gamma: 0.1", global: "normalize: true"),
  ]
  static let weights = [0.61, 0.37, -0.23]

  static func recipe(_ item: Case, numerics: String = "stepwise", rest: String = "") -> String {
    let list = zip(["a", "b", "c"], weights).map { name, weight in
      "  - {model: \(name), parameters: {weight: \(weight)\(item.parameters.isEmpty ? "" : ", \(item.parameters)")}}\n"
    }
    let base = item.method == "linear" ? "" : "base_model: base\n"
    return "merge_method: \(item.method)\n\(base)models:\n\(list.joined())parameters: {\(item.global)}\nnumerics: \(numerics)\n\(rest)"
  }

  /// Distinct magnitudes everywhere, so that no order among equal ones matters, in more than one block.
  static func models(_ dtype: DType, count: Int) -> [String: [TestTensor]] {
    var random = SplitMix(21)
    let base = TestTensor("w", dtype, [count])
    var models = ["base": [base]]
    for index in 0..<count { base.set(index, random.normal()) }
    for name in ["a", "b", "c"] {
      let tensor = TestTensor("w", dtype, [count])
      for index in 0..<count { tensor.set(index, base.value(index) + random.normal() * 0.1) }
      models[name] = [tensor]
    }
    return models
  }

  /// The definition, one element at a time, in Swift's own 16-bit type or by patterns.
  static func reference(_ item: Case, _ dtype: DType, _ models: [String: [TestTensor]]) -> [Float] {
    func round(_ x: Float) -> Float { dtype == .f16 ? Float(Float16(x)) : Float(bitPattern: UInt32(bfloat16(x)) << 16) }
    func values(_ name: String) -> [Float] { (models[name]?.first?.values ?? []).map { Float($0) } }
    let inputs = ["a", "b", "c"].map(values)
    let weights = Self.weights.map { round(Float($0)) }
    let total = round(weights[0] + weights[1] + weights[2])
    let count = inputs[0].count
    if item.method == "linear" {
      return (0..<count).map { index in
        let terms = (0..<3).map { round(weights[$0] * inputs[$0][index]) }
        let sum = round(terms[0] + terms[1] + terms[2])
        return item.global.isEmpty ? round(sum / total) : sum
      }
    }
    let base = values("base")
    var deltas = inputs.map { input in (0..<count).map { round(input[$0] - base[$0]) } }
    for model in 0..<3 where !item.parameters.isEmpty {
      // Equal magnitudes are kept by the rule of the house.
      let keys = deltas[model].enumerated().map { Kernels.key($1, index: UInt64($0), ties: .hash) }
      let sorted = keys.sorted(by: >)
      let top = item.method.hasPrefix("breadcrumbs") ? Int(0.1 * Double(count)) : 0
      let kept = Int((item.method.hasPrefix("breadcrumbs") ? 0.6 : 0.4) * Double(count))
      for index in 0..<count where keys[index] < sorted[top + kept - 1] || (top > 0 && keys[index] >= sorted[top - 1]) {
        deltas[model][index] = 0
      }
    }
    let votes = item.method.hasSuffix("ties")
    let normalizes = item.method == "ties" ? !item.global.contains("normalize: false") : item.global.contains("normalize: true")
    let lambda: Float = item.global.contains("lambda: 0.7") ? 0.7 : item.global.contains("lambda: 1.3") ? 1.3 : 1
    return (0..<count).map { index in
      let terms = (0..<3).map { round(weights[$0] * deltas[$0][index]) }
      var merged = round(terms[0] + terms[1] + terms[2])
      var divisor = total
      if votes {
        let isPositive = merged >= 0
        let agreeing = (0..<3).filter { isPositive ? terms[$0] > 0 : terms[$0] < 0 }
        merged = round(agreeing.reduce(Float(0)) { $0 + terms[$1] })
        divisor = round(agreeing.reduce(Float(0)) { $0 + weights[$1] })
        if divisor == 0 { divisor = 1 }
      }
      if normalizes { merged = round(merged / divisor) }
      if lambda != 1 { merged = round(merged * lambda) }
      return round(base[index] + merged)
    }
  }

  @Test(arguments: cases, [DType.bf16, .f16]) func equalsTheStepsBitForBit(_ item: Case, _ dtype: DType) throws {
    let models = Self.models(dtype, count: 70_001)
    let found = try #require(try merge(recipe: Self.recipe(item), models: models).tensors["w"])
    let expected = Self.reference(item, dtype, models)
    let differing = (0..<found.count).filter { Float(found.value($0)) != expected[$0] }
    #expect(differing.isEmpty, "\(differing.count), first \(differing.prefix(3).map { ($0, found.value($0), expected[$0]) })")
    // And it is another result than that of one rounding.
    let once = try #require(try merge(recipe: Self.recipe(item, numerics: "once"), models: models).tensors["w"])
    #expect(!once.hasBytes(of: found))
  }

  /// Inputs are rounded to the recipe's dtype first, steps too; the output has the type it is given.
  @Test func roundsInputsToTheRecipesType() throws {
    let models = Self.models(.f32, count: 5000)
    let item = Self.cases[2]
    let found = try #require(
      try merge(recipe: Self.recipe(item, rest: "dtype: bfloat16\nout_dtype: float32\n"), models: models).tensors["w"])
    let rounded = models.mapValues { [TestTensor("w", .bf16, [5000], $0[0].values)] }
    let expected = Self.reference(item, .bf16, rounded)
    #expect(found.dtype == .f32)
    let isEqual = found.values.map { Float($0) } == expected
    #expect(isEqual)
  }

  @Test func changesTheDigestAndIsNamed() throws {
    let memory = try MemoryModels(Self.models(.bf16, count: 100))
    let stepwise = try Plan.make(try Recipe(Self.recipe(Self.cases[0])), models: memory)
    let once = try Plan.make(try Recipe(Self.recipe(Self.cases[0], numerics: "once")), models: memory)
    #expect(stepwise.digest != once.digest)
    #expect(stepwise.json().contains("\"numerics\": \"stepwise\"") || stepwise.json().contains("\"numerics\":\"stepwise\""))
    var options = PlanOptions()
    options.numerics = .stepwise
    let chosen = try Plan.make(try Recipe(Self.recipe(Self.cases[0], numerics: "once")), options: options, models: memory)
    #expect(chosen.digest == stepwise.digest && chosen.numerics == .stepwise)
  }

  @Test func methodsWithoutStepsRefuse() throws {
    let recipe = "merge_method: slerp\nbase_model: base\nmodels: [{model: a}]\nparameters: {t: 0.5}\n"
    let error = #expect(throws: IngotError.self) { _ = try Recipe(recipe + "numerics: stepwise\n") }
    #expect(error?.status == .recipe && error?.position?.line == 5 && error?.hint?.contains("ties") == true)
    let unknown = #expect(throws: IngotError.self) { _ = try Recipe(recipe + "numerics: steps\n") }
    #expect(unknown?.message.contains("once or stepwise") == true)
    var options = PlanOptions()
    options.numerics = .stepwise
    let memory = try MemoryModels(Self.models(.bf16, count: 100))
    let late = #expect(throws: IngotError.self) { _ = try Plan.make(try Recipe(recipe), options: options, models: memory) }
    #expect(late?.status == .invalidArgument)
  }
}
