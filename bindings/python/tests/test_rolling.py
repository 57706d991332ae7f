"""Rolling merges: what states hold and what they become, against numpy; what is refused. The arithmetic is the engine's, tested there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from support import load, save, write

SHAPES = {"layers.0.weight": (6, 9), "layers.1.weight": (5, 4), "norm.weight": (7,)}
Tensors = dict[str, np.ndarray]


def tensors(seed: int, dtype: str = "float32") -> Tensors:
    generator = np.random.default_rng(seed)
    found: Tensors = {name: generator.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}
    return {**found, "positions": np.arange(3, dtype="int64")}


@pytest.fixture
def series(tmp_path: Path) -> dict[str, Path]:
    """A base and three models."""
    return {name: save(tmp_path / name, tensors(seed)) for seed, name in enumerate(["base", "a", "b", "c"])}


def values(directory: Path) -> Tensors:
    return load(directory / "model.safetensors")


def roll(series: dict[str, Path], state: Path, names: str = "abc", **given: Any) -> ingot.rolling.RollingReport:
    for name in names:
        report = ingot.rolling.step(state, series[name], **given)
        given = {key: value for key, value in given.items() if key == "weight"}
    return report


def near(found: Tensors, expected: Callable[..., Any], series: dict[str, Path], names: str = "abc") -> None:
    """Compares with a formula of the base's and the models' values in float64."""
    base, models = values(series["base"]), [values(series[name]) for name in names]
    assert set(found) == set(base)
    np.testing.assert_array_equal(found["positions"], base["positions"])
    for name in SHAPES:
        wanted = expected(base[name].astype("f8"), *(model[name].astype("f8") for model in models))
        np.testing.assert_allclose(found[name], wanted, rtol=2e-6, atol=2e-6, err_msg=name)


def ema(beta: float) -> Callable[..., Any]:
    def formula(_: Any, *models: Any) -> Any:
        average = models[0]
        for model in models[1:]:
            average = beta * average + (1 - beta) * model
        return average

    return formula


def largest(base: Any, *models: Any) -> Any:
    vectors = np.stack([model - base for model in models])
    return base + np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)[0]


@pytest.mark.parametrize(
    ("method", "given", "formula"),
    [
        ("running_mean", {}, lambda _, a, b, c: (a + b + c) / 3),
        ("weighted_mean", {"weight": np.float32(0.5)}, lambda _, a, b, c: (a + b + c) / 3),
        ("ema", {"beta": 0.75}, ema(0.75)),
        ("ema", {}, ema(0.9)),
        ("task_arithmetic", {"weight": 0.25}, lambda base, a, b, c: base + 0.25 * (a + b + c - 3 * base)),
        ("magmax", {}, largest),
    ],
)
def test_methods(series: dict[str, Path], tmp_path: Path, method: str, given: dict[str, Any], formula: Callable[..., Any]) -> None:
    if method in ("task_arithmetic", "magmax"):
        given = {**given, "base": series["base"]}
    step = roll(series, tmp_path / "state", method=method, **given)
    done = ingot.rolling.finish(tmp_path / "state", tmp_path / "out")
    assert (step.method, step.models, step.tensors, step.output) == (method, 3, 4, str(tmp_path / "state"))
    assert (done.method, done.models, done.tensors, done.output) == (method, 3, 4, str(tmp_path / "out"))
    assert step.identity == done.identity == json.loads((tmp_path / "state" / "rolling.json").read_text())["identity"]
    assert isinstance(done.run, ingot.Report)
    assert done.run.bytes_written > 0
    assert done.to_dict()["run"]["threads"] == done.run.threads
    near(values(tmp_path / "out"), formula, series)


def test_weights_and_lambda(series: dict[str, Path], tmp_path: Path) -> None:
    """A weight for each model; the state is the running sum in float32, and may go on after an end."""
    state = tmp_path / "state"
    for name, weight in (("a", 0.5), ("b", -2)):
        ingot.rolling.step(state, series[name], method="task_arithmetic", base=series["base"], weight=weight)
    near(values(state), lambda base, a, b: 0.5 * (a - base) - 2 * (b - base), series, "ab")
    ingot.rolling.finish(state, tmp_path / "half", lambda_=0.5)
    near(values(tmp_path / "half"), lambda base, a, b: base + 0.25 * (a - base) - (b - base), series, "ab")
    assert ingot.rolling.step(state, series["c"]).models == 3
    ingot.rolling.finish(state, tmp_path / "half", force=True, sync="none", threads=2, memory="32MiB", isa="scalar")
    near(values(tmp_path / "half"), lambda base, a, b, c: base + 0.5 * (a - base) - 2 * (b - base) + c - base, series)


def test_matrices(series: dict[str, Path], tmp_path: Path) -> None:
    """OPCM one model at a time, whose record says how long the task vectors are, against OPCM of all models."""
    roll(series, tmp_path / "state", method="opcm", base=series["base"], alpha=0.5)
    record = json.loads((tmp_path / "state" / "rolling.json").read_text())
    base = values(series["base"])
    for name, norm in zip("abc", record["norms"]):
        model = values(series[name])
        squares = sum(((model[key].astype("f8") - base[key]) ** 2).sum() for key in SHAPES)
        assert norm == pytest.approx(squares**0.5, rel=1e-5)
    ingot.rolling.finish(tmp_path / "state", tmp_path / "out")
    recipe = {"merge_method": "opcm", "base_model": series["base"], "models": [{"model": series[name]} for name in "abc"]}
    ingot.merge(recipe, tmp_path / "all")
    found, expected = values(tmp_path / "out"), values(tmp_path / "all")
    for name in SHAPES:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_side_files(series: dict[str, Path], tmp_path: Path) -> None:
    information = []
    for name in "ab":
        weights = {key: np.abs(value) + np.float32(0.1) for key, value in tensors(ord(name)).items() if key in SHAPES}
        information.append({key: value.astype("f8") for key, value in weights.items()})
        side = write(tmp_path / f"{name}.safetensors", weights)
        ingot.rolling.step(tmp_path / "state", series[name], method="fisher" if name == "a" else None, side=side)
    ingot.rolling.finish(tmp_path / "state", tmp_path / "out")
    found, models = values(tmp_path / "out"), [values(series[name]) for name in "ab"]
    norms = [sum((value**2).sum() for value in each.values()) ** 0.5 for each in information]
    for key in SHAPES:
        shares = [each[key] / norm for each, norm in zip(information, norms)]
        expected = sum(share * model[key] for share, model in zip(shares, models)) / sum(shares)
        np.testing.assert_allclose(found[key], expected, rtol=1e-5, atol=1e-6)


def test_types(series: dict[str, Path], tmp_path: Path) -> None:
    """The result has the first model's type, or the one that is asked for."""
    for name in "ab":
        model = save(tmp_path / "halves" / name, tensors(ord(name), "float16"))
        ingot.rolling.step(tmp_path / "state", model, method="running_mean")
    state = values(tmp_path / "state")
    assert {state[name].dtype.name for name in SHAPES} == {"float32"}
    ingot.rolling.finish(tmp_path / "state", tmp_path / "halved")
    ingot.rolling.finish(tmp_path / "state", tmp_path / "whole", dtype="float32")
    ingot.rolling.finish(tmp_path / "state", tmp_path / "short", dtype="bfloat16")
    halved, whole = values(tmp_path / "halved"), values(tmp_path / "whole")
    for name in SHAPES:
        np.testing.assert_array_equal(whole[name], state[name] / np.float32(2))
        np.testing.assert_array_equal(halved[name], whole[name].astype("f2"))
    assert {ingot.inspect(tmp_path / "short").tensors[name].dtype for name in SHAPES} == {"BF16"}


def test_a_model_counts_once(series: dict[str, Path], tmp_path: Path) -> None:
    state = tmp_path / "state"
    ingot.rolling.step(state, series["a"], method="running_mean")
    before = (state / "rolling.json").read_bytes()
    with pytest.raises(ingot.ExistsError, match="in the state already") as caught:
        ingot.rolling.step(state, series["a"])
    error = caught.value
    assert error.status is ingot.Status.EXISTS
    assert error.subject == str(state)
    assert error.hint is not None
    assert "again" in error.hint
    assert (state / "rolling.json").read_bytes() == before
    assert ingot.rolling.step(state, series["a"], again=True).models == 2
    ingot.rolling.step(state, series["b"])
    ingot.rolling.finish(state, tmp_path / "out")
    near(values(tmp_path / "out"), lambda _, a, b: (2 * a + b) / 3, series, "ab")


def test_mistakes_of_a_first_step(series: dict[str, Path], tmp_path: Path) -> None:
    state, a, base = tmp_path / "state", series["a"], series["base"]
    calls: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ingot.InvalidArgumentError, "needs a method", lambda: ingot.rolling.step(state, a)),
        (ingot.InvalidArgumentError, "runing_mean", lambda: ingot.rolling.step(state, a, method="runing_mean")),
        (ingot.InvalidArgumentError, "no weight", lambda: ingot.rolling.step(state, a, method="running_mean", weight=2)),
        (ingot.InvalidArgumentError, "no base", lambda: ingot.rolling.step(state, a, method="ema", base=base)),
        (ingot.InvalidArgumentError, "no beta", lambda: ingot.rolling.step(state, a, method="running_mean", beta=0.5)),
        (ingot.InvalidArgumentError, "btea", lambda: ingot.rolling.step(state, a, method="ema", btea=0.5)),
        (ingot.InvalidArgumentError, "beta", lambda: ingot.rolling.step(state, a, method="ema", beta=1)),
        (ingot.InvalidArgumentError, "beta", lambda: ingot.rolling.step(state, a, method="ema", beta="much")),
        (ingot.InvalidArgumentError, "weight", lambda: ingot.rolling.step(state, a, method="weighted_mean", weight=[1, 2])),  # type: ignore[arg-type]
        (ingot.InvalidArgumentError, "JSON", lambda: ingot.rolling.step(state, a, method="weighted_mean", weight=float("nan"))),
        (ingot.InvalidArgumentError, "base model", lambda: ingot.rolling.step(state, a, method="magmax")),
        (ingot.InvalidArgumentError, "side file", lambda: ingot.rolling.step(state, a, method="fisher")),
        (ingot.InvalidArgumentError, "sync", lambda: ingot.rolling.step(state, a, method="ema", sync="some")),  # type: ignore[arg-type]
        (ingot.NotFoundError, "nowhere", lambda: ingot.rolling.step(state, tmp_path / "nowhere", method="ema")),
        (ingot.NotFoundError, "no such directory", lambda: ingot.rolling.finish(state, tmp_path / "out")),
    ]
    kept = {path.name for path in tmp_path.iterdir()}
    for kind, words, call in calls:
        with pytest.raises(kind, match=words):
            call()
        assert {path.name for path in tmp_path.iterdir()} == kept, words


def test_mistakes_of_a_further_step(series: dict[str, Path], tmp_path: Path) -> None:
    state, out, b = tmp_path / "state", tmp_path / "out", series["b"]
    ingot.rolling.step(state, series["a"], method="task_arithmetic", base=series["base"])
    other = save(tmp_path / "other", {**tensors(9), "norm.weight": np.ones(8, "f")})
    calls: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ingot.InvalidArgumentError, "begun with the method", lambda: ingot.rolling.step(state, b, method="magmax")),
        (ingot.InvalidArgumentError, "no alpha", lambda: ingot.rolling.step(state, b, alpha=0.5)),
        (ingot.StaleError, "not the one", lambda: ingot.rolling.step(state, b, base=series["c"])),
        (ingot.ShapeError, "norm.weight", lambda: ingot.rolling.step(state, other)),
        (ingot.ExistsError, "expected the state", lambda: ingot.rolling.step(b, series["c"], method="ema")),
        (ingot.ExistsError, "expected the state", lambda: ingot.rolling.finish(b, out)),
        (ingot.ExistsError, "exists", lambda: ingot.rolling.finish(state, b)),
        (ingot.DTypeError, "int8", lambda: ingot.rolling.finish(state, out, dtype="int8")),
        (ingot.InvalidArgumentError, "JSON", lambda: ingot.rolling.finish(state, out, lambda_=float("inf"))),
        (ingot.InvalidArgumentError, "lambda", lambda: ingot.rolling.finish(state, out, lambda_="all")),  # type: ignore[arg-type]
    ]
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    for kind, words, call in calls:
        with pytest.raises(kind, match=words):
            call()
        assert {path.name: path.read_bytes() for path in state.iterdir()} == before, words
        assert not out.exists(), words
    ingot.rolling.step(tmp_path / "mean", b, method="running_mean")
    with pytest.raises(ingot.InvalidArgumentError, match="running_mean has none"):
        ingot.rolling.finish(tmp_path / "mean", out, lambda_=0.5)
    write(series["base"] / "model.safetensors", tensors(10))
    with pytest.raises(ingot.StaleError, match="has changed"):
        ingot.rolling.finish(state, out)


def test_a_cancelled_step_is_not_in(series: dict[str, Path], tmp_path: Path) -> None:
    state = tmp_path / "state"
    told: list[ingot.Progress] = []
    ingot.rolling.step(state, series["a"], method="running_mean", progress=told.append)
    assert told[-1].bytes_done == told[-1].bytes_total > 0
    assert told[-1].tensors_done == told[-1].tensors_total == 4
    before = {path.name: path.read_bytes() for path in state.iterdir()}

    class Stop(Exception):
        pass

    def stop(_: ingot.Progress) -> None:
        raise Stop

    with pytest.raises(Stop):
        ingot.rolling.step(state, series["b"], progress=stop, threads=1)
    with ingot.Engine(threads=1) as engine:
        with pytest.raises(ingot.CancelledError):
            engine.roll(state, series["b"], progress=lambda _: engine.cancel())
        with pytest.raises(ingot.CancelledError):
            engine.finish_rolling(state, tmp_path / "out", progress=lambda _: engine.cancel())
        assert not (tmp_path / "out").exists()
        assert {path.name: path.read_bytes() for path in state.iterdir()} == before
        assert engine.roll(state, series["b"]).models == 2
        engine.finish_rolling(state, tmp_path / "out", force=True)
    near(values(tmp_path / "out"), lambda _, a, b: (a + b) / 2, series, "ab")
