import IngotCheckpoints
import IngotJSON
import IngotTensors
import Testing

@Suite("Tensor names")
struct TensorNamesTests {
  static let tied: JSONValue = .object(["tie_word_embeddings": .bool(true)])
  static let untied: JSONValue = .object(["tie_word_embeddings": .bool(false), "model_type": .string("gpt2")])

  @Test(
    "a config ties head and embedding by its flag, else by its model type",
    arguments: [
      (#"{"tie_word_embeddings":true}"#, true), (#"{"tie_word_embeddings":false,"model_type":"gemma2"}"#, false),
      (#"{"text_config":{"tie_word_embeddings":true}}"#, true), (#"{"model_type":"gpt2"}"#, true), (#"{"model_type":"bert"}"#, true),
      (#"{"model_type":"t5"}"#, true), (#"{"model_type":"gemma3","text_config":{"tie_word_embeddings":false}}"#, false),
      (#"{"text_config":{"model_type":"gemma3_text"}}"#, true), (#"{"model_type":"llama"}"#, false), ("{}", false),
    ])
  func ties(_ config: String, _ expected: Bool) throws {
    #expect(TensorNames.tiesEmbeddings(try JSON.parse(config, origin: "c")) == expected)
    #expect(!TensorNames.tiesEmbeddings(nil))
  }

  @Test(
    "head and embedding stand for each other when tied",
    arguments: [
      ("lm_head.weight", "model.embed_tokens.weight"), ("output.weight", "model.tok_embeddings.weight"),
      ("embed_out.weight", "gpt_neox.embed_in.weight"), ("lm_head.weight", "transformer.wte.weight"), ("lm_head.weight", "wte.weight"),
      ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"), ("lm_head.weight", "shared.weight"),
      ("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"), ("lm_head.weight", "backbone.embeddings.weight"),
      ("vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight"),
      ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"),
    ])
  func substitutes(_ head: String, _ embedding: String) {
    #expect(TensorNames.substitutes(for: head, config: Self.tied).contains(embedding))
    #expect(TensorNames.substitutes(for: embedding, config: Self.tied).contains(head))
    #expect(TensorNames.isTiedHead(head) && !TensorNames.isTiedHead(embedding))
    #expect(TensorNames.isEmbedding(head) && TensorNames.isEmbedding(embedding))
    #expect(!TensorNames.substitutes(for: head, config: Self.untied).contains(embedding))
    #expect(TensorNames.substitutes(for: head, config: nil).isEmpty)
  }

  @Test("T5's three embeddings are one tensor whatever the config says")
  func alwaysTied() {
    #expect(
      TensorNames.substitutes(for: "encoder.embed_tokens.weight", config: Self.untied) == ["shared.weight", "decoder.embed_tokens.weight"])
    #expect(TensorNames.substitutes(for: "model.layers.0.mlp.up_proj.weight", config: Self.tied).isEmpty)
  }

  @Test(
    "other spellings",
    arguments: [
      ("transformer.h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight"), ("wte.weight", "transformer.wte.weight"),
      ("bert.encoder.layer.0.output.LayerNorm.weight", "encoder.layer.0.output.LayerNorm.gamma"),
      ("bert.embeddings.LayerNorm.beta", "bert.embeddings.LayerNorm.bias"), ("encoder.layer.0.x", "bert.encoder.layer.0.x"),
      ("model.layers.3.mlp.up_proj.weight", "layers.3.mlp.up_proj.weight"),
    ])
  func aliases(_ name: String, _ alias: String) {
    #expect(TensorNames.aliases(of: name).contains(alias))
    #expect(TensorNames.aliases(of: alias).contains(name))
    #expect(!TensorNames.aliases(of: name).contains(name))
  }

  @Test("names without other spellings, and names that are no embeddings")
  func plain() {
    #expect(TensorNames.aliases(of: "lm_head.weight").isEmpty)
    #expect(TensorNames.aliases(of: "transformer.other.weight").isEmpty)
    for name in ["model.norm.weight", "attention.output.weight", "bert.embeddings.position_embeddings.weight", "", "x.lm_head.weight"] {
      #expect(!TensorNames.isEmbedding(name), "\(name)")
    }
  }

  @Test("embeddings of tokens below the prefixes of their families, and none of towers")
  func embeddingsOfFamilies() {
    for name in [
      "deberta.embeddings.word_embeddings.weight", "model.embeddings.tok_embeddings.weight", "text_model.embeddings.token_embedding.weight",
      "blenderbot.decoder.embed_tokens.weight", "word_embeddings.weight",
    ] {
      #expect(TensorNames.isInputEmbedding(name), "\(name)")
      #expect(TensorNames.vocabularyAxis(name, Shape([7, 4])) == 0)
    }
    for name in ["talker.model.embed_tokens.weight", "audio_tower.embed_tokens.weight", "model.embed_tokens_per_layer.weight"] {
      #expect(!TensorNames.isEmbedding(name), "\(name)")
    }
  }

  @Test(
    "layouts of one model",
    arguments: [
      ("model.language_model.layers.0.w", "language_model.model.layers.0.w"), ("model.language_model.norm.weight", "model.norm.weight"),
      ("model.layers.0.w", "language_model.model.layers.0.w"), ("language_model.lm_head.weight", "lm_head.weight"),
      ("model.visual.blocks.0.w", "visual.blocks.0.w"),
      ("model.vision_tower.vision_model.encoder.w", "vision_tower.vision_model.encoder.w"),
      ("vision_tower.vision_model.encoder.w", "vision_tower.encoder.w"),
    ])
  func layouts(_ name: String, _ other: String) {
    #expect(TensorNames.respellings(of: name, leading: []).contains(other))
    #expect(TensorNames.respellings(of: other, leading: []).contains(name))
    #expect(!TensorNames.respellings(of: name, leading: []).contains(name))
  }

  @Test("a base model without the prefix of the full one, whatever it is called, but no guess among several")
  func prefixes() {
    #expect(TensorNames.respellings(of: "newt.encoder.w", leading: ["encoder"]) == ["encoder.w"])
    #expect(TensorNames.respellings(of: "newt.encoder.w", leading: ["other"]).isEmpty)
    #expect(TensorNames.respellings(of: "0.encoder.w", leading: ["encoder"]).isEmpty)
    let names: Set = ["newt.encoder.w", "a.x", "b.x"]
    #expect(TensorNames.respelledUniquely("encoder.w", leading: ["newt", "a"], has: names.contains) == "newt.encoder.w")
    #expect(TensorNames.respelledUniquely("x", leading: ["newt", "a", "b"], has: names.contains) == nil)
  }

  @Test("buffers are told from weights")
  func buffers() {
    #expect(TensorNames.isBuffer("h.0.attn.bias", rank: 4) && !TensorNames.isBuffer("h.0.attn.bias", rank: 1))
    #expect(TensorNames.isBuffer("model.layers.0.self_attn.rotary_emb.inv_freq", rank: 1))
    #expect(!TensorNames.isBuffer("model.layers.0.self_attn.q_proj.bias", rank: 1))
  }
}
