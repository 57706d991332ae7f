import IngotEngine
import IngotErrors
import IngotMethods
import IngotRecipes
import IngotTensors
import Testing

/// Every parameter of every method at its ends and beyond: a merge has a result or an error with words, never a trap.
@Suite struct ExtremeParameterTests {
  static let methods = DegenerateCaseTests.methods

  /// Values as a recipe has them: those that the descriptor takes, at its ends, and others.
  static func values(_ kind: ParameterDescriptor.Kind) -> [String] {
    switch kind {
    case .number:
      [
        "-3.4e38", "-1", "-5e-324", "-0.0", "0", "5e-324", "1e-30", "0.5", "0.9999999999999999", "1", "1.0000001", "2", "1e6", "3.4e38",
        "1e39", ".nan", ".inf",
      ]
    case .integer(let range):
      ["\(Int.min)", "-1", "0", "1", "2", "63", "64", "4294967296", "\(Int.max)"]
        + [range.lowerBound, range.upperBound].filter { (-10_000...10_000).contains($0) }.map(String.init)
    case .boolean: ["true", "false"]
    case .choice(let names): names
    }
  }

  static let models: [String: [TestTensor]] = {
    var random = SplitMix(3)
    var all: [String: [TestTensor]] = [:]
    for name in ["base", "a", "b"] {
      all[name] = [("model.layers.0.up.weight", [6, 8]), ("model.layers.1.up.weight", [6, 8]), ("model.norm.weight", [8])].map {
        name, shape in
        TestTensor(name, .f32, shape, (0..<shape.reduce(1, *)).map { _ in Double(random.next() % 2001) / 1000 - 1 })
      }
    }
    return all
  }()

  @Test(arguments: methods) func everyParameter(_ name: String) throws {
    let method = try #require(MethodRegistry.catalog.method(name))
    let memory = try MemoryModels(Self.models)
    var options = EngineOptions()
    options.threads = 1
    options.memoryBudget = 64 << 20
    let engine = try Engine(options)
    var plain = DegenerateCaseTests.recipe(name, ["a", "b"])
    let settings = plain.contains("\nparameters: {t: 0.5}") ? ["t": "0.5"] : [:]
    plain = plain.replacing("parameters: {t: 0.5}\n", with: "")
    var results = 0
    for parameter in method.parameters {
      for value in Self.values(parameter.kind) {
        var all = settings
        all[parameter.name] = value
        // Where it stands at the models the recipe's own must go.
        let list = plain.replacing(/parameters: \{[^}]*\}/) { match in
          parameter.isPerModel ? "parameters: {\(parameter.name): \(value)}" : String(match.output)
        }
        let text = list + "parameters: {" + all.map { "\($0.key): \($0.value)" }.joined(separator: ", ") + "}\n"
        do throws(IngotError) {
          let plan = try Plan.make(
            try Recipe.parse(Array(text.utf8), origin: "recipe.yml", catalog: MethodRegistry.catalog), models: memory)
          let report = try engine.run(plan, into: NullSink())
          #expect(report.digests.count == 3, "\(text)")
          results += 1
        } catch {
          #expect(error.status != .internalError && !error.message.isEmpty, "\(text)\(error)")
        }
      }
    }
    // Models without a configuration have no layers.
    #expect(results > 0 || method.parameters.isEmpty || method.needsLayers)
  }
}
