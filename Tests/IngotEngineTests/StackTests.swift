import Foundation
import IngotCheckpoints
import IngotEngine
import IngotErrors
import IngotJSON
import IngotRecipes
import IngotTensors
import Testing

/// Tensors of one value each; every name has the shape [4].
func filled(_ names: [String], _ value: Double) -> [TestTensor] {
  names.map { TestTensor($0, .f32, [4], [Double](repeating: value, count: 4)) }
}

func layers(_ prefix: String, _ count: Int, _ inner: String = "w") -> [String] { (0..<count).map { "\(prefix)\($0).\(inner)" } }

let visionNames =
  ["model.visual.patch_embed.w", "model.visual.merger.w"] + layers("model.visual.blocks.", 2) + ["model.language_model.embed_tokens.weight"]
  + layers("model.language_model.layers.", 3) + ["model.language_model.norm.weight", "lm_head.weight"]
let visionConfig = """
  {"model_type": "qwen2_vl", "text_config": {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"]}, "vision_config": {"depth": 2},
   "tie_word_embeddings": false}
  """
let encoderDecoderNames =
  ["shared.weight"] + layers("encoder.block.", 2, "layer.0.q.weight") + ["encoder.final_layer_norm.weight"]
  + layers("decoder.block.", 3, "layer.1.k.weight") + ["decoder.final_layer_norm.weight", "lm_head.weight"]
let encoderDecoderConfig =
  #"{"model_type": "t5", "num_layers": 2, "num_decoder_layers": 3, "num_hidden_layers": 2, "tie_word_embeddings": false}"#

extension Scratch {
  /// Value of a tensor of the output, all of whose elements are equal.
  func value(_ name: String, in output: String = "OUT") throws -> Double? { try tensors(output)[name]?.values.first }

  func config(_ output: String = "OUT") throws -> JSONValue {
    try JSON.parse(try #require(text(output + "/config.json")), origin: "config.json")
  }

  func failure(_ recipe: String) throws -> IngotError { try #require(throws: IngotError.self) { try self.plan(recipe) } }
}

/// Models with several stacks of layers.
@Suite struct StackTests {
  let scratch: Scratch

  init() throws {
    scratch = try Scratch()
    for (name, value) in [("v", 0.0), ("w", 1.0)] {
      try scratch.model(name, filled(visionNames, value), config: visionConfig)
      try scratch.model(name + "5", filled(encoderDecoderNames, value), config: encoderDecoderConfig)
    }
  }

  /// The second model's share rises over each stack by that stack's own layers.
  @Test func gradientsRunOverEachStack() throws {
    let recipe = """
      merge_method: linear
      models: [{model: @v, parameters: {weight: 1}}, {model: @w, parameters: {weight: [0, 1]}}]
      """
    try scratch.merge(recipe)
    #expect(try scratch.value("model.language_model.layers.0.w") == 0)
    #expect(try scratch.value("model.language_model.layers.1.w") == Double(Float(0.5) / Float(1.5)))
    #expect(try scratch.value("model.language_model.layers.2.w") == 0.5)
    #expect(try scratch.value("model.visual.blocks.0.w") == 0)
    #expect(try scratch.value("model.visual.blocks.1.w") == 0.5)
    #expect(try scratch.value("lm_head.weight") == 0)
    try scratch.merge(recipe.replacingOccurrences(of: "@v", with: "@v5").replacingOccurrences(of: "@w", with: "@w5"), to: "T5")
    #expect(try scratch.value("encoder.block.1.layer.0.q.weight", in: "T5") == 0.5)
    #expect(try scratch.value("decoder.block.1.layer.1.k.weight", in: "T5") == Double(Float(0.5) / Float(1.5)))
    #expect(try scratch.value("shared.weight", in: "T5") == 0)
  }

  @Test func extraBlocksDoNotShiftPositions() throws {
    let names = ["model.embed_tokens.weight"] + layers("model.layers.", 4) + layers("mtp.layers.", 2) + ["model.norm.weight"]
    let config = #"{"num_hidden_layers": 3, "num_nextn_predict_layers": 1}"#
    try scratch.model("a", filled(names, 0), config: config)
    try scratch.model("b", filled(names, 1), config: config)
    try scratch.merge(
      "merge_method: linear\nmodels: [{model: @a, parameters: {weight: 1}}, {model: @b, parameters: {weight: [0, 1]}}]\n")
    #expect(try scratch.value("model.layers.2.w") == 0.5)
    for name in ["model.layers.3.w", "mtp.layers.0.w", "mtp.layers.1.w"] { #expect(try scratch.value(name) == 0) }
    // Behind six layers instead of three the block for prediction is number six.
    try scratch.merge(
      """
      merge_method: passthrough
      slices:
      - sources: [{model: @b, layer_range: [0, 3]}]
      - sources: [{model: @a, layer_range: [0, 3]}]
      """, to: "LONG")
    let tensors = try scratch.tensors("LONG")
    #expect(
      Set(tensors.keys) == Set(["model.embed_tokens.weight", "model.norm.weight"] + layers("model.layers.", 7) + layers("mtp.layers.", 2)))
    #expect((0..<7).map { tensors["model.layers.\($0).w"]?.values.first } == [1, 1, 1, 0, 0, 0, 0])
    #expect(try scratch.config("LONG")["num_hidden_layers"]?.asInt == 6)
  }

  @Test func slicesTakeTheTextStack() throws {
    try scratch.merge(
      """
      merge_method: passthrough
      slices:
      - sources: [{model: @v, layer_range: [0, 2]}]
      - sources: [{model: @w, layer_range: [1, 3]}]
      """)
    let tensors = try scratch.tensors()
    #expect(Set(tensors.keys) == Set(visionNames + ["model.language_model.layers.3.w"]))
    #expect((0..<4).map { tensors["model.language_model.layers.\($0).w"]?.values.first } == [0, 0, 1, 1])
    // The tower stands before the layers, the head after them.
    #expect(tensors["model.visual.blocks.1.w"]?.values.first == 0 && tensors["lm_head.weight"]?.values.first == 1)
    let config = try scratch.config()
    #expect(config[path: "text_config.num_hidden_layers"]?.asInt == 4 && config[path: "vision_config.depth"]?.asInt == 2)
    #expect(config[path: "text_config.layer_types"]?.asArray?.compactMap(\.asString) == ["a", "b", "b", "c"])
  }

  @Test func slicesOfAnEncoderDecoderAskForModules() throws {
    let error = try scratch.failure("merge_method: passthrough\nslices:\n- sources: [{model: @v5, layer_range: [0, 2]}]\n")
    #expect(error.status == .unsupported && error.message.contains("\"encoder.block.\" (encoder)"))
    #expect(error.hint?.contains("modules:") == true)
  }

  /// A tensor of a layer that only one source has is never left out.
  @Test func sourcesOfASliceMustMatch() throws {
    let names = ["model.embed_tokens.weight"] + layers("model.layers.", 2)
    try scratch.model("a", filled(names, 0), config: #"{"num_hidden_layers": 2}"#)
    try scratch.model("b", filled(names + ["model.layers.1.bias"], 1), config: #"{"num_hidden_layers": 2}"#)
    let error = try scratch.failure(
      """
      merge_method: linear
      parameters: {weight: 1}
      slices:
      - sources: [{model: @a, layer_range: [0, 2]}, {model: @b, layer_range: [0, 2]}]
      """)
    #expect(error.status == .shape && error.subject == "model.layers.1.bias")
  }

  /// Libraries of different age save rotary frequencies or leave them out, on either side of a slice.
  @Test(arguments: [("old", "new"), ("new", "old")]) func buffersThatSomeSourcesLack(_ first: String, _ second: String) throws {
    let names = ["model.embed_tokens.weight", "lm_head.weight"] + layers("model.layers.", 2)
    let buffers = layers("model.layers.", 2, "self_attn.rotary_emb.inv_freq")
    try scratch.model("old", filled(names, 1) + filled(buffers, 7), config: #"{"num_hidden_layers": 2}"#)
    try scratch.model("new", filled(names, 3), config: #"{"num_hidden_layers": 2}"#)
    let (plan, _) = try scratch.merge(
      """
      merge_method: slerp
      base_model: @\(first)
      parameters: {t: 0.5}
      slices:
      - sources: [{model: @\(first), layer_range: [0, 2]}, {model: @\(second), layer_range: [0, 2]}]
      """)
    #expect(Set(plan.tensors.map(\.name)) == Set(names + (first == "old" ? buffers : [])))
    // Parallel vectors are interpolated linearly.
    #expect(try scratch.value("model.layers.1.w") == 2)
    if first == "old" { #expect(try scratch.value("model.layers.1.self_attn.rotary_emb.inv_freq") == 7) }
  }

  /// What `missing` allows, in slices too.
  @Test func tensorsThatSomeSourcesLack() throws {
    let names = ["model.embed_tokens.weight"] + layers("model.layers.", 2)
    try scratch.model("a", filled(names + ["model.layers.0.bias"], 1), config: #"{"num_hidden_layers": 2}"#)
    try scratch.model("b", filled(names + ["model.layers.1.bias"], 2), config: #"{"num_hidden_layers": 2}"#)
    let recipe =
      "merge_method: linear\nparameters: {weight: 1}\nslices:\n- sources: [{model: @a, layer_range: [0, 2]}, {model: @b, layer_range: [0, 2]}]\n"
    let error = try scratch.failure(recipe)
    #expect(error.subject == "model.layers.0.bias" && error.hint?.contains("missing: intersection or union") == true)
    let (common, _) = try scratch.merge(recipe + "missing: intersection\n", to: "common")
    #expect(Set(common.tensors.map(\.name)) == Set(names))
    #expect(common.notices.contains { $0.subject == "missing" && $0.message.hasPrefix("2 tensors are not in every model") })
    let (all, _) = try scratch.merge(recipe + "missing: union\n", to: "all")
    #expect(Set(all.tensors.map(\.name)) == Set(names + ["model.layers.0.bias", "model.layers.1.bias"]))
    #expect(try scratch.value("model.layers.0.bias", in: "all") == 1)
    #expect(try scratch.value("model.layers.1.bias", in: "all") == 2)
    #expect(try scratch.value("model.layers.1.w", in: "all") == 1.5)
    // Task vectors need the base: what it lacks is copied.
    let vectors =
      "merge_method: task_arithmetic\nbase_model: @a\nparameters: {weight: 3}\nmissing: union\nslices:\n"
      + "- sources: [{model: @b, layer_range: [0, 2]}, {model: @a, layer_range: [0, 2]}]\n"
    try scratch.merge(vectors, to: "vectors")
    #expect(try scratch.value("model.layers.0.bias", in: "vectors") == 1)
    #expect(try scratch.value("model.layers.1.bias", in: "vectors") == 2)
    #expect(try scratch.value("model.layers.1.w", in: "vectors") == 4)
  }

  /// What stands outside of the layers comes from the first slice's model; what others have besides is named.
  @Test func whatOnlyOthersHaveOutsideOfLayers() throws {
    let names = ["model.embed_tokens.weight", "lm_head.weight"] + layers("model.layers.", 2)
    try scratch.model("a", filled(names, 0), config: #"{"num_hidden_layers": 2}"#)
    let more = ["score.bias", "score.weight", "model.layers.2.mtp.w", "model.rotary_emb.inv_freq"]
    try scratch.model("b", filled(names + more, 1), config: #"{"num_hidden_layers": 2}"#)
    let slices = ["a", "b"].map { "- sources: [{model: @\($0), layer_range: [0, 2]}]\n" }
    let plan = try scratch.plan("merge_method: passthrough\nslices:\n" + slices[0] + slices[1])
    let warnings = plan.notices.filter { $0.severity == .warning }
    #expect(warnings.count == 1 && warnings.first?.subject?.hasSuffix("/b") == true)
    #expect(warnings.first?.message.hasSuffix(" and 2 more") == true && warnings.first?.message.contains("inv_freq") == false)
    #expect(Set(plan.tensors.map(\.name)) == Set(names.prefix(2) + layers("model.layers.", 4)))
  }

  @Test func anUntiedHeadOfTheLastSliceIsWritten() throws {
    try scratch.model("tied", languageModel(layers: 2, value: 1, head: false), config: languageConfig(layers: 2, ties: true))
    try scratch.model("untied", languageModel(layers: 2, value: 2), config: languageConfig(layers: 2))
    let (plan, _) = try scratch.merge(
      """
      merge_method: passthrough
      slices:
      - sources: [{model: @tied, layer_range: [0, 1]}]
      - sources: [{model: @untied, layer_range: [1, 2]}]
      """)
    #expect(try scratch.value("lm_head.weight") == 2.5)
    #expect(try scratch.config()["tie_word_embeddings"]?.asBool == false)
    #expect(plan.notices.contains { $0.subject == "lm_head.weight" })
  }
}

/// The modules form.
@Suite struct ModuleTests {
  let scratch: Scratch

  init() throws {
    scratch = try Scratch()
    for (name, value) in [("v", 0.0), ("w", 1.0)] {
      try scratch.model(name, filled(visionNames, value), config: visionConfig)
      try scratch.model(name + "5", filled(encoderDecoderNames, value), config: encoderDecoderConfig)
    }
  }

  @Test func partsThatAreNotNamedAreCopied() throws {
    let (plan, _) = try scratch.merge(
      """
      merge_method: linear
      base_model: @v
      parameters: {weight: 1}
      modules:
        text_decoder: {models: [{model: @v}, {model: @w}]}
      """)
    let tensors = try scratch.tensors()
    #expect(Set(tensors.keys) == Set(visionNames))
    for name in visionNames {
      #expect(tensors[name]?.values.first == (name.contains("visual") ? 0 : 0.5), "\(name)")
    }
    let notices = plan.notices.filter { $0.message.contains("names no module") }
    #expect(notices.map(\.subject) == ["multi_modal_projector", "vision_tower"])
  }

  /// Parameters: source, slice, module, recipe; slices and models in one recipe; both counts in the config.
  @Test func eachPartHasItsOwn() throws {
    try scratch.merge(
      """
      merge_method: linear
      parameters: {weight: 1}
      modules:
        vision_tower:
          parameters: {weight: [{filter: patch, value: 3}, {value: 2}]}
          models: [{model: @v}, {model: @w, parameters: {weight: 6}}]
        multi_modal_projector: {models: [{model: @w}]}
        text_decoder:
          slices:
          - sources: [{model: @v, layer_range: [0, 3]}, {model: @w, layer_range: [0, 3]}]
          - {sources: [{model: @w, layer_range: [1, 3]}], parameters: {weight: 5}}
      """)
    #expect(try scratch.value("model.visual.patch_embed.w") == Double(Float(6) / Float(9)))
    #expect(try scratch.value("model.visual.blocks.0.w") == 0.75)
    #expect(try scratch.value("model.visual.merger.w") == 1)
    #expect(try scratch.value("model.language_model.layers.1.w") == 0.5)
    #expect(try scratch.value("model.language_model.layers.4.w") == 1)
    #expect(try scratch.value("lm_head.weight") == 1)
    let config = try scratch.config()
    #expect(config[path: "text_config.num_hidden_layers"]?.asInt == 5 && config[path: "vision_config.depth"]?.asInt == 2)
  }

  @Test func encoderDecoderAndShared() throws {
    let (plan, _) = try scratch.merge(
      """
      merge_method: passthrough
      modules:
        encoder: {slices: [{sources: [{model: @v5, layer_range: [0, 2]}]}, {sources: [{model: @w5, layer_range: [1, 2]}]}]}
        decoder: {slices: [{sources: [{model: @w5, layer_range: [0, 1]}]}]}
        shared: {models: [{model: @w5}]}
      """)
    let tensors = try scratch.tensors()
    let expected =
      layers("encoder.block.", 3, "layer.0.q.weight") + layers("decoder.block.", 1, "layer.1.k.weight") + [
        "shared.weight", "lm_head.weight", "encoder.final_layer_norm.weight", "decoder.final_layer_norm.weight",
      ]
    #expect(Set(tensors.keys) == Set(expected) && tensors.count == plan.tensors.count)
    #expect(tensors["encoder.block.2.layer.0.q.weight"]?.values.first == 1 && tensors["shared.weight"]?.values.first == 1)
    let config = try scratch.config()
    #expect(config["num_layers"]?.asInt == 3 && config["num_hidden_layers"]?.asInt == 3 && config["num_decoder_layers"]?.asInt == 1)
  }

  @Test func aModuleMayBeTheBeginningOfNames() throws {
    let (plan, _) = try scratch.merge(
      """
      merge_method: passthrough
      base_model: @v
      modules:
        model.visual.blocks: {slices: [{sources: [{model: @w, layer_range: [1, 2]}]}]}
      """)
    #expect(try scratch.value("model.visual.blocks.0.w") == 1)
    #expect(try scratch.value("model.visual.patch_embed.w") == 0)
    #expect(plan.tensors.count == visionNames.count - 1)
    #expect(try scratch.config()[path: "vision_config.depth"]?.asInt == 1)
  }

  @Test(
    arguments: [
      ("modules: {tower: {models: [{model: @v}]}}", "no tensor of model"),
      ("modules: {encoder: {models: [{model: @v}]}}", "belongs to the module"),
      ("modules: {text_decoder: {parameters: {}}}", "neither slices nor models"),
      (
        "modules: {text_decoder: {models: [{model: @v}], slices: [{sources: [{model: @v, layer_range: [0, 1]}]}]}}",
        "both slices and models"
      ),
      ("modules: {multi_modal_projector: {slices: [{sources: [{model: @v, layer_range: [0, 1]}]}]}}", "no stack of layers"),
      ("modules: [1]", "a list of 1"), ("modules: {text_decoder: {model: []}}", "unknown key 'model'"),
    ])
  func refusals(_ modules: String, _ message: String) throws {
    let error = try scratch.failure("merge_method: passthrough\n" + modules + "\n")
    #expect(error.status == .recipe && error.message.contains(message), "\(error)")
    #expect(error.position?.line == 2)
  }
}

/// Names of one architecture that are spelled differently.
@Suite struct LayoutTests {
  /// Issue 576 of mergekit: a text fine-tune goes into the text tower, the rest stays.
  @Test(arguments: ["model.language_model.", "language_model.model.", "model."])
  func textIntoVision(_ prefix: String) throws {
    let scratch = try Scratch()
    let head = prefix == "language_model.model." ? "language_model.lm_head.weight" : "lm_head.weight"
    let vision = ["visual.merger.w"] + layers("visual.blocks.", 2)
    try scratch.model(
      "vlm", filled(vision + [prefix + "embed_tokens.weight", head] + layers(prefix + "layers.", 2), 0),
      config: #"{"text_config": {"num_hidden_layers": 2}, "vision_config": {"depth": 2}, "tie_word_embeddings": false}"#)
    try scratch.model(
      "text", filled(["model.embed_tokens.weight", "lm_head.weight"] + layers("model.layers.", 2), 1),
      config: #"{"num_hidden_layers": 2, "tie_word_embeddings": false}"#)
    let (plan, _) = try scratch.merge(
      "merge_method: task_arithmetic\nbase_model: @vlm\nmodels: [{model: @text}]\nparameters: {weight: 0.5, normalize: false}\n")
    let tensors = try scratch.tensors()
    for (name, tensor) in tensors { #expect(tensor.values.first == (name.hasPrefix("visual") ? 0 : 0.5), "\(name)") }
    #expect(tensors.count == 7)
    #expect(plan.notices.contains { $0.message.contains("lacks the vision_tower: 2 tensors; they are copied from") })
    // The other way round nothing may be lost.
    let error = try scratch.failure("merge_method: linear\nmodels: [{model: @text}, {model: @vlm}]\nparameters: {weight: 1}\n")
    #expect(error.status == .shape && error.hint?.contains("vlm the base model") == true)
  }

  @Test func aTiedTextModelFeedsTheHead() throws {
    let scratch = try Scratch()
    try scratch.model(
      "vlm", filled(["language_model.model.embed_tokens.weight", "language_model.lm_head.weight", "vision_tower.w"], 0),
      config: #"{"tie_word_embeddings": false}"#)
    try scratch.model("text", filled(["model.embed_tokens.weight"], 1), config: #"{"tie_word_embeddings": true}"#)
    try scratch.merge("merge_method: linear\nmodels: [{model: @vlm}, {model: @text}]\nparameters: {weight: 1}\n")
    #expect(try scratch.value("language_model.lm_head.weight") == 0.5)
    #expect(try scratch.value("vision_tower.w") == 0)
  }

  @Test func aBaseModelWithoutThePrefix() throws {
    let scratch = try Scratch()
    try scratch.model("full", filled(["newt.embed.w"] + layers("newt.layer.", 2) + ["newt.norm.gamma"], 0), config: #"{"n_layers": 2}"#)
    try scratch.model("base", filled(["embed.w"] + layers("layer.", 2) + ["norm.gamma"], 1), config: #"{"n_layers": 2}"#)
    for (first, second) in [("full", "base"), ("base", "full")] {
      let plan = try scratch.plan("merge_method: linear\nmodels: [{model: @\(first)}, {model: @\(second)}]\nparameters: {weight: 1}\n")
      #expect(plan.tensors.count == 4 && plan.tensors.allSatisfy { $0.inputs.count == 2 })
      #expect(plan.tensors.contains { $0.name == "newt.norm.gamma" } == (first == "full"))
    }
  }

  /// GPT-2's original files hold masks that newer ones leave out.
  @Test(arguments: [("a", "b", true), ("b", "a", false)])
  func buffersMayBeMissing(_ first: String, _ second: String, _ isKept: Bool) throws {
    let scratch = try Scratch()
    let mask = TestTensor("h.0.attn.bias", .f32, [1, 1, 2, 2], [1, 0, 1, 1])
    try scratch.model("a", filled(["h.0.w"], 0) + [mask], config: "{}")
    try scratch.model("b", filled(["h.0.w"], 1), config: "{}")
    let (plan, _) = try scratch.merge("merge_method: linear\nmodels: [{model: @\(first)}, {model: @\(second)}]\nparameters: {weight: 1}\n")
    #expect(try scratch.tensors().keys.contains("h.0.attn.bias") == isKept)
    #expect(plan.notices.contains { $0.message.contains("buffer") })
  }
}
