"""Plans over checkpoints of real sizes that have headers only: names and shapes are those of transformers' model of the output's config."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import transformers
import zoo
from conftest import Run, planned_shapes, saved_shapes, write_headers

ENCODER_DECODER = ["t5", "bart", "whisper"]
ONE_STACK = [name for name in zoo.ARCHITECTURES if name not in ENCODER_DECODER]
# The layers of the output, by source layer: the second model's from the middle on.
STACKED = [0, 1, 1, 2, 2]


def prepare(name: str, directory: Path) -> tuple[zoo.Architecture, dict[str, Any], list[Path]]:
    """Two models of one architecture."""
    architecture = zoo.ARCHITECTURES[name]
    config = architecture.build_config(small=False)
    config.architectures = [architecture.model]
    values = config.to_dict()
    shapes = saved_shapes(architecture.meta_model(config))
    return architecture, values, [write_headers(directory / model, values, shapes) for model in ["a", "b"]]


def expected(architecture: zoo.Architecture, values: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    config = getattr(transformers, architecture.config).from_dict(copy.deepcopy(values))
    return saved_shapes(architecture.meta_model(config))


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_models(name: str, ingot: Run, tmp_path: Path) -> None:
    """A gradient too, so that layers are looked for."""
    architecture, values, (a, b) = prepare(name, tmp_path)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"merge_method: task_arithmetic\nbase_model: {a}\nmodels: [{{model: {b}, parameters: {{weight: [0, 0.5, 1]}}}}]\n")
    assert planned_shapes(ingot, recipe) == expected(architecture, values)


def restack(values: dict[str, Any], order: list[int]) -> None:
    """The config of a model with these layers in its text stack."""
    block = values.get("text_config") or values
    for key in ["num_hidden_layers", "n_layer", "n_layers", "num_layers"]:
        if block.get(key) == zoo.LAYERS:
            block[key] = len(order)
    for key in ["layer_types", "mlp_layer_types", "layers_block_type"]:
        if isinstance(block.get(key), list):
            block[key] = [block[key][layer] for layer in order]


@pytest.mark.parametrize("name", ONE_STACK)
def test_slices(name: str, ingot: Run, tmp_path: Path) -> None:
    architecture, values, (a, b) = prepare(name, tmp_path)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"""
merge_method: linear
parameters: {{weight: 1}}
slices:
- sources: [{{model: {a}, layer_range: [0, 2]}}, {{model: {b}, layer_range: [0, 2]}}]
- sources: [{{model: {b}, layer_range: [1, 3]}}]
- sources: [{{model: {a}, layer_range: [2, 3]}}]
""")
    restack(values, STACKED)
    assert planned_shapes(ingot, recipe) == expected(architecture, values)


@pytest.mark.parametrize("name", ENCODER_DECODER)
def test_modules_of_encoder_decoders(name: str, ingot: Run, tmp_path: Path) -> None:
    architecture, values, (a, b) = prepare(name, tmp_path)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"""
merge_method: passthrough
modules:
  encoder:
    slices:
    - sources: [{{model: {a}, layer_range: [0, 2]}}]
    - sources: [{{model: {b}, layer_range: [0, 2]}}]
  decoder:
    slices:
    - sources: [{{model: {b}, layer_range: [1, 3]}}]
""")
    for key in ["num_layers", "encoder_layers", "num_hidden_layers"]:
        if values.get(key) == 2:
            values[key] = 4
    for key in ["num_decoder_layers", "decoder_layers"]:
        if key in values:
            values[key] = 2
    # T5's first layers hold a table for all: it stays there, though the decoder now begins with layer 1.
    assert planned_shapes(ingot, recipe) == expected(architecture, values)


@pytest.mark.parametrize("name", ["clip", "gemma3", "qwen2_vl", "llava", "mistral3"])
def test_modules_of_vision_models(name: str, ingot: Run, tmp_path: Path) -> None:
    """Fewer layers of the tower, more of the text, the projector as it is."""
    architecture, values, (a, b) = prepare(name, tmp_path)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"""
merge_method: passthrough
base_model: {a}
modules:
  vision_tower:
    slices: [{{sources: [{{model: {b}, layer_range: [0, 1]}}]}}]
  text_decoder:
    slices:
    - sources: [{{model: {a}, layer_range: [0, 2]}}]
    - sources: [{{model: {b}, layer_range: [1, 3]}}]
    - sources: [{{model: {b}, layer_range: [2, 3]}}]
""")
    restack(values, STACKED)
    vision = values["vision_config"]
    vision["depth" if name == "qwen2_vl" else "num_hidden_layers"] = 1
    assert planned_shapes(ingot, recipe) == expected(architecture, values)


@pytest.mark.parametrize(
    ("vision", "text"), [("llava", "llama"), ("mistral3", "mistral"), ("gemma3", "gemma3_text"), ("qwen2_vl", "qwen2")]
)
def test_a_text_model_into_a_vision_model(vision: str, text: str, ingot: Run, tmp_path: Path) -> None:
    architecture, values, (whole, _) = prepare(vision, tmp_path / "v")
    inner = zoo.ARCHITECTURES[text]
    config = getattr(transformers, inner.config).from_dict({**values["text_config"], "architectures": [inner.model]})
    config.tie_word_embeddings = values["tie_word_embeddings"]
    part = write_headers(tmp_path / "text", config.to_dict(), saved_shapes(inner.meta_model(config)))
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"merge_method: task_arithmetic\nbase_model: {whole}\nmodels: [{{model: {part}, parameters: {{weight: 1}}}}]\n")
    assert planned_shapes(ingot, recipe) == expected(architecture, values)
    plan = json.loads(ingot("plan", "--json", recipe).stdout)
    merged = [tensor["name"] for tensor in plan["tensors"] if tensor["work"] == "task_arithmetic"]
    assert len(merged) >= len(saved_shapes(inner.meta_model(config)))
    assert not [name for name in merged if "visual" in name or "vision" in name or "projector" in name]
