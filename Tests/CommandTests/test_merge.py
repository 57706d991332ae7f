"""What comes out is what the method says, the same bytes under every setting, and can be looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import SHAPES, Run, make_tensors, read, write_model

Models = dict[str, Path]
Write = Callable[[str], Path]

RECIPES = {
    "linear": ("weight: 0.5", False),
    "task_arithmetic": ("weight: 0.5", True),
    "ties": ("weight: 0.5, density: 0.5", True),
    "dare_linear": ("weight: 0.5, density: 0.5", True),
    "dare_ties": ("weight: 0.5, density: 0.5", True),
    "della": ("weight: 0.5, density: 0.5, epsilon: 0.1", True),
}


def text_of(method: str, models: Models) -> str:
    parameters, base = RECIPES[method]
    lines = [f"merge_method: {method}", "dtype: float32", "models:"]
    if base:
        lines.insert(1, f"base_model: {models['base']}")
    for name in ("a", "b"):
        lines += [f"  - model: {models[name]}", f"    parameters: {{{parameters}}}"]
    return "\n".join(lines) + "\n"


def files(directory: Path) -> dict[str, bytes]:
    """Every file but the one that tells of the run itself."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "ingot.json"}


def test_linear_is_the_average(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    done = ingot("merge", recipe(text_of("linear", models)), "out")
    assert done.returncode == 0, done.stderr
    a, b, merged = make_tensors(1), make_tensors(2), read(tmp_path / "out")
    assert merged.keys() == SHAPES.keys()
    for name, value in merged.items():
        expected = (a[name].astype(np.float64) + b[name].astype(np.float64)) / 2
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", RECIPES)
def test_same_bytes_under_every_setting(ingot: Run, recipe: Write, models: Models, tmp_path: Path, method: str) -> None:
    path = recipe(text_of(method, models))
    settings: tuple[list[str], ...] = (
        [],
        ["--threads", "1"],
        ["--threads", "3"],
        ["--memory", "16MiB"],
        ["--isa", "scalar"],
        ["--sync", "none"],
    )
    for number, setting in enumerate(settings):
        done = ingot("merge", path, f"out{number}", *setting)
        assert done.returncode == 0, done.stderr
        assert files(tmp_path / f"out{number}") == files(tmp_path / "out0"), setting


def test_seed_changes_random_methods(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    path = recipe(text_of("dare_linear", models))
    for seed in ("1", "2"):
        assert ingot("merge", path, f"out{seed}", "--seed", seed).returncode == 0
    first, second = read(tmp_path / "out1"), read(tmp_path / "out2")
    assert any(not np.array_equal(first[name], second[name]) for name in SHAPES)


def test_numerics_are_chosen_and_recorded(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    text = text_of("task_arithmetic", models).replace("dtype: float32", "dtype: bfloat16\nout_dtype: float32")
    path = recipe(text)
    for name, options in {"once": [], "stepwise": ["--numerics", "stepwise"]}.items():
        assert ingot("merge", path, tmp_path / name, *options).returncode == 0
    records = {name: json.loads((tmp_path / name / "ingot.json").read_text("utf-8")) for name in ("once", "stepwise")}
    assert [record["numerics"] for record in records.values()] == ["once", "stepwise"]
    assert records["once"]["plan_digest"] != records["stepwise"]["plan_digest"]
    once, stepwise = read(tmp_path / "once"), read(tmp_path / "stepwise")
    # Every step was rounded to bfloat16, so the low halves of the floats are zero.
    assert all(not (value.view(np.uint32) & 0xFFFF).any() for value in stepwise.values())
    assert any((value.view(np.uint32) & 0xFFFF).any() for value in once.values())
    named = recipe(text + "numerics: stepwise\n")
    assert ingot("merge", named, tmp_path / "named").returncode == 0
    assert all((read(tmp_path / "named")[name] == value).all() for name, value in stepwise.items())
    refused = ingot("merge", recipe(text_of("dare_linear", models)), tmp_path / "no", "--numerics", "stepwise")
    assert refused.returncode != 0
    assert "dare_linear has no stepwise numerics" in refused.stderr


def test_shards_and_their_index(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    done = ingot("merge", recipe(text_of("linear", models)), "out", "--shard-size", "1000")
    assert done.returncode == 0, done.stderr
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["weight_map"].keys() == SHAPES.keys()
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors")} == set(index["weight_map"].values())
    assert read(tmp_path / "out").keys() == SHAPES.keys()


def test_passthrough_copies_bytes(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    done = ingot("merge", recipe(f"merge_method: passthrough\nmodels:\n  - model: {models['a']}\n"), "out")
    assert done.returncode == 0, done.stderr
    copied = read(tmp_path / "out")
    for name, value in make_tensors(1).items():
        assert copied[name].tobytes() == value.tobytes()


def test_quick_merge_and_its_recipe(ingot: Run, models: Models, tmp_path: Path) -> None:
    quick = ["-m", "ties", "-b", "base", "a", "b=0.5", "-p", "density=0.5"]
    done = ingot("merge", *quick, "-o", "out")
    assert done.returncode == 0, done.stderr
    printed = ingot("merge", *quick, "--print-recipe")
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "printed.yml").write_text(printed.stdout, encoding="utf-8")
    assert ingot("merge", "printed.yml", "again").returncode == 0
    assert read(tmp_path / "again").keys() == SHAPES.keys()
    for name, value in read(tmp_path / "out").items():
        assert value.tobytes() == read(tmp_path / "again")[name].tobytes()


def test_null_sink_writes_nothing(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()} | {"recipe.yml"}
    done = ingot("merge", recipe(text_of("linear", models)), "--sink", "null")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == before


def test_verify_finds_a_changed_byte(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    assert ingot("merge", recipe(text_of("linear", models)), "out").returncode == 0
    assert ingot("verify", "out").returncode == 0
    path = tmp_path / "out" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = ingot("verify", "out")
    assert done.returncode == 3, done.stderr


def test_force_replaces_a_model(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    write_model(tmp_path / "out", make_tensors(9))
    (tmp_path / "out" / "old").write_text("old", encoding="utf-8")
    done = ingot("merge", recipe(text_of("linear", models)), "out", "--force")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out" / "old").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out") and path.name != "out"]


def test_force_spares_what_is_no_model(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work", encoding="utf-8")
    done = ingot("merge", recipe(text_of("linear", models)), "out", "--force")
    assert done.returncode == 5, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_results_as_json(ingot: Run, recipe: Write, models: Models) -> None:
    path = recipe(text_of("linear", models))
    for arguments in (["plan", path], ["check", path], ["inspect", models["a"]], ["methods"], ["methods", "ties"], ["doctor"]):
        done = ingot(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)


def test_every_method_of_the_readme(ingot: Run) -> None:
    done = ingot("methods")
    assert done.returncode == 0
    for method in (*RECIPES, "slerp", "passthrough"):
        assert method in done.stdout


def test_version(ingot: Run) -> None:
    done = ingot("--version")
    assert done.returncode == 0
    assert "0.1.0" in done.stdout
    assert done.stdout.count("\n") == 1
