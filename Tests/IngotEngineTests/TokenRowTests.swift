import IngotEngine
import IngotErrors
import IngotJSON
import IngotTensors
import Testing

/// Rows of tokens are found below whatever names families have for them, and never left behind in silence.
@Suite struct TokenRowTests {
  let scratch: Scratch

  init() throws { scratch = try Scratch() }

  private static func tokenizer(_ tokens: String...) -> String {
    let vocabulary = tokens.enumerated().map { "\"\($0.element)\": \($0.offset)" }.joined(separator: ", ")
    return #"{"model": {"type": "BPE", "vocab": {\#(vocabulary)}, "merges": []}}"#
  }

  private func write(_ name: String, _ embedding: String, _ rows: [Double], _ tokenizer: String) throws {
    let values = rows.flatMap { [$0, $0] }
    try scratch.model(
      name, [TestTensor(embedding, .f32, [rows.count, 2], values), TestTensor("norm.weight", .f32, [2], [1, 1])],
      config: "{\"vocab_size\": \(rows.count)}", extra: ["tokenizer.json": tokenizer])
  }

  private static let recipe = """
    merge_method: linear
    models: [{model: @a, parameters: {weight: 1}}, {model: @b, parameters: {weight: 0}}]
    tokenizer_source: union
    """

  @Test(arguments: [
    "model.embed_tokens.weight", "deberta.embeddings.word_embeddings.weight", "model.embeddings.tok_embeddings.weight",
    "text_model.embeddings.token_embedding.weight", "word_embeddings.weight",
  ])
  func unionOfTheRows(_ name: String) throws {
    try write("a", name, [1, 2], Self.tokenizer("x", "y"))
    try write("b", name, [20, 30], Self.tokenizer("y", "z"))
    try scratch.merge(Self.recipe)
    let found = try #require(try scratch.tensors()[name])
    #expect(found.shape == [3, 2] && found.values == [1, 1, 2, 2, 30, 30])
    #expect(try scratch.config()["vocab_size"]?.asInt == 3)
  }

  @Test func rowsThatAreNotKnown() throws {
    try write("a", "lexicon.weight", [1, 2], Self.tokenizer("x", "y"))
    try write("b", "lexicon.weight", [20, 30], Self.tokenizer("y", "z"))
    let error = try scratch.failure(Self.recipe)
    #expect(error.status == .unsupported && error.position?.line == 3 && error.message.hasPrefix("no tensor of the output is known"))
    // Where every number stays what it was there is nothing to move.
    try write("b", "lexicon.weight", [20, 30], Self.tokenizer("x", "y"))
    try scratch.merge(Self.recipe)
    #expect(try scratch.tensors()["lexicon.weight"]?.values == [1, 1, 2, 2])
  }
}
