"""Small models of every architecture, merged for real and loaded by transformers: no key missing or unexpected, finite outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
import zoo
from conftest import Run

Model = transformers.PreTrainedModel


def prepare(name: str, directory: Path) -> tuple[zoo.Architecture, list[Model], list[Path]]:
    architecture = zoo.ARCHITECTURES[name]
    models = [architecture.small_model(seed) for seed in [0, 1]]
    paths = [directory / model for model in ["a", "b"]]
    for model, path in zip(models, paths, strict=True):
        model.save_pretrained(path)
    return architecture, models, paths


def load(architecture: zoo.Architecture, path: Path) -> Model:
    model, info = getattr(transformers, architecture.model).from_pretrained(path, output_loading_info=True)
    for kind in ["missing_keys", "unexpected_keys", "mismatched_keys"]:
        assert not info[kind], f"{kind}: {sorted(info[kind])[:5]}"
    merged: Model = model.eval()
    return merged


def outputs(architecture: zoo.Architecture, model: Model) -> list[torch.Tensor]:
    ids = torch.arange(3, 11).reshape(1, 8)
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    inputs = {
        "ids": {"input_ids": ids},
        "seq2seq": {"input_ids": ids, "decoder_input_ids": ids},
        "pixels": {"pixel_values": pixels},
        "clip": {"input_ids": ids, "pixel_values": pixels},
        "audio": {"input_features": torch.linspace(-1, 1, 8 * 32).reshape(1, 8, 32), "decoder_input_ids": ids},
    }[architecture.inputs]
    with torch.no_grad():
        result = model(**inputs)
    return [result.logits_per_image] if architecture.inputs == "clip" else [result.logits]


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_average(name: str, ingot: Run, tmp_path: Path) -> None:
    architecture, models, (a, b) = prepare(name, tmp_path)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"merge_method: linear\nmodels: [{{model: {a}}}, {{model: {b}}}]\nparameters: {{weight: 1}}\n")
    ingot("merge", recipe, tmp_path / "out", "--sync", "none")
    merged = load(architecture, tmp_path / "out")
    ours, first, second = (model.state_dict() for model in [merged, *models])
    assert ours.keys() == first.keys()
    for key, value in ours.items():
        if value.is_floating_point():
            assert torch.allclose(value, (first[key] + second[key]) / 2, rtol=1e-6, atol=1e-7), key
    for output in outputs(architecture, merged):
        assert torch.isfinite(output).all()


STACKABLE = [name for name in zoo.ARCHITECTURES if name not in ("t5", "bart", "whisper")]


@pytest.mark.parametrize("name", STACKABLE)
def test_stack(name: str, ingot: Run, tmp_path: Path) -> None:
    """Five layers from three; what is not in the layers is the first model's, then the last one's."""
    architecture, _, (a, b) = prepare(name, tmp_path)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"""
merge_method: passthrough
slices:
- sources: [{{model: {a}, layer_range: [0, 2]}}]
- sources: [{{model: {b}, layer_range: [1, 3]}}]
- sources: [{{model: {b}, layer_range: [2, 3]}}]
""")
    ingot("merge", recipe, tmp_path / "out", "--sync", "none")
    merged = load(architecture, tmp_path / "out")
    text = merged.config.get_text_config()
    assert text.num_hidden_layers == 5
    for output in outputs(architecture, merged):
        assert torch.isfinite(output).all()


@pytest.mark.parametrize("name", ["t5", "bart", "whisper"])
def test_stack_of_an_encoder_decoder(name: str, ingot: Run, tmp_path: Path) -> None:
    architecture, _, (a, b) = prepare(name, tmp_path)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"""
merge_method: passthrough
modules:
  encoder:
    slices: [{{sources: [{{model: {a}, layer_range: [0, 2]}}]}}, {{sources: [{{model: {b}, layer_range: [1, 2]}}]}}]
  decoder:
    slices: [{{sources: [{{model: {b}, layer_range: [1, 3]}}]}}]
""")
    ingot("merge", recipe, tmp_path / "out", "--sync", "none")
    merged = load(architecture, tmp_path / "out")
    keys = ("num_layers", "num_decoder_layers") if name == "t5" else ("encoder_layers", "decoder_layers")
    assert [getattr(merged.config, key) for key in keys] == [3, 2]
    for output in outputs(architecture, merged):
        assert torch.isfinite(output).all()
