import IngotErrors
import IngotRecipes
import IngotTensors
import Testing

@Suite struct RecipeTests {
  @Test func modelsFormBecomesOneSliceAndTheBaseIsAppended() throws {
    let recipe = try parse(
      """
      merge_method: ties
      models:
        - model: org/a@main
          parameters: {weight: 0.5}
        - model: b
      base_model: base
      parameters:
        weight: 1
        normalize: false
      dtype: bfloat16
      out_dtype: torch.float16
      seed: 18446744073709551615
      """)
    #expect(recipe.method.name == "ties")
    #expect(recipe.form == .models)
    #expect(recipe.models.map(\.name) == ["org/a@main", "b", "base"])
    #expect(recipe.baseModel == 2)
    #expect(recipe.slices.count == 1)
    let slice = try #require(recipe.slices.first)
    #expect(slice.sources.map(\.model) == [0, 1, 2])
    #expect(slice.sources.map(\.isBase) == [false, false, true])
    #expect(slice.sources.map(\.isImplicit) == [false, false, true])
    #expect(slice.base == 2)
    #expect(slice.layerCount == nil)
    #expect(slice.sources.allSatisfy { $0.layers == nil })
    #expect(recipe.dtype == .bf16)
    #expect(recipe.outDType == .f16)
    #expect(recipe.outputDType == .f16)
    #expect(recipe.seed == UInt64.max)
    #expect(recipe.notices.isEmpty)
    #expect(recipe.methodPosition.description == "r.yml:1:15")
  }

  @Test func aListedBaseStaysWhereItIs() throws {
    let recipe = try parse("{merge_method: slerp, models: [{model: base}, {model: b}], base_model: base, parameters: {t: 0.5}}")
    #expect(recipe.models.map(\.name) == ["base", "b"])
    #expect(recipe.slices[0].sources.map(\.isBase) == [true, false])
    #expect(recipe.baseModel == 0)
  }

  @Test func slicesFormKeepsLayerRanges() throws {
    let recipe = try parse(
      """
      slices:
        - sources:
            - model: a
              layer_range: [0, 24]
        - sources:
            - model: b
              layer_range: ["8", 32.0]
              parameters: {scale: 2}
          parameters: {scale: 3}
      merge_method: passthrough
      """)
    #expect(recipe.form == .slices)
    #expect(recipe.slices.map(\.layerCount) == [24, 24])
    #expect(recipe.slices.map { $0.sources[0].layers } == [0..<24, 8..<32])
    #expect(recipe.slices.map { $0.sources[0].model } == [0, 1])
    #expect(recipe.baseModel == nil)
    #expect(try recipe.value(of: "scale", outputName: "x", source: 0, slice: 1, at: 0) == .number(2))
  }

  @Test func aSliceMayHaveItsOwnBase() throws {
    let recipe = try parse(
      """
      merge_method: slerp
      parameters: {t: 0.5}
      base_model: a
      slices:
        - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]
        - sources: [{model: a, layer_range: [2, 4]}, {model: b, layer_range: [2, 4]}]
          base_model: b
      """)
    #expect(recipe.slices.map(\.base) == [0, 1])
    #expect(recipe.baseModel == 0)
  }

  @Test func aBaseWithoutARoleIsOneMoreInput() throws {
    let recipe = try parse("{merge_method: linear, models: [{model: a}], base_model: base, parameters: {weight: 1}}")
    #expect(recipe.slices[0].sources.count == 2)
    #expect(recipe.method.baseIsInput)
    #expect(try recipe.value(of: "weight", outputName: "x", source: 1, slice: 0, at: 0) == .number(1))
  }

  @Test func passthroughInSlicesMayHaveABase() throws {
    let recipe = try parse("{merge_method: passthrough, slices: [{sources: [{model: a, layer_range: [0, 1]}]}], base_model: c}")
    #expect(recipe.models.map(\.name) == ["a", "c"])
    #expect(recipe.baseModel == 1)
    #expect(recipe.slices[0].base == nil)
  }

  @Test func emptyListsCountAsAbsent() throws {
    #expect(
      try parse("{merge_method: passthrough, models: [{model: a}], slices: [], modules: {}, tokenizer: null, chat_template: ''}").form
        == .models)
  }

  @Test func modelMappings() throws {
    let recipe = try parse(
      """
      merge_method: linear
      parameters: {weight: 1}
      models:
        - model: {model: {path: "a+b@c", revision: r}}
        - model: {model: d@main, lora: null, override_architecture: LlamaForCausalLM}
        - model: {model: {path: e, revision: main}}
        - model: no
      base_model: e@main
      """)
    #expect(recipe.models.map(\.name) == ["a+b@c@r", "d@main", "e@main", "no"])
    #expect(recipe.models[0].location == .fields(path: "a+b@c", revision: "r"))
    #expect(recipe.models[1].overrideArchitecture == "LlamaForCausalLM")
    #expect(recipe.slices[0].sources.map(\.isBase) == [false, false, true, false])
    #expect(recipe.notices.map(\.severity) == [.info])
    #expect(recipe.notices.first?.position?.description == "r.yml:5:63")
  }

  @Test func adapters() throws {
    let recipe = try parse(
      """
      merge_method: linear
      parameters: {weight: 1}
      models:
        - model: a@r+b
        - model: {model: a, lora: b@s}
        - model: {model: a, lora: {path: "c+d", revision: s}}
        - model: {model: a@r, lora: {path: b}}
        - model: a
        - model: a+b+c#1
        - model: {model: a, lora: [b, {path: c, task: 1}]}
        - model: {model: a, lora: [{path: c, task: 1}, b]}
      """)
    // The fourth is the first, in parts; the seventh the sixth. In another order it is another model.
    #expect(recipe.models.map(\.name) == ["a@r+b", "a+b@s", "a+c+d@s", "a", "a+b+c#1", "a+c#1+b"])
    #expect(recipe.models[0].location == .text("a@r+b") && recipe.models[0].adapters.isEmpty)
    #expect(recipe.models[1].adapters == [.text("b@s")])
    #expect(recipe.models[2].adapters == [.fields(path: "c+d", revision: "s")])
    #expect(recipe.models[5].adapters == [.fields(path: "c", revision: nil, task: "1"), .text("b")])
    #expect(
      recipe.notices.map(\.message) == [
        "the model a@r+b is already listed at line 4; it is ignored", "the model a+b+c#1 is already listed at line 9; it is ignored",
      ])
  }

  @Test func aModelListedTwiceIsTakenOnceWithTheFirstSettings() throws {
    let recipe = try parse("{merge_method: linear, models: [{model: a, parameters: {weight: 1}}, {model: a, parameters: {weight: 2}}]}")
    #expect(recipe.slices[0].sources.count == 1)
    #expect(try recipe.value(of: "weight", outputName: "x", source: 0, slice: 0, at: 0) == .number(1))
    #expect(recipe.notices.map(\.message) == ["the model a is already listed at line 1; it is ignored"])
  }

  @Test func twoLayersOfOneModelAreTwoInputs() throws {
    let recipe = try parse(
      "{merge_method: linear, slices: [{sources: [{model: a, layer_range: [0, 1], parameters: {weight: 1}}, {model: a, layer_range: [4, 5], parameters: {weight: 3}}]}]}"
    )
    #expect(recipe.models.count == 1)
    #expect(recipe.slices[0].sources.map(\.layers) == [0..<1, 4..<5])
    #expect(try recipe.value(of: "weight", outputName: "x", source: 1, slice: 0, at: 0) == .number(3))
    #expect(recipe.notices.count == 1)
  }

  @Test func theLastOfKeysGivenTwiceCounts() throws {
    let text = """
      merge_method: ties
      base_model: b
      models: [{model: a, parameters: {weight: 1, weight: 3}}]
      parameters: {density: 0.25}
      parameters: {lambda: 2}
      """
    let recipe = try parse(text)
    #expect(try recipe.value(of: "weight", outputName: "x", source: 0, slice: 0, at: 0) == .number(3))
    #expect(try recipe.value(of: "density", outputName: "x", source: 0, slice: 0, at: 0) == .number(1))
    #expect(try recipe.value(of: "lambda", outputName: "x", slice: 0, at: 0) == .number(2))
    #expect(recipe.notices.map(\.severity) == [.warning, .warning])
    #expect(recipe.notices.map(\.subject) == ["models[0].parameters.weight", "parameters"])
    #expect(recipe.notices.last?.message == "'parameters' is given again at line 5; the last one counts, as in mergekit")
    #expect { try parse(text, strict: true) } throws: { ($0 as? IngotError)?.message == "the key 'parameters' is given again at line 5" }
  }

  /// Key, severity, part of the message. Every one is accepted; the warnings are errors when strict.
  @Test(arguments: [
    ("note: x", Notice.Severity.warning, "'note' is not a key of recipes in this place; it is ignored"),
    ("mode: x", .warning, "'mode' is not a key"), ("type: x", .warning, "'type' is not a key"),
    ("frobnicate: 1", .warning, "'frobnicate' is not a key"), ("density: 1", .warning, "'density' is not a key"),
    ("name: x", .info, "'name' is known to mergekit"), ("residual_weight: 1", .info, "'residual_weight' is known to mergekit"),
    ("parameters: {int8_mask: true}", .info, "'int8_mask' is known to mergekit"),
    ("parameters: {t: 1}", .warning, "'t' is a parameter of slerp, not of linear; it is ignored"),
    ("parameters: {consensus_method: sum}", .warning, "'consensus_method' is not a parameter of linear; it is ignored"),
    ("dtype: fp16", .info, "fp16 is read as float16"),
  ]) func keysThatAreAcceptedWithANotice(_ line: String, _ severity: Notice.Severity, _ message: String) throws {
    let text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n\(line)\n"
    let recipe = try parse(text)
    let notice = try #require(recipe.notices.first)
    #expect(recipe.notices.count == 1)
    #expect(notice.severity == severity)
    #expect(notice.message.hasPrefix(message), "\(notice.message)")
    #expect(notice.position?.line == 3)
    #expect(notice.subject.map { line.hasPrefix($0) || $0.hasPrefix("parameters.") } == true)
    if severity == .warning {
      #expect { try parse(text, strict: true) } throws: { ($0 as? IngotError)?.position?.line == 3 }
    } else {
      #expect(throws: Never.self) { try parse(text, strict: true) }
    }
  }

  @Test func unknownKeysInInnerPlaces() throws {
    let recipe = try parse(
      """
      merge_method: ties
      base_model: c
      models:
        - model: a
          weight: 3
          parameters:
            weight: [{value: 1, filter: x, note: y}]
            lambda: 2
        - model: c
          parameters: {weight: 1}
      """)
    #expect(
      recipe.notices.map(\.message) == [
        "'weight' has no effect in this place; it belongs under parameters; it is ignored",
        "'note' is not a key of recipes in this place; it is ignored",
        "'lambda' of ties cannot differ by model; it belongs under parameters of the recipe or of a slice; it is ignored",
        "the parameters of the base model c are not used by ties",
      ])
    #expect(recipe.notices.map { $0.position?.description } == ["r.yml:5:5", "r.yml:7:38", "r.yml:8:7", "r.yml:9:5"])
    #expect(
      recipe.notices.map(\.subject) == [
        "models[0].weight", "models[0].parameters.weight[0].note", "models[0].parameters.lambda", "parameters",
      ])
    #expect(recipe.slices[0].sources[1].settings.isEmpty)
  }

  @Test func presetsChooseDefaults() throws {
    let text = "{merge_method: ties, base_model: c, models: [{model: a, parameters: {weight: 1}}]"
    for (preset, expected) in [
      ("", "tensor"), (", preset: mergekit", "tensor"), (", preset: paper", "model"), (", preset: paper, parameters: {scope: off}", "off"),
    ] {
      let recipe = try parse(text + preset + "}")
      #expect(try recipe.value(of: "scope", outputName: "x", slice: 0, at: 0) == .text(expected))
    }
  }

  @Test func jsonTextIsARecipe() throws {
    let recipe = try parse(
      "{\n\t\"merge_method\": \"linear\",\n\t\"models\": [{\"model\": \"\\/m\\/\\ud83d\\ude00\", \"parameters\": {\"weight\": 1e-5}}],\n\t\"dtype\": \"float32\"\n}"
    )
    #expect(recipe.models.map(\.name) == ["/m/😀"])
    #expect(try recipe.value(of: "weight", outputName: "x", source: 0, slice: 0, at: 0) == .number(1e-5))
  }
}
