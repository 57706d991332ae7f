"""What is wrong is said clearly, with the right exit code, and leaves nothing at OUT."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import CONFIG, Run, header_bytes, make_tensors, safetensors, write_model

LINEAR = """\
merge_method: linear
models:
  - model: {a}
    parameters: {{weight: 0.5}}
  - model: {b}
    parameters: {{weight: 0.5}}
dtype: float32
"""
Models = dict[str, Path]
Write = Callable[[str], Path]


def fails(done: subprocess.CompletedProcess[str], tmp_path: Path, code: int, *words: str) -> None:
    """The exit code, every word in the message, nothing on standard output, no output and no partial output."""
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert "error" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def replace_weights(model: Path, data: bytes) -> None:
    (model / "model.safetensors").write_bytes(data)


def test_missing_model(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    text = LINEAR.format(a=models["a"], b=tmp_path / "nowhere")
    fails(ingot("merge", recipe(text), "out"), tmp_path, 3, "nowhere")


def test_missing_hub_model_names_the_download(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    text = LINEAR.format(a=models["a"], b="someone/some-model")
    fails(ingot("merge", recipe(text), "out"), tmp_path, 3, "hf download someone/some-model")


def shard(model: Path, file_name: str) -> None:
    tensors = make_tensors(2)
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, file_name)}), encoding="utf-8"
    )


def test_missing_shard(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    shard(models["b"], "model-00001-of-00002.safetensors")
    fails(ingot("merge", recipe(LINEAR.format(**models)), "out"), tmp_path, 3, "model-00001-of-00002.safetensors")


@pytest.mark.parametrize("name", ["../a/model.safetensors", "/etc/passwd", "x/../../a/model.safetensors"])
def test_index_may_not_leave_its_directory(ingot: Run, recipe: Write, models: Models, tmp_path: Path, name: str) -> None:
    shard(models["b"], name)
    fails(ingot("merge", recipe(LINEAR.format(**models)), "out"), tmp_path, 3, "model.safetensors.index.json")


def entry(begin: int, end: int, shape: list[int]) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


HOSTILE = {
    "empty file": b"",
    "shorter than its length field": b"\x08\x00\x00",
    "header beyond the file": (1 << 40).to_bytes(8, "little") + b"{}",
    "header length of 2^64-1": b"\xff" * 8 + b"{}",
    "not JSON": header_bytes("what"),
    "an array": header_bytes("[1, 2]"),
    "deeply nested": header_bytes("[" * 100_000),
    "overlapping": header_bytes(json.dumps({"x": entry(0, 8, [2]), "y": entry(4, 12, [2])})) + bytes(12),
    "a gap": header_bytes(json.dumps({"x": entry(0, 8, [2]), "y": entry(12, 20, [2])})) + bytes(20),
    "offsets beyond the file": header_bytes(json.dumps({"x": entry(0, 1 << 50, [1 << 48])})) + bytes(8),
    "end before begin": header_bytes(json.dumps({"x": entry(8, 0, [2])})) + bytes(8),
    "shape and size disagree": header_bytes(json.dumps({"x": entry(0, 8, [3])})) + bytes(8),
    "shape overflows": header_bytes(json.dumps({"x": entry(0, 8, [1 << 40, 1 << 40])})) + bytes(8),
    "negative dimension": header_bytes(json.dumps({"x": entry(0, 8, [-2])})) + bytes(8),
    "fraction in the shape": header_bytes('{"x": {"dtype": "F32", "shape": [2.5], "data_offsets": [0, 8]}}') + bytes(8),
    "duplicate names": header_bytes(f'{{"x": {json.dumps(entry(0, 8, [2]))}, "x": {json.dumps(entry(0, 8, [2]))}}}') + bytes(8),
    "unknown dtype": header_bytes('{"x": {"dtype": "F7", "shape": [2], "data_offsets": [0, 8]}}') + bytes(8),
    "not UTF-8": (8).to_bytes(8, "little") + b'{"\xff": 1}',
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file(ingot: Run, recipe: Write, models: Models, tmp_path: Path, case: str) -> None:
    replace_weights(models["b"], HOSTILE[case])
    fails(ingot("merge", recipe(LINEAR.format(**models)), "out"), tmp_path, 3, "model.safetensors")
    assert not (tmp_path / "out.partial").exists()


def test_truncated_shard(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    replace_weights(models["b"], (models["b"] / "model.safetensors").read_bytes()[:-4])
    fails(ingot("merge", recipe(LINEAR.format(**models)), "out"), tmp_path, 3, "model.safetensors")


def test_shapes_that_disagree_are_both_named(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    tensors = make_tensors(2)
    tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((25, 8), dtype=np.float32)
    replace_weights(models["b"], safetensors(tensors))
    done = ingot("merge", recipe(LINEAR.format(**models)), "out")
    fails(done, tmp_path, 3, "model.layers.1.mlp.up_proj.weight", "[24, 8]", "[25, 8]")


def test_absent_tensor(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    tensors = make_tensors(2)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    replace_weights(models["b"], safetensors(tensors))
    fails(ingot("merge", recipe(LINEAR.format(**models)), "out"), tmp_path, 3, "model.layers.0.mlp.up_proj.weight")


def test_unknown_method_gets_a_hint(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    text = LINEAR.format(**models).replace("linear", "linaer")
    fails(ingot("merge", recipe(text), "out"), tmp_path, 2, "recipe.yml:1:", "linaer", "linear")


def test_misspelt_key_gets_a_hint(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    text = LINEAR.format(**models).replace("parameters", "paramaters")
    fails(ingot("merge", recipe(text), "out"), tmp_path, 2, "recipe.yml:4:", "paramaters", "parameters")


@pytest.mark.parametrize("density", ["1.5", "0", "-0.1", ".nan", "half"])
def test_value_out_of_range(ingot: Run, recipe: Write, models: Models, tmp_path: Path, density: str) -> None:
    text = f"merge_method: ties\nbase_model: {models['base']}\nmodels:\n  - model: {models['a']}\n"
    text += f"    parameters: {{weight: 1, density: {density}}}\ndtype: float32\n"
    fails(ingot("merge", recipe(text), "out"), tmp_path, 2, "recipe.yml:5:", "density")


@pytest.mark.parametrize("layers", ["[0, 3]", "[-1, 2]", "[2, 1]", "[0]"])
def test_layer_range_outside_the_model(ingot: Run, recipe: Write, models: Models, tmp_path: Path, layers: str) -> None:
    text = f"merge_method: passthrough\nslices:\n  - sources:\n      - model: {models['a']}\n        layer_range: {layers}\n"
    fails(ingot("merge", recipe(text), "out"), tmp_path, 2, "recipe.yml:", "layer_range")


@pytest.mark.parametrize("text", ["", "merge_method: linear\n", "models: [", "- 1\n", "\x00", "a: &a [*a]\n", "merge_method: {a: b}\n"])
def test_recipe_that_is_none(ingot: Run, recipe: Write, tmp_path: Path, text: str) -> None:
    fails(ingot("merge", recipe(text), "out"), tmp_path, 2, "recipe.yml")


def test_quantised_source_is_refused_by_its_scheme(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    quantised = {**CONFIG, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (models["b"] / "config.json").write_text(json.dumps(quantised), encoding="utf-8")
    fails(ingot("merge", recipe(LINEAR.format(**models)), "out"), tmp_path, 3, "gptq")


def test_destination_exists(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("mine", encoding="utf-8")
    done = ingot("merge", recipe(LINEAR.format(**models)), "taken")
    fails(done, tmp_path, 5, "taken", "--force")
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["mine"]


def test_partial_output_exists(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    done = ingot("merge", recipe(LINEAR.format(**models)), "out")
    fails(done, tmp_path, 5, "out.partial", "--resume", "--force")


def test_unwritable_destination(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file, not a folder", encoding="utf-8")
    fails(ingot("merge", recipe(LINEAR.format(**models)), "file/out"), tmp_path, 1, "file")


def test_memory_budget_too_small(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    """della ranks whole rows: one row of this tensor alone is larger than the budget."""
    for seed, name in enumerate(models):
        shutil.rmtree(models[name])
        values = np.random.default_rng(seed).standard_normal((2, 1 << 20)).astype(np.float32)
        write_model(models[name], {"x": values}, num_hidden_layers=0)
    text = LINEAR.format(**models).replace("linear", f"della\nbase_model: {models['base']}").replace("0.5", "0.5, density: 0.5")
    fails(ingot("merge", recipe(text), "out", "--memory", "1MiB"), tmp_path, 4, "--memory")
    assert not (tmp_path / "out.partial").exists()


def test_disk_too_small(tmp_path: Path, recipe: Write, models: Models) -> None:
    """A file system of 64 KiB, in a namespace of the test's own."""
    large = {"x": np.zeros((256, 1024), dtype=np.float32)}
    for name in ("a", "b"):
        shutil.rmtree(models[name])
        write_model(models[name], large, num_hidden_layers=0)
    (tmp_path / "disk").mkdir()
    script = 'mount -t tmpfs -o size=64k tmpfs disk && "$@"; code=$?; ls disk >listing; exit $code'
    words = ["unshare", "-rm", "sh", "-c", script, "sh", os.environ.get("INGOT", "ingot")]
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "disk")], check=False).returncode:
        pytest.skip("this system does not let a test mount a file system of its own")
    words += ["merge", str(recipe(LINEAR.format(**models))), "disk/out"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4, done.stderr
    assert (tmp_path / "listing").read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_values(ingot: Run, recipe: Write, models: Models, tmp_path: Path, value: float) -> None:
    tensors = make_tensors(2)
    tensors["lm_head.weight"][3, 4] = value
    replace_weights(models["b"], safetensors(tensors))
    path = recipe(LINEAR.format(**models))
    fails(ingot("merge", path, "out"), tmp_path, 3, "lm_head.weight", "--allow-nonfinite")
    carried = ingot("merge", path, "out", "--allow-nonfinite", "--force")
    assert carried.returncode == 0, carried.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("arguments", [["merge"], ["merge", "--no-such-option"], ["no-such-command"], ["methods", "no_such_method"]])
def test_wrong_usage(ingot: Run, tmp_path: Path, arguments: list[str]) -> None:
    done = ingot(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr


def test_errors_as_json(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    done = ingot("merge", recipe(LINEAR.format(a=models["a"], b=tmp_path / "nowhere")), "out", "--json")
    assert done.returncode == 3
    assert "nowhere" in json.dumps(json.loads(done.stdout or done.stderr))
