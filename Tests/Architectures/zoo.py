"""Architectures of the field as transformers defines them: a config of real sizes with few layers, and one small enough to run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

Values = Mapping[str, Any]

LAYERS = 3
TEXT: Values = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS: Values = {**TEXT, "head_dim": 8}
GPT2: Values = {"vocab_size": 64, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
BERT: Values = {**TEXT, "type_vocab_size": 2}
EXPERTS: Values = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SEQ2SEQ: Values = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
TOWER: Values = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 16,
}


@dataclass(frozen=True)
class Architecture:
    config: str
    model: str
    """Sizes of the small model."""
    tiny: Values
    """The keys of layer counts, set to few layers in configs of real sizes too: key, layers."""
    counts: Values = field(default_factory=lambda: {"num_hidden_layers": LAYERS})
    """What the forward pass gets: ids, seq2seq, pixels, audio, clip, or nothing that is tried."""
    inputs: str = "ids"

    def build_config(self, small: bool) -> transformers.PretrainedConfig:
        cls = getattr(transformers, self.config)
        values: dict[str, Any] = copy.deepcopy(dict(self.tiny if small else self.counts))
        config: transformers.PretrainedConfig = cls(**values)
        return config

    def meta_model(self, config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
        with torch.device("meta"):
            model: transformers.PreTrainedModel = getattr(transformers, self.model)(config)
        return model

    def small_model(self, seed: int) -> transformers.PreTrainedModel:
        torch.manual_seed(seed)
        model: transformers.PreTrainedModel = getattr(transformers, self.model)(self.build_config(small=True)).eval()
        return model


def nested(text: int = LAYERS, tower: Values | None = None) -> Values:
    return {"text_config": {"num_hidden_layers": text}, "vision_config": dict(tower or {"num_hidden_layers": 2})}


N_LAYER: Values = {"n_layer": LAYERS}
BOTH_SIDES: Values = {"encoder_layers": 2, "decoder_layers": LAYERS}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("LlamaConfig", "LlamaForCausalLM", HEADS),
    "mistral": Architecture("MistralConfig", "MistralForCausalLM", HEADS),
    "qwen2": Architecture("Qwen2Config", "Qwen2ForCausalLM", TEXT),
    "qwen3": Architecture("Qwen3Config", "Qwen3ForCausalLM", HEADS),
    "gemma2": Architecture("Gemma2Config", "Gemma2ForCausalLM", HEADS),
    "gemma3_text": Architecture("Gemma3TextConfig", "Gemma3ForCausalLM", HEADS),
    "phi": Architecture("PhiConfig", "PhiForCausalLM", {**TEXT, "num_key_value_heads": 4}),
    "phi3": Architecture("Phi3Config", "Phi3ForCausalLM", {**TEXT, "original_max_position_embeddings": 64}),
    "mixtral": Architecture("MixtralConfig", "MixtralForCausalLM", {**HEADS, "num_local_experts": 4}),
    "qwen3_moe": Architecture("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**HEADS, **EXPERTS}),
    "gpt2": Architecture("GPT2Config", "GPT2LMHeadModel", GPT2, N_LAYER),
    "gpt_neox": Architecture("GPTNeoXConfig", "GPTNeoXForCausalLM", TEXT),
    "falcon": Architecture("FalconConfig", "FalconForCausalLM", {**TEXT, "num_kv_heads": 4}),
    "bloom": Architecture(
        "BloomConfig", "BloomForCausalLM", {"vocab_size": 64, "hidden_size": 32, "n_layer": LAYERS, "n_head": 4}, N_LAYER
    ),
    "opt": Architecture("OPTConfig", "OPTForCausalLM", {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bert": Architecture("BertConfig", "BertForMaskedLM", BERT),
    "roberta": Architecture("RobertaConfig", "RobertaForMaskedLM", {**BERT, "max_position_embeddings": 66}),
    "distilbert": Architecture(
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        {"vocab_size": 64, "dim": 32, "hidden_dim": 48, "n_layers": LAYERS, "n_heads": 4, "max_position_embeddings": 64},
        {"n_layers": LAYERS},
    ),
    "mamba": Architecture(
        "MambaConfig", "MambaForCausalLM", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": LAYERS, "state_size": 8}
    ),
    "cohere": Architecture("CohereConfig", "CohereForCausalLM", TEXT),
    "olmo2": Architecture("Olmo2Config", "Olmo2ForCausalLM", TEXT),
    "stablelm": Architecture("StableLmConfig", "StableLmForCausalLM", TEXT),
    "starcoder2": Architecture("Starcoder2Config", "Starcoder2ForCausalLM", TEXT),
    "granite": Architecture("GraniteConfig", "GraniteForCausalLM", TEXT),
    "glm4": Architecture("Glm4Config", "Glm4ForCausalLM", HEADS),
    "lfm2": Architecture(
        "Lfm2Config",
        "Lfm2ForCausalLM",
        {**TEXT, "layer_types": ["conv", "full_attention", "conv"]},
        {"num_hidden_layers": LAYERS, "layer_types": ["conv", "full_attention", "conv"]},
    ),
    "t5": Architecture(
        "T5Config",
        "T5ForConditionalGeneration",
        {
            "vocab_size": 64,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_decoder_layers": LAYERS,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        {"num_layers": 2, "num_decoder_layers": LAYERS},
        "seq2seq",
    ),
    "bart": Architecture("BartConfig", "BartForConditionalGeneration", SEQ2SEQ, BOTH_SIDES, "seq2seq"),
    "whisper": Architecture(
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {**SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16},
        BOTH_SIDES,
        "audio",
    ),
    "vit": Architecture("ViTConfig", "ViTForImageClassification", {**TOWER, "num_hidden_layers": LAYERS}, inputs="pixels"),
    "clip": Architecture(
        "CLIPConfig",
        "CLIPModel",
        {"text_config": {**TEXT, "projection_dim": 16}, "vision_config": {**TOWER, "projection_dim": 16}, "projection_dim": 16},
        nested(),
        "clip",
    ),
    "gemma3": Architecture(
        "Gemma3Config",
        "Gemma3ForConditionalGeneration",
        {"text_config": {**HEADS}, "vision_config": {**TOWER}, "mm_tokens_per_image": 4, "image_token_index": 60},
        nested(),
    ),
    "qwen2_vl": Architecture(
        "Qwen2VLConfig",
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": {**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}},
            "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2},
        },
        nested(tower={"depth": 2}),
    ),
    "llava": Architecture(
        "LlavaConfig",
        "LlavaForConditionalGeneration",
        {
            "text_config": {"model_type": "llama", **HEADS},
            "vision_config": {"model_type": "clip_vision_model", **TOWER},
            "image_token_index": 60,
        },
        {
            "text_config": {"model_type": "llama", "num_hidden_layers": LAYERS},
            "vision_config": {"model_type": "clip_vision_model", "num_hidden_layers": 2},
        },
    ),
    "mistral3": Architecture(
        "Mistral3Config",
        "Mistral3ForConditionalGeneration",
        {
            "text_config": {"model_type": "mistral", **HEADS},
            "vision_config": {"model_type": "pixtral", **TOWER, "head_dim": 8},
            "image_token_index": 60,
        },
        {
            "text_config": {"model_type": "mistral", "num_hidden_layers": LAYERS},
            "vision_config": {"model_type": "pixtral", "num_hidden_layers": 2},
        },
    ),
}
