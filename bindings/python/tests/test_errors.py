"""Exceptions: their classes, their fields, and that they survive pickling."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest

RECIPE = """merge_method: linear
models:
  - model: a
    parameters:
      wieght: 1
"""


def test_recipe_error_has_a_position(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_text(RECIPE)
    with pytest.raises(ingot.RecipeError) as caught:
        ingot.plan(path)
    error = caught.value
    assert isinstance(error, ValueError)
    assert error.status is ingot.Status.RECIPE
    assert error.position == ingot.Position(str(path), 5, 7)
    assert error.hint is not None
    assert "weight" in error.hint
    assert error.subject is not None
    assert "wieght" in error.subject
    text = str(error)
    assert text.startswith(f"{path}:5:7: ")
    assert f"\nhint: {error.hint}" in text


@pytest.mark.parametrize(
    ("recipe", "kind", "builtin"),
    [
        ("no/such/recipe.yml", ingot.NotFoundError, FileNotFoundError),
        ({"merge_method": "linear", "models": [{"model": "/no/such", "parameters": {"weight": 1}}]}, ingot.NotFoundError, KeyError),
        ({"merge_method": "linear", "models": []}, ingot.RecipeError, ValueError),
        ({"merge_method": "linear", "models": float("nan")}, ingot.InvalidArgumentError, ValueError),
        (b"bytes are a path\xff", ingot.NotFoundError, OSError),
        (7, TypeError, TypeError),
        ({"merge_method": object()}, TypeError, TypeError),
        ("", ingot.NotFoundError, FileNotFoundError),
        (" {", ingot.RecipeError, ValueError),
        ("\n\0\n", ingot.RecipeError, ValueError),
        ("merge_method: linear\nmodels: 3\n", ingot.RecipeError, ValueError),
    ],
)
def test_bad_recipes(recipe: Any, kind: type[Exception], builtin: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        ingot.plan(recipe)
    assert isinstance(caught.value, builtin)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ingot.ReadError, match="directory") as caught:
        ingot.plan(tmp_path)
    assert isinstance(caught.value, OSError)


def test_missing_model_names_it(tmp_path: Path) -> None:
    recipe = {"merge_method": "linear", "models": [{"model": str(tmp_path / "gone"), "parameters": {"weight": 1}}]}
    with pytest.raises(ingot.NotFoundError) as caught:
        ingot.merge(recipe, tmp_path / "out")
    assert str(tmp_path / "gone") in str(caught.value)
    assert caught.value.errno == errno.ENOENT
    assert not (tmp_path / "out").exists()


def test_existing_destination(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    recipe = {"merge_method": "passthrough", "models": [{"model": models["a"]}]}
    with pytest.raises(ingot.ExistsError) as caught:
        ingot.merge(recipe, tmp_path / "out")
    assert isinstance(caught.value, FileExistsError)
    assert caught.value.errno == errno.EEXIST
    assert list((tmp_path / "out").iterdir()) == []


def test_broken_checkpoint(models: dict[str, Path]) -> None:
    with open(models["a"] / "model.safetensors", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ingot.FormatError, match=r"model\.safetensors|truncat|bytes"):
        ingot.inspect(models["a"])


def test_memory_budget() -> None:
    array = np.ones((512, 512), "f")
    with pytest.raises(ingot.MemoryBudgetError) as caught:
        ingot.merge_tensors("linear", [array, array], memory="64KiB")
    assert isinstance(caught.value, MemoryError)


@pytest.mark.parametrize("value", ["64 M", "1B", "", "-1MiB", "1e6", "MiB", 0, -5, 2**64])
def test_sizes_that_are_none(value: Any) -> None:
    with pytest.raises(ingot.InvalidArgumentError, match="memory") as caught:
        ingot.Engine(memory=value)
    assert caught.value.subject == "memory"


@pytest.mark.parametrize(
    ("value", "bytes_"),
    [
        ("64MiB", 64 << 20),
        ("64mib", 64 << 20),
        ("0.5 GiB", 1 << 29),
        ("5GB", 5_000_000_000),
        ("1048576", 1 << 20),
        (12_345_678, 12_345_678),
    ],
)
def test_sizes(value: Any, bytes_: int) -> None:
    with ingot.Engine(memory=value) as engine:
        assert engine.info["memory_budget_bytes"] == bytes_


@pytest.mark.parametrize(
    "options",
    [{"threads": 0}, {"threads": 5000}, {"team": "gang"}, {"isa": "z80"}],
)
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ingot.IngotError) as caught:
        ingot.Engine(**options)
    assert str(next(iter(options.values()))) in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in vars(ingot).values() if isinstance(kind, type) and issubclass(kind, ingot.IngotError)])
def test_pickle(kind: type[ingot.IngotError]) -> None:
    error = kind("what", hint="then", subject="x", position=ingot.Position("f", 1, 2), user_code=3)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error) == "f:1:2: what [x]\nhint: then"
    assert (copy.status, copy.message, copy.hint, copy.subject, copy.position, copy.user_code) == (
        error.status,
        "what",
        "then",
        "x",
        error.position,
        3,
    )


def test_nonfinite_is_named_and_allowed() -> None:
    array = np.array([1, np.nan, np.inf], "f")
    with pytest.raises(ingot.NonfiniteError) as caught:
        ingot.merge_state_dicts("linear", {"bad": {"layer.weight": array}, "good": {"layer.weight": np.ones(3, "f")}})
    assert "layer.weight" in str(caught.value)
    assert "bad" in str(caught.value)
    assert "2" in str(caught.value)
    merged = ingot.merge_tensors("linear", [array], allow_nonfinite=True)
    np.testing.assert_array_equal(merged, array)


def test_shapes_are_both_named() -> None:
    with pytest.raises(ingot.ShapeError) as caught:
        ingot.merge_tensors("linear", [np.ones((2, 3), "f"), np.ones((3, 2), "f")])
    assert "[2, 3]" in str(caught.value)
    assert "[3, 2]" in str(caught.value)
    assert caught.value.position is None


def test_absent_tensor_is_named() -> None:
    one = np.ones(3, "f")
    with pytest.raises(ingot.IngotError, match="bias") as caught:
        ingot.merge_state_dicts("linear", {"x": {"weight": one, "bias": one}, "y": {"weight": one}})
    assert caught.value.position is None


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("tiess", {}, "did you mean 'ties'"),
        ("linear", {"weigth": 1}, "did you mean weight"),
        ("linear", {"weight": [1]}, "1 values, expected one for each of the 2 models"),
        ("linear", {"weight": {"third": 1}}, "a value for 'third'"),
        ("linear", {"weight": "heavy"}, 'weight is "heavy"'),
        ("linear", {"normalize": [True, False]}, "normalize has several values"),
        ("ties", {}, "base_model is missing"),
        ("linear", {"weight": [1, -1]}, "sum to zero"),
    ],
)
def test_bad_arguments(method: str, arguments: dict[str, Any], said: str) -> None:
    array = np.ones(3, "f")
    with pytest.raises(ingot.InvalidArgumentError) as caught:
        ingot.merge_tensors(method, [array, array], **arguments)
    assert said in str(caught.value)
    assert caught.value.position is None


def test_nothing_to_merge() -> None:
    with pytest.raises(ingot.InvalidArgumentError, match="nothing to merge"):
        ingot.merge_tensors("linear", [])
    with pytest.raises(ingot.InvalidArgumentError, match="no tensors"):
        ingot.merge_state_dicts("linear", [{}])
