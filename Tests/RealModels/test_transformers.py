"""Directories that transformers and safetensors wrote are merged, and what comes out loads there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import weights
from conftest import Command, write_recipe

VOCABULARY = 96
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
Make = Callable[..., Path]


def tiny(kind: str, **more: object) -> Any:
    """A small model with random weights: as wide as its heads need, and with more layers than one."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    common = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    llama = {
        **common,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**llama, **more}))
    if kind == "qwen2":
        # Its config has a list with one entry for each layer.
        layers = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
        return transformers.Qwen2ForCausalLM(
            transformers.Qwen2Config(**{**llama, "layer_types": layers, "sliding_window": 16, "use_sliding_window": True, **more})
        )
    if kind == "bert":
        sizes = {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
        }
        return transformers.BertForMaskedLM(transformers.BertConfig(**{**common, **sizes, **more}))
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**common, **sizes, **more}))


@pytest.fixture
def make(folder: Path) -> Make:
    """Writes a tiny model as transformers does and returns its directory."""

    def write(name: str, kind: str, seed: int, dtype: str = "float32", shard: str = "5GB", **config: object) -> Path:
        torch = pytest.importorskip("torch", reason="torch is not installed")
        torch.manual_seed(seed)
        model = tiny(kind, **config).to(getattr(torch, dtype))
        with torch.no_grad():
            # Norms begin as ones and biases as zeros: a merge of those would prove nothing.
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(folder / name, max_shard_size=shard)
        return folder / name

    return write


def load(model: Path) -> Any:
    """Loads as a user would. Every key must be used and none may be missing; the answer must be finite."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    architecture = json.loads((model / "config.json").read_text())["architectures"][0]
    loaded, problems = getattr(transformers, architecture).from_pretrained(model, output_loading_info=True)
    assert not any(problems[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), problems
    assert not problems.get("error_msgs"), problems
    with torch.no_grad():
        logits = loaded.eval()(torch.arange(24).reshape(2, 12) % VOCABULARY).logits
    assert logits.shape == (2, 12, logits.shape[-1])
    assert torch.isfinite(logits.float()).all()
    return loaded


def state(model: Any) -> dict[str, Any]:
    return {name: tensor.detach().float() for name, tensor in model.state_dict().items()}


def half_and_half(folder: Path, models: list[Path], **more: object) -> Path:
    entries = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    return write_recipe(folder / "recipe.yml", merge_method="linear", models=entries, **more)


def assert_mean(merged: Any, parents: list[Any], tolerance: float = 1e-6) -> None:
    torch = pytest.importorskip("torch")
    found, (first, second) = state(merged), (state(parent) for parent in parents)
    assert set(found) == set(first) | set(second)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "bert", "gpt2"])
def test_merge_loads(ingot: Command, make: Make, folder: Path, kind: str) -> None:
    models = [make(name, kind, seed) for seed, name in enumerate("ab")]
    ingot.merge(half_and_half(folder, models), folder / "out")
    assert_mean(load(folder / "out"), [load(model) for model in models])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_shards_load(ingot: Command, make: Make, folder: Path, kind: str) -> None:
    """Sources in shards of transformers' making, one in a single file, and output in shards of ours."""
    models = [make("a", kind, 1, shard="20KB"), make("b", kind, 2)]
    assert len(weights.files_of(models[0])) > 2
    ingot.merge(half_and_half(folder, models), folder / "out", "--shard-size", "16KB")
    shards = weights.files_of(folder / "out")
    assert len(shards) > 3
    index = json.loads((folder / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: path.name for path in shards for name in weights.read_file(path)}
    assert index["metadata"]["total_size"] == sum(tensor.data.size for tensor in weights.read(folder / "out").values())
    assert_mean(load(folder / "out"), [load(model) for model in models])


def test_half_precision_loads(ingot: Command, make: Make, folder: Path) -> None:
    torch = pytest.importorskip("torch")
    models = [make("a", "llama", 1, dtype="bfloat16"), make("b", "llama", 2, dtype="float16")]
    ingot.merge(half_and_half(folder, models, dtype="bfloat16"), folder / "out")
    config = json.loads((folder / "out" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    merged = load(folder / "out")
    assert merged.dtype == torch.bfloat16
    # One rounding to 8 bits of mantissa.
    assert_mean(merged, [load(model) for model in models], tolerance=2**-8)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_all_tied(ingot: Command, make: Make, folder: Path, kind: str) -> None:
    models = [make(name, kind, seed, tie_word_embeddings=True) for seed, name in enumerate("ab")]
    ingot.merge(half_and_half(folder, models), folder / "out")
    assert not {"lm_head.weight", "cls.predictions.decoder.weight"} & set(weights.read(folder / "out"))
    merged = load(folder / "out")
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    assert_mean(merged, [load(model) for model in models])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("tied_first", [True, False])
def test_one_untied(ingot: Command, make: Make, folder: Path, kind: str, tied_first: bool) -> None:
    """The output has a head of its own: the mean of one model's head and of the other's embedding."""
    models = [make(name, kind, seed, tie_word_embeddings=(name == "a") == tied_first) for seed, name in enumerate("ab")]
    ingot.merge(half_and_half(folder, models), folder / "out")
    assert json.loads((folder / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    merged = load(folder / "out")
    assert merged.get_output_embeddings().weight is not merged.get_input_embeddings().weight
    assert_mean(merged, [load(model) for model in models])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", ["slerp", "ties", "dare_ties", "della"])
def test_methods_load(ingot: Command, make: Make, folder: Path, method: str, tied: bool) -> None:
    base, *others = (make(name, "llama", seed, tie_word_embeddings=tied) for seed, name in enumerate("abc"))
    chosen = others[:1] if method == "slerp" else others
    per_model = {} if method == "slerp" else {"parameters": {"weight": 0.5, "density": 0.5}}
    recipe = write_recipe(
        folder / "recipe.yml",
        merge_method=method,
        base_model=str(base),
        models=[{"model": str(model), **per_model} for model in chosen],
        parameters={"t": 0.5} if method == "slerp" else {},
    )
    ingot.merge(recipe, folder / "out")
    load(folder / "out")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "bert"])
def test_frankenmerge_loads(ingot: Command, make: Make, folder: Path, kind: str) -> None:
    models = [make(name, kind, seed) for seed, name in enumerate("ab")]
    recipe = write_recipe(
        folder / "recipe.yml",
        merge_method="passthrough",
        slices=[
            {"sources": [{"model": str(models[0]), "layer_range": [0, 3]}]},
            {"sources": [{"model": str(models[1]), "layer_range": [1, 3]}]},
        ],
    )
    ingot.merge(recipe, folder / "out")
    config = json.loads((folder / "out" / "config.json").read_text())
    assert config.get("num_hidden_layers", config.get("n_layer")) == 5
    if kind == "qwen2":
        assert config["layer_types"] == ["full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    load(folder / "out")


def save(path: Path, tensors: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(dict(tensors), path)
    return path


def test_files_of_the_safetensors_package(ingot: Command, folder: Path) -> None:
    """Bare files, without a config: every type that numpy has, empty and scalar tensors, names that are no layer's."""
    generator = np.random.default_rng(3)

    def tensors() -> dict[str, Any]:
        return {
            "double": generator.standard_normal((3, 5)),
            "single": generator.standard_normal((7, 11), dtype=np.float32),
            "half": generator.standard_normal(13).astype(np.float16),
            "brain": generator.standard_normal((5, 4)).astype(ml_dtypes.bfloat16),
            "scalar": np.array(generator.standard_normal(), dtype=np.float32),
            "empty": np.zeros((0, 4), dtype=np.float32),
            "ünïcode / name": generator.standard_normal((2, 2), dtype=np.float32),
            **{f"integer.{kind}": np.arange(6, dtype=kind) for kind in INTEGERS},
            "flags": np.array([True, False, True]),
        }

    models = [tensors(), tensors()]
    paths = [save(folder / f"{name}.safetensors", model) for name, model in zip("ab", models)]
    ingot.merge(half_and_half(folder, paths), folder / "out")
    found = safetensors.numpy.load_file(folder / "out" / "model.safetensors")
    assert set(found) == set(models[0])
    for name, tensor in found.items():
        first, second = (model[name] for model in models)
        assert tensor.shape == first.shape, name
        if first.dtype.kind in "iub":
            assert tensor.dtype == first.dtype, name
            assert np.array_equal(tensor, first), name
        else:
            kind = np.dtype(np.float32) if first.dtype == np.float64 else first.dtype
            assert tensor.dtype == kind, name
            mean = (first.astype(np.float64) + second.astype(np.float64)) / 2
            steps = {"float16": 2**-11, "bfloat16": 2**-8}.get(kind.name, 1e-6)
            assert np.allclose(tensor.astype(np.float64), mean, rtol=steps, atol=steps), name
