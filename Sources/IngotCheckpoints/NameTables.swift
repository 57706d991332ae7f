/// What the field's model families call their tensors and config keys: data only, read through `TensorNames`, `LayerIndex` and
/// `ConfigEdit`. A new family is a line here.
enum NameTables {
  // MARK: - Tied weights

  /// Names of one and the same tensor, whatever the config says: a model holds at least one of each group.
  static let alwaysTied: [[String]] = [
    ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"],
    ["model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"],
    ["cls.predictions.bias", "cls.predictions.decoder.bias"],
    ["lm_head.bias", "lm_head.decoder.bias"],
  ]

  /// An output head, and the names that its input embedding goes by: one tensor when the config ties them.
  static let tiedHeads: [(head: String, embeddings: [String])] = [
    (
      "lm_head.weight",
      [
        "model.embed_tokens.weight", "model.language_model.embed_tokens.weight", "language_model.model.embed_tokens.weight",
        "embed_tokens.weight", "transformer.wte.weight", "wte.weight", "transformer.word_embeddings.weight",
        "word_embeddings.weight", "backbone.embeddings.weight", "shared.weight", "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight", "model.shared.weight", "model.decoder.embed_tokens.weight",
      ]
    ),
    ("language_model.lm_head.weight", ["language_model.model.embed_tokens.weight"]),
    ("output.weight", ["model.tok_embeddings.weight", "tok_embeddings.weight"]),
    ("embed_out.weight", ["gpt_neox.embed_in.weight", "embed_in.weight"]),
    ("proj_out.weight", ["model.decoder.embed_tokens.weight"]),
    (
      "cls.predictions.decoder.weight",
      ["bert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight"]
    ),
    ("lm_head.decoder.weight", ["roberta.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight"]),
    ("vocab_projector.weight", ["distilbert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight"]),
    ("generator_lm_head.weight", ["electra.embeddings.word_embeddings.weight"]),
  ]

  /// Model types whose config class ties head and embedding when config.json does not say (such files leave defaults out).
  static let tiedByDefault: Set<String> = [
    "albert", "bart", "bert", "bloom", "camembert", "cohere", "cohere2", "deberta", "deberta-v2", "distilbert", "electra",
    "falcon", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gpt2", "gpt_bigcode", "gpt_neo", "jais",
    "lfm2", "mamba", "marian", "mbart", "mpnet", "mpt", "mt5", "opt", "pegasus", "roberta", "smollm3", "starcoder2", "t5", "umt5",
    "whisper", "xlm-roberta",
  ]

  // MARK: - Other spellings of a name

  /// Base models are saved without the prefix that the full model has: `prefix` may be there or not before names that begin with a stem.
  static let optionalPrefixes: [(prefix: String, stems: [String])] = [
    ("transformer.", ["h.", "wte.", "wpe.", "ln_f."]),
    ("model.", ["layers.", "embed_tokens.", "norm."]),
    ("bert.", ["embeddings.", "encoder.", "pooler."]),
    ("roberta.", ["embeddings.", "encoder.", "pooler."]),
    ("distilbert.", ["embeddings.", "transformer.layer."]),
  ]

  /// Endings that older TensorFlow conversions wrote otherwise.
  static let endings: [(String, String)] = [
    ("LayerNorm.weight", "LayerNorm.gamma"),
    ("LayerNorm.bias", "LayerNorm.beta"),
  ]

  /// Prefixes of one and the same part in different layouts of multi-modal models.
  static let interchangeable: [[String]] = [
    ["model.language_model.", "language_model.model.", "language_model.", "model.text_model.", "model."],
    ["language_model.lm_head.", "lm_head."],
    ["model.visual.", "visual."],
    ["model.vision_tower.", "vision_tower.", "vision_tower.vision_model.", "model.vision_tower.vision_model."],
    ["model.multi_modal_projector.", "multi_modal_projector."],
    ["model.audio_tower.", "audio_tower."],
  ]

  /// Endings of buffers, with the rank where a weight may have the same ending.
  static let buffers: [(ending: String, rank: Int?)] = [
    ("rotary_emb.inv_freq", nil), (".attn.masked_bias", nil), (".attention.masked_bias", nil), (".attn.bias", 4), (".attention.bias", 4),
    ("position_ids", nil),
  ]

  /// Endings of tensors that the first layer of a stack holds for all of them.
  static let firstLayerEndings = [".layer.0.SelfAttention.relative_attention_bias.weight"]

  // MARK: - Embeddings

  /// 2-D tensors with one row per token (or position) whose row counts may differ between models of one family.
  static let embeddings: Set<String> = [
    "lm_head.weight", "lm_head.linear.weight", "lm_head.decoder.weight", "output.weight", "embed_out.weight",
    "cls.predictions.decoder.weight", "vocab_projector.weight", "transformer.output_layer.weight", "proj_out.weight",
    "model.embed_tokens.weight", "embed_tokens.weight", "model.language_model.embed_tokens.weight", "model.tok_embeddings.weight",
    "tok_embeddings.weight", "transformer.wte.weight", "wte.weight", "transformer.embd.wte.weight", "layers.0.wte.weight",
    "transformer.word_embeddings.weight", "transformer.embedding.word_embeddings.weight", "backbone.embeddings.weight",
    "gpt_neox.embed_in.weight", "bert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight",
    "roberta.embeddings.word_embeddings.weight", "distilbert.embeddings.word_embeddings.weight", "shared.weight",
    "model.shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight", "model.visual.pos_embed.weight", "word_embeddings.weight",
  ]

  /// What else embeddings of tokens end in, whatever stands before: families keep them below prefixes of their own.
  static let embeddingEndings = [
    ".embed_tokens.weight", ".word_embeddings.weight", ".tok_embeddings.weight", ".token_embedding.weight", ".wte.weight",
    ".embed_in.weight",
  ]

  /// Endings of those that are output heads.
  static let headEndings = [
    "lm_head.weight", "lm_head.linear.weight", "lm_head.decoder.weight", "output.weight", "embed_out.weight",
    "cls.predictions.decoder.weight", "vocab_projector.weight", "transformer.output_layer.weight", "proj_out.weight",
  ]

  /// 1-D tensors with one element per token.
  static let vocabularyBiases = [
    "lm_head.bias", "lm_head.decoder.bias", "lm_head.linear.bias", "cls.predictions.bias", "cls.predictions.decoder.bias",
    "vocab_projector.bias", "generator_lm_head.bias",
  ]

  /// Tensors [1, tokens]: a bias for each token, as BART's family saves it.
  static let vocabularyRows = ["final_logits_bias"]

  /// Prefixes under which a multi-modal model keeps a whole language model.
  static let languageModelPrefixes = ["language_model.", "model.language_model.", "thinker."]

  // MARK: - Config keys

  /// Keys of the layer count, in the order they are looked for; then the same under `text_config`.
  static let layerCountKeys = ["num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_transformer_layers"]
  static let textSection = "text_config"

  /// Keys that count the layers of one part of a model, or of a tower.
  static let partLayerCountKeys = [
    "encoder_layers", "num_encoder_layers", "decoder_layers", "num_decoder_layers", "depth", "num_global_layers", "vision_layers",
    "num_blocks",
  ]

  /// Keys of nested configs that describe a language model.
  static let textSections: Set<String> = ["text_config", "llm_config", "language_config", "text_model_config", "language_model_config"]

  // MARK: - Parts of a model

  /// Beginnings of name components (and of config keys) that tell a tower.
  static let visionStems = ["vision", "visual", "vit", "image_encoder", "image_tower", "img_"]
  static let audioStems = ["audio", "speech", "talker", "token2wav", "code2wav"]

  /// Name components of what joins towers to the text.
  static let projectorComponents: Set<String> = [
    "multi_modal_projector", "mm_projector", "merger", "merger_list", "deepstack_merger_list", "connector", "projector", "embed_vision",
    "embed_audio", "modality_projection", "visual_projector", "img_projector", "aligner", "resampler", "mlp1", "image_newline",
    "mm_soft_emb_norm",
  ]

  /// Name components of blocks that are no layers of the model: multi-token prediction.
  static let extraComponents: Set<String> = ["mtp", "mtp_layers", "mtp_block", "nextn"]

  /// What recipes may call a part besides its own name.
  static let partNames: [(part: ModelPart, names: Set<String>)] = [
    (.text, ["default", "language_model", "text_model", "text"]), (.vision, ["vision_model", "vision"]),
    (.audio, ["audio_model", "audio"]), (.projector, ["projector", "connector"]),
  ]

  /// Arrays (or strings, one letter each) with one entry per layer.
  static let perLayerLists = [
    "layer_types", "layers_block_type", "block_types", "mlp_layer_types", "attention_layers", "attention_types", "no_rope_layers",
    "sliding_window_layers", "activation_sparsity_pattern", "intermediate_size", "num_key_value_heads", "num_attention_heads",
    "num_query_heads", "num_kv_heads", "ffn_multipliers", "ffn_intermediate_size", "block_configs", "head_dim",
    "hybrid_override_pattern", "hybrid_layer_pattern", "moe_layer_freq",
  ]

  /// Arrays of layer numbers.
  static let layerNumberLists = [
    "mlp_only_layers", "full_attn_idxs", "attn_layer_indices", "cross_attention_layers", "moe_layers", "global_attn_layers",
    "full_attention_layers",
  ]

  /// Numbers whose meaning hangs on where a layer stands; they are left alone and said so.
  static let layerPositionKeys = [
    "first_k_dense_replace", "moe_layer_freq", "decoder_sparse_step", "sliding_window_pattern", "interleave_moe_layer_step",
    "attn_layer_period",
    "attn_layer_offset", "expert_layer_period", "expert_layer_offset", "global_attn_every_n_layers", "no_rope_layer_interval",
    "full_attention_interval", "num_kv_shared_layers", "num_nextn_predict_layers",
  ]
}
