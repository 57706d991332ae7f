import Foundation
import IngotEngine
import IngotErrors
import IngotRecipes
import IngotStorage
import IngotTensors
import Testing

/// `tensors` of a recipe: what is different for single tensors. Models: a all 0 and up, b 1, c 2.
@Suite struct TensorRuleTests {
  let scratch: Scratch

  init() throws {
    scratch = try Scratch()
    for (name, value) in [("a", 0.0), ("b", 1), ("c", 2)] {
      try scratch.model(name, languageModel(layers: 3, value: value), config: languageConfig(layers: 3))
    }
  }

  private static let linear = "merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\n"

  @Test func theFirstMatchHolds() throws {
    let (plan, _) = try scratch.merge(
      Self.linear
        + """
        tensors:
        - {match: "*.mlp.*", layers: 1-2, from: @c}
        - {match: "*.mlp.*", method: slerp, parameters: {t: 1}}
        - {match: /^model\\.norm/, parameters: {normalize: false}}
        - {match: lm_head.weight, from: @c, dtype: bfloat16, parameters: {scale: 0.5}}
        """.replacingOccurrences(of: "method: slerp, parameters: {t: 1}", with: "parameters: {weight: 2, normalize: false}"))
    #expect(try scratch.value("model.layers.1.mlp.weight") == 2 + 2.0 / 64)
    #expect(try scratch.value("model.layers.2.mlp.weight") == 2 + 3.0 / 64)
    #expect(try scratch.value("model.layers.0.mlp.weight") == 2 * (1 + 2.0 / 64))
    #expect(try scratch.value("model.norm.weight") == 1)
    #expect(try scratch.value("lm_head.weight") == 1.25)
    #expect(try scratch.tensors()["lm_head.weight"]?.dtype == .bf16)
    #expect(try scratch.value("model.layers.0.attn.weight") == 0.5 + 1.0 / 128)
    #expect(plan.tensors.first { $0.name == "model.layers.1.mlp.weight" }?.inputs.map(\.model) == [2])
    #expect(!plan.notices.contains { $0.severity == .warning })
  }

  /// The method of a rule is any whose number of models fits; a base that only the recipe's method needs is no input of linear.
  @Test func anotherMethod() throws {
    let (plan, _) = try scratch.merge(
      """
      merge_method: task_arithmetic
      base_model: @a
      models: [{model: @b}, {model: @c}]
      parameters: {weight: 1, normalize: false}
      tensors:
      - {match: "*norm*", method: linear}
      - {match: "*attn*", method: linear, parameters: {normalize: true}}
      - {match: "*embed*", method: ties, parameters: {density: 1, scope: model, normalize: true}}
      """)
    #expect(try scratch.value("model.norm.weight") == 3)
    #expect(try scratch.value("model.layers.0.attn.weight") == 1.5 + 1.0 / 128)
    #expect(try scratch.value("model.embed_tokens.weight") == 1.5)
    #expect(plan.json().contains("\"work\":\"ties\"") || plan.json().contains("\"work\": \"ties\""))
  }

  @Test func rulesChangeTheDigest() throws {
    let plain = try scratch.plan(Self.linear).digest
    let one = try scratch.plan(Self.linear + "tensors: [{match: \"*norm*\", parameters: {normalize: false}}]\n").digest
    let two = try scratch.plan(Self.linear + "tensors: [{match: \"*nor?*\", parameters: {normalize: false}}]\n").digest
    let three = try scratch.plan(Self.linear + "tensors: [{match: \"*norm*\", parameters: {normalize: true}}]\n").digest
    #expect(Set([plain, one, two, three].map(\.description)).count == 4)
  }

  @Test func aRuleThatDecidesNothingIsAWarning() throws {
    let plan = try scratch.plan(Self.linear + "tensors: [{match: \"*\", dtype: bfloat16}, {match: \"*norm*\", from: @c}]\n")
    let warnings = plan.notices.filter { $0.severity == .warning }
    #expect(warnings.count == 1 && warnings.first?.message.contains("*norm*") == true && warnings.first?.position?.line == 4)
    #expect(plan.tensors.allSatisfy { $0.dtype == .bf16 })
  }

  @Test func refusals() throws {
    try scratch.model("d", languageModel(layers: 2, width: 4, value: 0), config: languageConfig(layers: 2))
    let absent = try scratch.failure(Self.linear + "tensors: [{match: \"*.2.*\", from: @d}]\n")
    #expect(absent.status == .shape && absent.message.contains("is absent there") && absent.position?.line == 4)
    let shape = try scratch.failure(Self.linear + "tensors: [{match: \"*norm*\", from: @d}]\n")
    #expect(shape.status == .shape && shape.message.contains("has shape [4] there, expected [8]"))
    let weightless = try scratch.failure(
      "merge_method: slerp\nbase_model: @a\nmodels: [{model: @b}]\nparameters: {t: 0.5}\ntensors: [{match: \"*norm*\", method: task_arithmetic}]\n"
    )
    #expect(weightless.status == .recipe && weightless.hint?.contains("under parameters of the rule") == true)
  }
}

/// State dicts that no config describes, and tensors that some models lack.
@Suite struct RawMergeTests {
  let scratch: Scratch

  init() throws {
    scratch = try Scratch()
    try scratch.model("a", filled(["net.0.weight", "net.2.weight", "only.a"], 1))
    try scratch.model("b", filled(["net.0.weight", "net.2.weight", "only.b"], 3))
    try scratch.model("c", filled(["net.0.weight", "only.b"], 5))
  }

  private static func recipe(_ missing: String?, method: String = "linear") -> String {
    let files = ["a", "b", "c"].map { "{model: @\($0)/model.safetensors}" }.joined(separator: ", ")
    return "merge_method: \(method)\nmodels: [\(files)]\nparameters: {weight: 1}\n" + (missing.map { "missing: \($0)\n" } ?? "")
  }

  @Test func missingTensorsAreAnError() throws {
    let error = try scratch.failure(Self.recipe(nil))
    #expect(error.status == .shape && error.subject == "net.2.weight" && error.hint?.contains("missing: intersection or union") == true)
  }

  @Test func intersection() throws {
    let (plan, _) = try scratch.merge(Self.recipe("intersection"))
    #expect(try scratch.tensors().mapValues { $0.values[0] } == ["net.0.weight": 3])
    #expect(plan.notices.contains { $0.severity == .warning && $0.message.contains("3 tensors are not in every model") })
    #expect(!scratch.exists("OUT/config.json"))
  }

  @Test func union() throws {
    let (plan, _) = try scratch.merge(Self.recipe("union"))
    #expect(try scratch.tensors().mapValues { $0.values[0] } == ["net.0.weight": 3, "net.2.weight": 2, "only.a": 1, "only.b": 4])
    #expect(plan.notices.contains { $0.message.contains("lacks some tensors") })
  }

  /// Where a method needs more models than have the tensor, it is copied.
  @Test func unionCopiesWhatCannotBeMerged() throws {
    try scratch.merge(
      "merge_method: task_arithmetic\nbase_model: @a\nmodels: [{model: @b}]\nparameters: {weight: 0.5, normalize: false}\nmissing: union\n")
    #expect(try scratch.tensors().mapValues { $0.values[0] } == ["net.0.weight": 2, "net.2.weight": 2, "only.a": 1, "only.b": 3])
  }

  @Test func theOptionTakesTheRecipesPlace() throws {
    var options = PlanOptions()
    options.missing = .intersection
    let recipe = try Recipe(Self.recipe(nil).replacingOccurrences(of: "@", with: scratch.path + "/"))
    let plan = try Plan.make(recipe, options: options, models: LocalModels(environment: [:]))
    #expect(plan.tensors.map(\.name) == ["net.0.weight"])
  }
}
