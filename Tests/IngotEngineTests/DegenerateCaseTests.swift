import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// Inputs that leave a formula without an answer: what every registered method does then.
@Suite struct DegenerateCaseTests {
  static let v = [0.5, -0.25, 1, 0, -2, 0.125, 3, -1]
  /// Those with side inputs have such cases of their own, in SideMethodTests.
  static let methods = MethodRegistry.all.filter { $0.descriptor.sideInputs.isEmpty }.map { $0.descriptor.name }

  static func takesOneModel(_ method: String) -> Bool { MethodRegistry.catalog.method(method)?.models == 1...1 }
  static func hasBase(_ method: String) -> Bool { MethodRegistry.catalog.method(method)?.base == .required }

  /// Two models of weight ½ (or the one the method takes), and a base where it needs one.
  static func recipe(_ method: String, _ models: [String]) -> String {
    let descriptor = MethodRegistry.catalog.method(method)
    let own = [("weight", "0.5"), ("loss", "2")].filter { descriptor?.parameter($0.0) != nil }.map { "\($0): \($1)" }
    let weight = own.isEmpty ? "" : ", parameters: {\(own.joined(separator: ", "))}"
    let used = descriptor?.baseIsInput == true && method == "passthrough" || takesOneModel(method) ? Array(models.prefix(1)) : models
    let list = used.map { "{model: \($0)\(weight)}" }.joined(separator: ", ")
    let t = descriptor?.parameter("t") == nil ? "" : "parameters: {t: 0.5}\n"
    return "merge_method: \(method)\n\(hasBase(method) ? "base_model: base\n" : "")models: [\(list)]\n\(t)"
  }

  static func run(_ method: String, base: [Double], _ a: [Double], _ b: [Double]) throws -> [Double] {
    func tensor(_ values: [Double]) -> [TestTensor] { [TestTensor("w", .f32, [values.count], values)] }
    let result = try merge(
      recipe: recipe(method, ["a", "b"]), models: ["base": tensor(base), "a": tensor(a), "b": tensor(b)])
    return try #require(result.tensors["w"]).values
  }

  private func agree(_ found: [Double], _ expected: [Double]) -> Bool {
    found.count == expected.count && zip(found, expected).allSatisfy { abs($0 - $1) <= 2e-6 }
  }

  /// Opposite models on a base of zeros; of methods that take one model, a base and its opposite.
  @Test(arguments: methods) func oppositeModels(_ method: String) throws {
    let (v, zero) = (Self.v, Self.v.map { _ in 0.0 })
    let opposite = v.map { -$0 }
    let run = { try Self.run(method, base: Self.takesOneModel(method) ? opposite : zero, v, opposite) }
    let expected: [Double]?
    switch method {
    case "model_stock":
      #expect(throws: IngotError.self) { _ = try run() }
      return
    case "ties", "della", "sce", "onebit": expected = v.map(abs)
    case "dare_ties", "breadcrumbs_ties": expected = v.map { abs($0) / 2 }
    case "hi_merging": expected = v.map { 0.9 * abs($0) }
    case "magmax": expected = opposite
    case "emr": expected = v.map { -abs($0) }
    case "passthrough", "layer_swap": expected = v
    case "ema": expected = v.map { 0.8 * $0 }
    case "wma": expected = v.map { -$0 / 3 }
    case "nearswap": expected = v.map { abs($0) * 2 <= 0.5 ? $0 : -$0 + ($0 > 0 ? 0.5 : -0.5) }
    case "karcher", "arcee_fusion": expected = nil
    default: expected = zero
    }
    let found = try run()
    let isFinite = found.allSatisfy { $0.isFinite }
    #expect(isFinite)
    if let expected { #expect(agree(found, expected), "\(found)") }
  }

  /// One model is zero, and so is the base.
  @Test(arguments: methods) func zeroTensors(_ method: String) throws {
    let (v, zero) = (Self.v, Self.v.map { _ in 0.0 })
    if method == "sparse_soup" {
      #expect(throws: IngotError.self) { _ = try Self.run(method, base: zero, zero, v) }
      return
    }
    let found = try Self.takesOneModel(method) ? Self.run(method, base: zero, v, v) : Self.run(method, base: zero, zero, v)
    let expected: [Double]?
    switch method {
    case "slerp", "nuslerp": expected = v.map { $0 * 0.5.squareRoot() }
    case "ties", "della", "sce", "ram", "ramplus_tl", "magmax", "emr", "ties_sv", "varm", "onebit": expected = v
    case "hi_merging": expected = v.map { 0.9 * $0 }
    // One task is no consensus; the largest of few scores is the cut.
    case "consensus", "pcb": expected = zero
    case "model_stock", "layer_swap": expected = zero
    case "ema": expected = v.map { $0 / 10 }
    case "wma": expected = v.map { $0 * 2 / 3 }
    case "passthrough": expected = v
    case "nearswap": expected = v.map { abs($0) <= 0.5 ? $0 : $0 > 0 ? 0.5 : -0.5 }
    case "arcee_fusion", "widen": expected = nil
    default: expected = v.map { $0 / 2 }
    }
    let isFinite = found.allSatisfy { $0.isFinite }
    #expect(isFinite)
    if let expected { #expect(agree(found, expected), "\(found)") }
    // Nothing but zeros.
    #expect(try Self.run(method, base: zero, zero, zero) == zero)
  }

  @Test(arguments: methods) func oneElement(_ method: String) throws {
    let found = try Self.run(method, base: [1], [2], [4])
    #expect(found.count == 1 && found[0].isFinite && found[0] >= 1 && found[0] <= 7)
    #expect(try Self.run(method, base: [], [], []).isEmpty)
  }

  /// Tensors of different shapes are an error with names, whatever the method; embeddings are cut to the fewest rows, or to the base's.
  @Test(arguments: methods.filter { $0 != "passthrough" }) func shapesDiffer(_ method: String) throws {
    func models(_ name: String, _ base: [Int], _ a: [Int], _ b: [Int]) -> [String: [TestTensor]] {
      var result: [String: [TestTensor]] = [:]
      for (model, shape) in [("base", base), ("a", a), ("b", b)] {
        let count = shape.reduce(1, *)
        result[model] = [TestTensor(name, .f32, shape, (0..<count).map { Double($0 % 5) + (model == "a" ? 0.5 : 0.25) })]
      }
      return result
    }
    let recipe = Self.recipe(method, ["a", "b"])
    let error = #expect(throws: IngotError.self) { _ = try merge(recipe: recipe, models: models("w", [4, 3], [5, 3], [4, 3])) }
    #expect(error?.status == .shape && error?.subject == "w")
    let name = "model.embed_tokens.weight"
    let cropped = try merge(recipe: recipe, models: models(name, [4, 3], [6, 3], [5, 3]))
    #expect(cropped.tensors[name]?.shape == (Self.hasBase(method) ? [4, 3] : [5, 3]))
    guard Self.hasBase(method) else { return }
    let toBase = try #require(MethodRegistry.method(named: method)).cropsToBase
    let larger = models(name, [6, 3], [5, 3], [7, 3])
    if toBase {
      #expect(throws: IngotError.self) { _ = try merge(recipe: recipe, models: larger) }
    } else {
      #expect(try merge(recipe: recipe, models: larger).tensors[name]?.shape == [5, 3])
    }
  }

  /// A recipe without a model beside the base is refused before anything is opened.
  @Test(arguments: methods.filter { hasBase($0) }) func onlyTheBase(_ method: String) throws {
    #expect(throws: IngotError.self) { _ = try Recipe("merge_method: \(method)\nbase_model: base\nmodels: [{model: base}]\n") }
  }
}
