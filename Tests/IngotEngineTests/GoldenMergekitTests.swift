import Foundation
import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// One case of golden/mergekit.json: inputs and the output of mergekit 0.1.4.
struct GoldenCase: CustomTestStringConvertible, @unchecked Sendable {
  // SENDABLE: plain JSON values that nothing changes.
  let name: String
  let method: String
  let entry: [String: Any]
  var testDescription: String { name }

  var inputs: [String: [String: Any]] { entry["inputs"] as? [String: [String: Any]] ?? [:] }
  var base: String? { entry["base_model"] as? String }
  var isEmbedding: Bool { entry["is_embed"] as? Bool ?? false }
  var isRandom: Bool { entry["seed"] != nil }
  var error: String? { entry["error"] as? String }
  var output: [String: Any]? { entry["output"] as? [String: Any] }
  var tensorName: String { isEmbedding ? "model.embed_tokens.weight" : "model.layer.weight" }

  var isStepwise: Bool { MethodRegistry.catalog.method(method)?.hasStepwiseNumerics == true }
  var is16Bit: Bool { inputs.values.allSatisfy { ["bfloat16", "float16"].contains($0["dtype"] as? String) } }

  static func numbers(_ value: Any?) -> [Double] {
    (value as? [Any] ?? []).map { item in
      if let text = item as? String { return text == "nan" ? .nan : text == "inf" ? .infinity : -.infinity }
      return (item as? NSNumber)?.doubleValue ?? .nan
    }
  }

  static func dtype(_ name: Any?) -> DType {
    switch name as? String {
    case "bfloat16": .bf16
    case "float16": .f16
    case "float64": .f64
    default: .f32
    }
  }

  var models: [String: [TestTensor]] {
    inputs.mapValues { input in
      [TestTensor(tensorName, Self.dtype(input["dtype"]), (input["shape"] as? [Int]) ?? [], Self.numbers(input["data"]))]
    }
  }

  /// The recipe that the case stands for. JSON is a recipe too.
  func recipe(present: Set<String>, numerics: String? = nil, dtypes: [String: String] = [:]) throws -> String {
    let perModel = entry["tensor_parameters"] as? [String: [String: Any]] ?? [:]
    var models: [[String: Any]] = []
    for name in inputs.keys.sorted() where name != base || perModel[name] != nil || method == "slerp" {
      var model: [String: Any] = ["model": name]
      if let parameters = perModel[name]?.filter({ !($0.value is NSNull) }), !parameters.isEmpty { model["parameters"] = parameters }
      models.append(model)
    }
    var recipe: [String: Any] = ["merge_method": method, "models": models].merging(dtypes) { $1 }
    if let base { recipe["base_model"] = base }
    if let numerics { recipe["numerics"] = numerics }
    if let parameters = entry["parameters"] as? [String: Any], !parameters.isEmpty { recipe["parameters"] = parameters }
    return String(decoding: try JSONSerialization.data(withJSONObject: recipe), as: UTF8.self)
  }

  /// The tolerance of results in f32: methods that go through angles have twice the others'.
  var tolerance: Double { ["slerp", "nuslerp", "multislerp", "karcher"].contains(method) ? 2e-6 : 1e-6 }

  /// The peer's output, and what the tolerance is a share of: the sum of |wᵢ xᵢ| and |base|, by element where the inputs have the output's shape.
  var expectation: Expectation {
    let values = Self.numbers(output?["data"])
    let perModel = entry["tensor_parameters"] as? [String: [String: Any]] ?? [:]
    var scales = [Double](repeating: 0, count: values.count)
    for (name, input) in inputs {
      let data = Self.numbers(input["data"])
      let weight = max(1, abs((perModel[name]?["weight"] as? NSNumber)?.doubleValue ?? 1))
      for index in scales.indices {
        scales[index] += weight * (data.count == values.count ? abs(data[index]) : data.map(abs).max() ?? 0)
      }
    }
    return Expectation(values: values, scales: zip(values, scales).map { max(abs($0), $1) })
  }

  /// The case as the definition in f64 takes it.
  var reference: (item: MethodCase, tensor: ReferenceTensor)? {
    let perModel = entry["tensor_parameters"] as? [String: [String: Any]] ?? [:]
    let names = inputs.keys.sorted().filter { $0 != base }
    guard let lead = inputs[base ?? names.first ?? ""], let shape = lead["shape"] as? [Int] else { return nil }
    func number(_ name: String, _ model: String) -> Double { (perModel[model]?[name] as? NSNumber)?.doubleValue ?? 1 }
    var item = MethodCase(method: method)
    item.weights = names.map { number("weight", $0) }
    item.densities = names.map { number("density", $0) }
    item.t = ((entry["parameters"] as? [String: Any])?["t"] as? NSNumber)?.doubleValue ?? item.t
    let tensor = ReferenceTensor(
      name: tensorName, rowLength: shape.last ?? 1, axes: shape.count, stride: shape.dropFirst().reduce(1, *),
      base: Self.numbers(lead["data"]),
      models: names.map { Self.numbers(inputs[$0]?["data"]) })
    return (item, tensor)
  }

  static func all() -> [GoldenCase] {
    let entries = (try? golden("mergekit.json")) as? [[String: Any]] ?? []
    return entries.map { GoldenCase(name: $0["name"] as? String ?? "?", method: $0["method"] as? String ?? "?", entry: $0) }
  }
}

/// Cases whose result differs from mergekit on purpose; the reason is the value.
private let deliberate: [String: String] = [
  "linear_zero_sum": "weights that sum to zero are refused instead of giving infinities",
  "linear_embed_mismatch": "embeddings that differ in width are refused; only rows may differ",
  "ties_d0": "refused, as there, where it is an AssertionError",
  "ties_shape_skip": "a model whose tensor has another shape is refused instead of skipped",
  "ties_all_skipped": "as ties_shape_skip",
  "ties_only_base": "a recipe without models is refused",
  "ties_base_missing": "refused, as there",
  "slerp_single": "slerp with one model is refused: the recipe names one model only",
  "della_len1": "a row of one element is kept with probability density",
  "della_scalar0d": "a scalar is a row of one element",
  "breadcrumbs_d0.5_g0.01": "gamma × elements below 1 drops no outlier instead of everything",
  "breadcrumbs_d0.5_g0.0": "as breadcrumbs_d0.5_g0.01",
  "breadcrumbs_ties_d0.5_g0.01": "as breadcrumbs_d0.5_g0.01",
  "breadcrumbs_ties_d0.5_g0.0": "as breadcrumbs_d0.5_g0.01",
  "karcher_antipodal": "an opposite direction's angle is held below pi",
  "karcher_embed_mismatch": "embeddings of different rows are cropped instead of refused",
  "model_stock_opposite": "task vectors that cancel out are refused instead of giving infinities",
  "model_stock_two_optional": "a tensor is never dropped silently",
  "model_stock_base_only": "a recipe without models is refused",
  "nuslerp_antiparallel": "opposite vectors are interpolated linearly instead of dividing rounding errors by each other",
  "arcee_fusion_bf16": "computed in float32 and kept in bfloat16, where there it is computed in bfloat16 and becomes float32",
  "sce_topk0": "nothing selected gives the base instead of a tensor of another shape",
  "sce_noarg": "a recipe without models is refused",
]

@Suite struct GoldenMergekitTests {
  @Test(
    arguments: GoldenCase.all().filter { MethodRegistry.catalog.method($0.method) != nil && !$0.isRandom && deliberate[$0.name] == nil })
  func equals(_ item: GoldenCase) throws {
    let models = item.models
    let recipe = try item.recipe(present: Set(models.keys))
    guard let expected = item.output else {
      #expect(throws: IngotError.self) { _ = try merge(recipe: recipe, models: models) }
      return
    }
    let result = try #require(try merge(recipe: recipe, models: models).tensors[item.tensorName])
    #expect(result.shape == (expected["shape"] as? [Int]) ?? [])
    #expect(result.dtype == GoldenCase.dtype(expected["dtype"]))
    // The peer rounds every step to 16 bits; what ours must be there `roundsOnce` says.
    let wanted = item.expectation
    let tolerance = result.dtype == .f32 ? item.tolerance : 0.02
    for index in 0..<result.count {
      let difference = abs(result.value(index) - wanted.values[index])
      #expect(difference <= tolerance * wanted.scales[index], "element \(index): \(result.value(index)) and \(wanted.values[index])")
    }
  }

  /// 16-bit results are the definition's in f64, rounded once.
  @Test(arguments: GoldenCase.all().filter { $0.is16Bit && !$0.isRandom }) func roundsOnce(_ item: GoldenCase) throws {
    let models = item.models
    let (described, tensor) = try #require(item.reference)
    let expected = try #require(Reference(item: described).run([tensor]).first)
    let found = try merge(recipe: try item.recipe(present: Set(models.keys)), models: models).tensors[item.tensorName]
    let result = try #require(found)
    #expect(result.dtype == GoldenCase.dtype(item.inputs.values.first?["dtype"]))
    #expect(result.elements(unlike: expected, tolerance: item.tolerance).isEmpty)
  }

  /// With `dtype: float32` and `out_dtype: bfloat16` the peer rounds once as well: the same to one unit in the last place.
  @Test(
    arguments: GoldenCase.all().filter { !$0.isRandom && !$0.is16Bit && $0.output != nil && deliberate[$0.name] == nil })
  func roundsToBfloat16(_ item: GoldenCase) throws {
    let models = item.models
    let recipe = try item.recipe(present: Set(models.keys), dtypes: ["dtype": "float32", "out_dtype": "bfloat16"])
    let result = try #require(try merge(recipe: recipe, models: models).tensors[item.tensorName])
    #expect(result.dtype == .bf16)
    #expect(result.elements(unlike: item.expectation, tolerance: item.tolerance).isEmpty)
  }

  @Test(arguments: [
    "linear_zero_sum", "linear_embed_mismatch", "ties_shape_skip", "ties_d0", "ties_base_missing", "ties_only_base", "slerp_single",
  ])
  func refuses(_ name: String) throws {
    let item = try #require(GoldenCase.all().first { $0.name == name })
    let models = item.models
    #expect(throws: IngotError.self) { _ = try merge(recipe: try item.recipe(present: Set(models.keys)), models: models) }
  }

  /// The peer's arithmetic in 16 bits, rounded after every step: the same bits.
  @Test(arguments: GoldenCase.all().filter { $0.isStepwise && $0.is16Bit }) func equalsBitForBit(_ item: GoldenCase) throws {
    let models = item.models
    let result = try #require(
      try merge(recipe: try item.recipe(present: Set(models.keys), numerics: "stepwise"), models: models).tensors[item.tensorName])
    let wanted = GoldenCase.numbers(item.output?["data"])
    #expect(result.dtype == GoldenCase.dtype(item.output?["dtype"]))
    #expect(result.values == wanted)
  }

  /// In f32 no step is rounded: the arithmetic is that of one rounding, up to the last bits.
  @Test(arguments: GoldenCase.all().filter { $0.isStepwise && !$0.is16Bit && $0.output != nil && deliberate[$0.name] == nil })
  func stepsOfSinglePrecision(_ item: GoldenCase) throws {
    let models = item.models
    let result = try #require(
      try merge(recipe: try item.recipe(present: Set(models.keys), numerics: "stepwise"), models: models).tensors[item.tensorName])
    let wanted = GoldenCase.numbers(item.output?["data"])
    let magnitude = item.inputs.values.flatMap { GoldenCase.numbers($0["data"]) }.map(abs).max() ?? 0
    for index in 0..<result.count { #expect(abs(result.value(index) - wanted[index]) <= 1e-6 * max(abs(wanted[index]), magnitude)) }
  }

  /// Every one of the cases is accounted for: it runs, or it is random (its masks come from the peer's generator, so only statistics compare),
  /// or it differs for a reason that is given.
  @Test func accountsForEveryCase() {
    let all = GoldenCase.all()
    #expect(all.count == 137)
    #expect(all.allSatisfy { MethodRegistry.catalog.method($0.method) != nil })
    #expect(all.count { $0.isRandom } == 7)
    let names = Set(all.map(\.name))
    #expect(names.count == all.count)
    #expect(deliberate.keys.allSatisfy { names.contains($0) })
    #expect(all.count { !$0.isRandom && deliberate[$0.name] == nil } == 137 - 7 - deliberate.count)
    #expect(all.count { $0.isStepwise && $0.is16Bit } == 3)
  }
}
