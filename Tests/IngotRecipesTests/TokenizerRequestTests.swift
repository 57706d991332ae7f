import IngotErrors
import IngotRecipes
import Testing

@Suite struct TokenizerRequestTests {
  @Test func shortForm() throws {
    #expect(try parse("{merge_method: passthrough, models: [{model: a}]}").tokenizer == nil)
    #expect(try parse("{merge_method: passthrough, models: [{model: a}], tokenizer_source: ''}").tokenizer == nil)
    for (text, source) in [("union", TokenizerRequest.Source.union), ("base", .base), ("a", .model(0)), ("z", .model(1))] {
      let recipe = try parse("{merge_method: passthrough, models: [{model: a}], tokenizer_source: \(text)}")
      #expect(recipe.tokenizer?.source == source)
      #expect(recipe.tokenizer?.rowMultiple == 1)
      #expect(recipe.models.map(\.name) == (text == "z" ? ["a", "z"] : ["a"]))
    }
  }

  /// As the first versions of mergekit named a model.
  @Test func theOldNameOfAModel() throws {
    for source in ["tokenizer_source: 'model:a'", "tokenizer: {source: 'model:a'}"] {
      let recipe = try parse("{merge_method: passthrough, models: [{model: a}], \(source)}")
      #expect(recipe.tokenizer?.source == .model(0) && recipe.models.count == 1)
      #expect(recipe.notices.map(\.severity) == [.info])
    }
  }

  @Test func anEmptyMappingIsAUnion() throws {
    let recipe = try parse("{merge_method: passthrough, models: [{model: a}], tokenizer: {}}")
    #expect(recipe.tokenizer?.source == .union)
    #expect(recipe.tokenizer?.tokens.isEmpty == true)
  }

  @Test func longForm() throws {
    let recipe = try parse(
      """
      merge_method: linear
      base_model: b
      models:
        - {model: a, parameters: {weight: 1}}
        - {model: b, parameters: {weight: 1}}
      tokenizer:
        source: base
        pad_to_multiple_of: 64
        tokens:
          <|im_start|>: {source: a}
          zero: {source: {kind: zero}, force: true}
          moved: {source: {kind: model_token, model: c, token: other}}
          row: {source: {model: {model: {path: "x+y@z"}}, token_id: 7}, force: no}
          mapped: {source: {model: {path: a}}}
          bare:
      """)
    let request = try #require(recipe.tokenizer)
    #expect(recipe.models.map(\.name) == ["a", "b", "c", "x+y@z"])
    #expect(request.source == .base)
    #expect(request.rowMultiple == 64)
    #expect(request.tokens.map(\.text) == ["<|im_start|>", "zero", "moved", "row", "mapped", "bare"])
    #expect(
      request.tokens.map(\.embedding) == [
        .model(0), .zero, .modelToken(model: 2, token: "other"), .modelRow(model: 3, row: 7), .model(0), nil,
      ])
    #expect(request.tokens.map(\.isForced) == [false, true, false, false, false, false])
  }

  @Test func chatTemplates() throws {
    func choice(_ text: String) throws -> ChatTemplateRequest.Choice? {
      try parse("merge_method: passthrough\nmodels: [{model: a}]\nchat_template: \(text)\n").chatTemplate?.choice
    }
    #expect(try choice("auto") == .automatic)
    #expect(try choice("~") == nil)
    for name in ChatTemplates.names { #expect(try choice(name) == .text(try #require(ChatTemplates.named(name)))) }
    #expect(try choice("'{{ messages[0].content }} and more'") == .text("{{ messages[0].content }} and more"))
  }

  private func parse(_ text: String) throws -> Recipe {
    try Recipe.parse(Array(text.utf8), origin: "recipe.yml", catalog: catalog)
  }
}
