import Foundation
import IngotEngine
import IngotErrors
import IngotJSON
import IngotRecipes
import IngotTensors
import Testing

/// What mergekit is known for in planning, one test each: its documented rules are kept, its accidents are not.
@Suite struct QuirkTests {
  let scratch: Scratch

  init() throws {
    scratch = try Scratch()
    for (name, value) in [("a", 0.0), ("b", 1.0)] {
      try scratch.model(name, filled(Self.names, value), config: languageConfig(layers: 4))
    }
  }

  private static let names =
    ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    + layers("model.layers.", 4, "self_attn.o_proj.weight") + layers("model.layers.", 4, "mlp.down_proj.weight")
    + layers("model.layers.", 4, "self_attn.q_norm.weight")

  private func plan(_ text: String) throws -> Plan { try scratch.plan(text) }

  @Test func embeddingsNormAndHeadStandAtTheFirstValueOfAGradient() throws {
    try scratch.merge("merge_method: slerp\nbase_model: @a\nmodels: [{model: @b}]\nparameters: {t: [0, 1]}\n")
    for name in ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "model.layers.0.mlp.down_proj.weight"] {
      #expect(try scratch.value(name) == 0)
    }
    #expect(try scratch.value("model.layers.3.mlp.down_proj.weight") == 1)
  }

  @Test func aSliceOfOneLayerStandsAtTheLastValue() throws {
    try scratch.merge(
      """
      merge_method: linear
      parameters: {normalize: false}
      slices:
      - sources: [{model: @b, layer_range: [0, 1], parameters: {weight: [3, 7]}}]
      - sources: [{model: @b, layer_range: [1, 4], parameters: {weight: [3, 7]}}]
      """)
    let found = try (0..<4).map { try scratch.value("model.layers.\($0).mlp.down_proj.weight") }
    #expect(found == [7, 3, 5, 7])
  }

  /// mergekit takes whichever comes first in a set that has no order.
  @Test func withoutABaseTheFirstModelGivesConfigAndNames() throws {
    try scratch.model("c", filled(Self.names, 2), config: languageConfig(layers: 4, more: ", \"mark\": 1"))
    for (first, second) in [("a", "c"), ("c", "a")] {
      try scratch.merge(
        "merge_method: linear\nmodels: [{model: @\(first)}, {model: @\(second)}]\nparameters: {weight: 1}\n", to: first + second)
      #expect(try (scratch.config(first + second)["mark"] != nil) == (first == "c"))
    }
  }

  @Test func theBaseIsAddedInTheModelsFormOnly() throws {
    #expect(try plan("merge_method: task_arithmetic\nbase_model: @a\nmodels: [{model: @b}]\nparameters: {weight: 1}\n").models.count == 2)
    let error = try scratch.failure(
      "merge_method: task_arithmetic\nbase_model: @a\nparameters: {weight: 1}\nslices: [{sources: [{model: @b, layer_range: [0, 4]}]}]\n")
    #expect(error.status == .recipe && error.message.contains("is not among the sources of this slice"))
  }

  @Test func aSliceMayHaveItsOwnBase() throws {
    try scratch.merge(
      """
      merge_method: task_arithmetic
      base_model: @a
      parameters: {weight: 0.25, normalize: false}
      slices:
      - sources: [{model: @a, layer_range: [0, 2]}, {model: @b, layer_range: [0, 2]}]
      - {base_model: @b, sources: [{model: @a, layer_range: [2, 4]}, {model: @b, layer_range: [2, 4]}]}
      """)
    let found = try (0..<4).map { try scratch.value("model.layers.\($0).mlp.down_proj.weight") }
    #expect(found == [0.25, 0.25, 0.75, 0.75])
  }

  /// Olmo 2's norms are not in mergekit's list of the architecture.
  @Test func tensorsOfNoListAreKept() throws {
    let plan = try plan("merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: 1}\n")
    #expect(Set(plan.tensors.map(\.name)) == Set(Self.names) && plan.tensors.allSatisfy { $0.inputs.count == 2 })
  }

  @Test func slipsAreFoundBeforeModelsAre() throws {
    for text in [
      "merge_method: linaer\nmodels: [{model: @none}]\n",
      "merge_method: linear\nmodels: [{model: @none}]\nparameters: {weight: 1}\ndtype: bf15\n",
    ] {
      #expect(try scratch.failure(text).status == .recipe)
    }
  }

  @Test func residualWeightIsTakenAndSaid() throws {
    let plan = try plan(
      "merge_method: passthrough\nslices:\n- {residual_weight: 0.5, sources: [{model: @a, layer_range: [0, 4], residual_weight: 1}]}\n")
    #expect(plan.notices.filter { $0.message.contains("'residual_weight' is known to mergekit and changes nothing here") }.count == 2)
  }

  /// Layers that are repeated with their outputs set to zero do nothing until they are trained.
  @Test func scaleFiltersOfAStackedModel() throws {
    let (plan, _) = try scratch.merge(
      """
      merge_method: passthrough
      slices:
      - sources: [{model: @b, layer_range: [0, 4]}]
      - sources:
        - model: @b
          layer_range: [2, 4]
          parameters:
            scale: [{filter: o_proj, value: 0}, {filter: down_proj, value: 0}, {value: 1}]
      - sources: [{model: @b, layer_range: [3, 4], parameters: {scale: {filter: down_proj, value: 0.5}}}]
      """)
    #expect(try (0..<7).map { try scratch.value("model.layers.\($0).self_attn.o_proj.weight") } == [1, 1, 1, 1, 0, 0, 1])
    #expect(try (0..<7).map { try scratch.value("model.layers.\($0).mlp.down_proj.weight") } == [1, 1, 1, 1, 0, 0, 0.5])
    #expect(try (0..<7).map { try scratch.value("model.layers.\($0).self_attn.q_norm.weight") } == [Double](repeating: 1, count: 7))
    #expect(plan.tensors.count == 3 + 3 * 7)
  }

  /// Filters see the name in the model that is read, parameters of the tensor the name in the output.
  @Test func filtersSeeInputNames() throws {
    try scratch.merge(
      """
      merge_method: linear
      slices:
      - sources:
        - {model: @a, layer_range: [0, 1], parameters: {weight: 1}}
        - {model: @b, layer_range: [3, 4], parameters: {weight: [{filter: layers.3., value: 3}, {value: 1}]}}
      """)
    #expect(try scratch.value("model.layers.0.mlp.down_proj.weight") == 0.75)
    #expect(try scratch.value("lm_head.weight") == 0.5)
  }

  /// mergekit takes the layers of the last and the parameters of the first.
  @Test func aModelMayStandTwiceInASlice() throws {
    var tensors = filled(Self.names, 1)
    tensors += [TestTensor("model.layers.4.mlp.down_proj.weight", .f32, [4], [5, 5, 5, 5])]
    tensors += filled(["model.layers.4.self_attn.o_proj.weight", "model.layers.4.self_attn.q_norm.weight"], 1)
    try scratch.model("five", tensors, config: languageConfig(layers: 5))
    let (plan, _) = try scratch.merge(
      """
      merge_method: linear
      slices:
      - sources:
        - {model: @five, layer_range: [0, 1], parameters: {weight: 1}}
        - {model: @five, layer_range: [4, 5], parameters: {weight: 3}}
      """)
    #expect(try scratch.value("model.layers.0.mlp.down_proj.weight") == 4)
    #expect(plan.notices.contains { $0.message.contains("both are inputs") })
  }

  /// Some layers merged, others as they are in one of the models.
  @Test(arguments: ["slerp", "nuslerp", "multislerp", "task_arithmetic", "ties", "sce", "nearswap", "ram", "arcee_fusion"])
  func slicesOfOneSourceAreCopied(_ method: String) throws {
    let takesAny = ["slerp", "nuslerp", "multislerp", "arcee_fusion"].contains(method)
    let base = method == "nuslerp" ? "" : "base_model: @a\n"
    let settings = ["slerp": "t: 0.5", "nearswap": "t: 0.5", "sce": "", "ram": "", "arcee_fusion": ""][method] ?? "weight: 0.5"
    let recipe = """
      merge_method: \(method)
      \(base)parameters: {\(settings)}
      slices:
      - sources: [{model: @a, layer_range: [0, 1]}]
      - sources: [{model: @a, layer_range: [1, 3]}, {model: @b, layer_range: [1, 3]}]
      - sources: [{model: @LAST, layer_range: [3, 4]}]

      """
    let (plan, _) = try scratch.merge(recipe.replacingOccurrences(of: "LAST", with: "a"))
    #expect(try scratch.value("model.layers.0.mlp.down_proj.weight") == 0)
    #expect(try scratch.value("model.layers.3.mlp.down_proj.weight") == 0)
    #expect(try scratch.value("model.layers.1.mlp.down_proj.weight") != 0)
    #expect(Set(plan.tensors.map(\.name)) == Set(Self.names))
    let last = recipe.replacingOccurrences(of: "LAST", with: "b")
    if takesAny {
      try scratch.merge(last, to: "other")
      #expect(try scratch.value("model.layers.3.mlp.down_proj.weight", in: "other") == 1)
      #expect(try scratch.value("lm_head.weight", in: "other") == 1)
      #expect(try scratch.value("model.embed_tokens.weight", in: "other") == 0)
    } else {
      #expect(try scratch.failure(last).message.contains("is not among the sources of this slice"))
    }
  }

  @Test(arguments: [("[2, 2]", "0 ≤ FIRST < END"), ("[3, 5]", "which has 4 layers"), ("[0]", "two whole numbers")])
  func emptyAndOutlyingRangesAreErrors(_ range: String, _ message: String) throws {
    let error = try scratch.failure("merge_method: passthrough\nslices: [{sources: [{model: @a, layer_range: \(range)}]}]\n")
    #expect(error.status == .recipe && "\(error.message) \(error.hint ?? "")".contains(message))
  }

  @Test func oneConditionAndNumbersInTextAreTaken() throws {
    let recipe = "merge_method: linear\nmodels: [{model: @a}, {model: @b}]\nparameters: {weight: {value: \"1\"}, normalize: 0}\n"
    try scratch.merge(recipe)
    #expect(try scratch.value("model.norm.weight") == 1)
    #expect(try scratch.failure(recipe.replacingOccurrences(of: "{value: \"1\"}", with: "[]")).message.contains("empty list"))
  }

  /// T5 keeps one table of positions in its first layer; stacking layers must neither repeat nor lose it.
  @Test func whatTheFirstLayerHoldsForAllStaysThere() throws {
    let table = "layer.0.SelfAttention.relative_attention_bias.weight"
    let names =
      layers("encoder.block.", 2, "layer.0.w") + layers("decoder.block.", 2, "layer.0.w") + [
        "encoder.block.0." + table, "decoder.block.0." + table,
      ]
    try scratch.model("t5", filled(names, 1), config: #"{"num_layers": 2, "num_decoder_layers": 2}"#)
    let plan = try plan(
      """
      merge_method: passthrough
      modules:
        encoder: {slices: [{sources: [{model: @t5, layer_range: [1, 2]}]}]}
        decoder: {slices: [{sources: [{model: @t5, layer_range: [0, 2]}]}, {sources: [{model: @t5, layer_range: [0, 1]}]}]}
      """)
    let expected =
      layers("encoder.block.", 1, "layer.0.w") + layers("decoder.block.", 3, "layer.0.w") + [
        "encoder.block.0." + table, "decoder.block.0." + table,
      ]
    #expect(Set(plan.tensors.map(\.name)) == Set(expected) && plan.tensors.count == expected.count)
  }
}
