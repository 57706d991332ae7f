"""Delta packs: what comes back of a model, and what is refused. The arithmetic is the engine's, tested there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from support import load, near, save, state


def values(path: Path) -> dict[str, np.ndarray]:
    return load(path / "model.safetensors")


def test_signs_there_and_back(models: dict[str, Path], tmp_path: Path) -> None:
    pack = ingot.delta.pack("bitdelta", models["base"], models["a"], tmp_path / "pack", layers="all")
    assert isinstance(pack, ingot.delta.Pack)
    assert (pack.method, pack.base_name, [task.name for task in pack.tasks]) == ("bitdelta", "base", ["a"])
    assert {form.form: form.tensors for form in pack.forms} == {"signs": 2, "whole": 2}
    assert sum(pack.parts.values()) == pack.bytes == (tmp_path / "pack" / "delta_pack.safetensors").stat().st_size
    assert [notice.message for notice in pack.notices] == ["1 tensors are not packed: a model that is unpacked has them from its base"]
    assert ingot.delta.inspect(tmp_path / "pack") == dataclasses.replace(pack, notices=())
    assert ingot.delta.inspect(tmp_path / "pack" / "delta_pack.safetensors").to_dict()["parameters"] == {"layers": "all"}

    base, tuned = values(models["base"]), values(models["a"])
    ingot.delta.unpack(tmp_path / "pack", tmp_path / "delta", base=models["base"])
    report = ingot.delta.apply(tmp_path / "pack", models["base"], tmp_path / "half", scale=0.5)
    assert report.bytes_written > 0
    found, half = values(tmp_path / "delta"), values(tmp_path / "half")
    assert set(found) == set(base) - {"positions"}
    error = norm = 0.0
    for name, delta in found.items():
        exact = tuned[name].astype("f8") - base[name]
        expected = exact if base[name].ndim < 2 else np.where(exact >= 0, 1, -1) * np.abs(exact).mean()
        np.testing.assert_allclose(delta, expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(half[name], base[name] + 0.5 * expected, rtol=1e-5, atol=1e-6)
        error, norm = error + ((exact - delta) ** 2).sum(), norm + (exact**2).sum()
    assert pack.tasks[0].relative_error == pytest.approx((error / norm) ** 0.5, rel=1e-4)
    np.testing.assert_array_equal(half["positions"], base["positions"])


def test_tasks_parameters_and_recipes(models: dict[str, Path], tmp_path: Path) -> None:
    told: list[ingot.Progress] = []
    pack = ingot.delta.pack(
        "tall", models["base"], [models["a"], models["b"]], tmp_path / "pack", lambda_=[0.3, 0.5], threads=2, progress=told.append
    )
    assert pack.parameters["lambda"] == [0.3, 0.5]
    assert told[-1].bytes_done == told[-1].bytes_total > 0
    other = ingot.delta.pack("tall", models["base"], [models["a"], models["b"]], tmp_path / "other", lambda_="0.3,0.5", isa="scalar")
    assert (tmp_path / "pack" / "delta_pack.safetensors").read_bytes() == (tmp_path / "other" / "delta_pack.safetensors").read_bytes()
    assert other.tasks == pack.tasks
    for number, name in enumerate("ab"):
        places = [tmp_path / f"{name}-{way}" for way in ("name", "number", "recipe")]
        ingot.delta.apply(tmp_path / "pack", models["base"], places[0], task=name)
        ingot.delta.apply(tmp_path / "pack", models["base"], places[1], task=number)
        recipe = {"merge_method": "passthrough", "models": [{"model": f"{models['base']}+{tmp_path / 'pack'}#{name}"}]}
        ingot.merge(recipe, places[2])
        assert len({(place / "model.safetensors").read_bytes() for place in places}) == 1
    ingot.delta.apply(tmp_path / "pack", models["base"], tmp_path / "a-name", task="b", force=True, shard_size=0)
    assert (tmp_path / "a-name" / "model.safetensors").read_bytes() == (tmp_path / "b-name" / "model.safetensors").read_bytes()


def test_mistakes(models: dict[str, Path], tmp_path: Path) -> None:
    base, a, b, out = models["base"], models["a"], models["b"], tmp_path / "out"
    pack = tmp_path / "pack"
    ingot.delta.pack("emr", base, [a, b], pack)
    ingot.delta.pack("bitdelta", base, a, tmp_path / "signs")
    save(tmp_path / "else", near(state(7), 8))
    calls: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ingot.ExistsError, "exists", lambda: ingot.delta.pack("emr", base, [a, b], pack)),
        (ingot.InvalidArgumentError, "unknown pack method", lambda: ingot.delta.pack("erm", base, a, out)),
        (ingot.InvalidArgumentError, "no parameter", lambda: ingot.delta.pack("compeft", base, a, out, desnity=0.1)),
        (ingot.InvalidArgumentError, "density", lambda: ingot.delta.pack("compeft", base, a, out, density=2)),
        (ingot.InvalidArgumentError, "JSON", lambda: ingot.delta.pack("compeft", base, a, out, density=float("nan"))),
        (ingot.InvalidArgumentError, "expected", lambda: ingot.delta.pack("compeft", base, [a, b], out)),
        (ingot.InvalidArgumentError, "sync", lambda: ingot.delta.pack("emr", base, a, out, sync="some")),  # type: ignore[arg-type]
        (ingot.NotFoundError, "nowhere", lambda: ingot.delta.pack("emr", base, tmp_path / "nowhere", out)),
        (ingot.ShapeError, "another one", lambda: ingot.delta.apply(pack, tmp_path / "else", out, task=0)),
        (ingot.InvalidArgumentError, "2 tasks", lambda: ingot.delta.apply(pack, base, out)),
        (ingot.InvalidArgumentError, '"c"', lambda: ingot.delta.unpack(pack, out, task="c")),
        (ingot.InvalidArgumentError, "scale", lambda: ingot.delta.apply(pack, base, out, task=0, scale=float("inf"))),
        (ingot.InvalidArgumentError, "scale is 0", lambda: ingot.delta.apply(pack, base, out, task=0, scale=0)),
        (ingot.InvalidArgumentError, "needs the base", lambda: ingot.delta.unpack(tmp_path / "signs", out)),
        (ingot.FormatError, "not a delta pack", lambda: ingot.delta.inspect(base)),
        (ingot.NotFoundError, "no such pack", lambda: ingot.delta.inspect(tmp_path / "nowhere")),
    ]
    for kind, words, call in calls:
        with pytest.raises(kind, match=words):
            call()
        assert not out.exists(), words

    class Stop(Exception):
        pass

    def stop(_: ingot.Progress) -> None:
        raise Stop

    with pytest.raises(Stop):
        ingot.delta.pack("tall", base, [a, b], out, progress=stop)
    assert not out.exists()


def test_damaged_packs_are_told_from_wrong_arguments(models: dict[str, Path], tmp_path: Path) -> None:
    ingot.delta.pack("bitdelta", models["base"], models["a"], tmp_path / "pack", layers="all")
    file = tmp_path / "pack" / "delta_pack.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    with pytest.raises(ingot.FormatError):
        ingot.delta.apply(tmp_path / "pack", models["base"], tmp_path / "out")
