"""Merges of model directories: results, resume, reports, plans; and the same bytes from C, Python and the command."""

from __future__ import annotations

import json
import logging
import subprocess
from ctypes import POINTER, byref, c_char_p
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from ingot import _ffi, _library
from support import load, near, save, state


def recipe(models: dict[str, Path], method: str = "ties", **parameters: Any) -> dict[str, Any]:
    base = {} if method == "linear" else {"base_model": models["base"]}
    return {
        "merge_method": method,
        **base,
        "models": [{"model": models["a"], "parameters": {"weight": 0.6}}, {"model": models["b"], "parameters": {"weight": 0.4}}],
        "parameters": parameters,
    }


def files(folder: Path) -> dict[str, bytes]:
    """All that is promised to be the same: everything but ingot.json, which records the run."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "ingot.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_merge(models: dict[str, Path], tmp_path: Path) -> None:
    report = ingot.merge(recipe(models, "linear"), tmp_path / "out", threads=2, memory="16MiB")
    merged, a, b = load(tmp_path / "out" / "model.safetensors"), *(load(models[name] / "model.safetensors") for name in "ab")
    for name, value in merged.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, 0.6 * a[name].astype("d") + 0.4 * b[name], rtol=1e-6, atol=1e-7)
        else:
            np.testing.assert_array_equal(value, a[name])
    assert report.bytes_written >= sum(value.nbytes for value in merged.values())
    assert report.threads == 2
    assert report.seconds > 0
    assert report.isa in ingot.build_info()["isas"]
    assert report.to_dict()["bytes_written"] == report.bytes_written
    assert (tmp_path / "out" / "config.json").exists()
    assert not (tmp_path / "out.partial").exists()
    checked = ingot.verify(tmp_path / "out")
    assert checked.tensors == len(merged)


def test_a_recipe_of_several_documents(models: dict[str, Path], tmp_path: Path) -> None:
    ingot.merge(recipe(models, "ties", density=0.4), tmp_path / "first")
    second = "merge_method: slerp\nbase_model: {base}\nmodels: [{{model: {first}}}]\nparameters: {{t: 0.3}}\n"
    ingot.merge(second.format(base=models["base"], first=tmp_path / "first"), tmp_path / "alone")
    first = json.dumps({"name": "first", **recipe(models, "ties", density=0.4)}, default=str)
    text = f"{first}\n---\n{second.format(base=models['base'], first='first')}"
    plan = ingot.plan(text)
    assert [stage["streamed"] for stage in plan.to_dict()["stages"]] == [True]
    ingot.merge(text, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "alone" / "model.safetensors").read_bytes()


def test_recipes_as_path_text_and_mapping(models: dict[str, Path], tmp_path: Path) -> None:
    text = json.dumps(recipe(models, density=0.5), default=str)
    (tmp_path / "recipe.yml").write_text(text)
    digests = {
        ingot.plan(source).digest
        for source in (recipe(models, density=0.5), text, "\n" + text, tmp_path / "recipe.yml", str(tmp_path / "recipe.yml"))
    }
    assert len(digests) == 1
    with_numpy = ingot.plan(recipe(models, density=np.float32(0.5)))
    assert with_numpy.digest in digests


def test_plan(models: dict[str, Path], tmp_path: Path) -> None:
    plan = ingot.plan(recipe(models, density=0.5))
    assert len(plan.digest) == 32
    assert "embed.weight" in repr(plan)
    assert plan.digest in repr(plan)
    assert plan.method == plan.to_dict()["method"] == "ties"
    assert plan.tensors["embed.weight"] == ingot.TensorInfo("embed.weight", "F32", (811, 243), 811 * 243 * 4, "model.safetensors")
    assert plan.digest != ingot.plan(recipe(models, density=0.4)).digest
    assert list(tmp_path.glob("out*")) == []
    ingot.merge(plan, tmp_path / "out")
    ingot.merge(plan, tmp_path / "again")
    assert files(tmp_path / "out") == files(tmp_path / "again")
    with pytest.raises(ingot.InvalidArgumentError, match="belong to the plan"):
        ingot.merge(plan, tmp_path / "third", seed=1)


def test_force_and_resume(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingot.merge(recipe(models, "linear"), out)
    first = files(out)
    with pytest.raises(ingot.ExistsError):
        ingot.merge(recipe(models), out)
    assert files(out) == first
    ingot.merge(recipe(models), out, force=True, sync="none")
    assert files(out) != first
    with pytest.raises(ingot.InvalidArgumentError, match="sync"):
        ingot.merge(recipe(models), out, force=True, sync="some")  # type: ignore[arg-type]


class StoppedByTest(Exception):
    pass


def test_resume_after_an_exception(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stop(_: ingot.Progress) -> None:
        raise StoppedByTest

    with pytest.raises(StoppedByTest):
        ingot.merge(recipe(models), out, progress=stop)
    assert not out.exists()
    assert (tmp_path / "out.partial").exists()
    with pytest.raises(ingot.IngotError, match="partial"):
        ingot.merge(recipe(models), out)
    ingot.merge(recipe(models), out, resume=True)
    ingot.merge(recipe(models), tmp_path / "whole")
    assert files(out) == files(tmp_path / "whole")


def test_shards(models: dict[str, Path], tmp_path: Path) -> None:
    plan = ingot.plan(recipe(models), shard_size="100KB")
    assert len({tensor.file for tensor in plan.tensors.values()}) > 1
    assert {tensor.file for tensor in ingot.plan(recipe(models), shard_size=0).tensors.values()} == {"model.safetensors"}
    ingot.merge(plan, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors.index.json").exists()
    found = ingot.inspect(tmp_path / "out")
    assert len(found.files) > 1
    assert set(found.tensors) == set(plan.tensors)


def test_numerics_and_missing(models: dict[str, Path], tmp_path: Path) -> None:
    """Both take the place of the recipe's, and change what is done."""
    plan = ingot.plan(recipe(models))
    assert plan.to_dict()["numerics"] == "once"
    stepwise = ingot.plan(recipe(models), numerics="stepwise")
    assert stepwise.to_dict()["numerics"] == "stepwise"
    assert stepwise.digest != plan.digest
    assert ingot.plan({**recipe(models), "numerics": "stepwise"}, numerics="once").digest == plan.digest
    tensors = load(models["a"] / "model.safetensors")
    dropped = next(name for name in tensors if name.endswith("weight"))
    save(tmp_path / "less", {name: value for name, value in tensors.items() if name != dropped})
    both = {
        "merge_method": "linear",
        "models": [
            {"model": str(models["a"]), "parameters": {"weight": 1}},
            {"model": str(tmp_path / "less"), "parameters": {"weight": 1}},
        ],
    }
    with pytest.raises(ingot.IngotError, match="absent"):
        ingot.plan(both)
    with pytest.raises(ingot.IngotError, match="absent"):
        ingot.plan({**both, "missing": "union"}, missing="error")
    assert dropped not in ingot.plan(both, missing="intersection").tensors
    ingot.merge(both, tmp_path / "out", missing="union", cached_writes=True)
    assert dropped in ingot.inspect(tmp_path / "out").tensors
    with pytest.raises(ingot.IngotError, match="numerics is 'twice'"):
        ingot.plan(both, numerics="twice")  # type: ignore[arg-type]
    with pytest.raises(ingot.IngotError, match="missing is 'none'"):
        ingot.plan(both, missing="none")  # type: ignore[arg-type]
    with pytest.raises(ingot.IngotError, match="belong to the plan"):
        ingot.merge(plan, tmp_path / "other", missing="union")


def test_inspect(models: dict[str, Path]) -> None:
    found = ingot.inspect(models["a"])
    assert found.tensors["conv.weight"].shape == (7, 11, 13)
    assert found.tensors["positions"].dtype == "I64"
    assert found.parameters == sum(int(np.prod(tensor.shape)) for tensor in found.tensors.values())
    assert found.bytes == sum(tensor.bytes for tensor in found.tensors.values())
    assert found.to_dict()["parameters"] == found.parameters
    assert ingot.inspect(str(models["a"] / "model.safetensors")).tensors == found.tensors


def test_verify_names_what_was_changed(models: dict[str, Path], tmp_path: Path) -> None:
    ingot.merge(recipe(models), tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    last = max(ingot.inspect(tmp_path / "out").to_dict()["tensors"], key=lambda tensor: tensor["offset"])
    with pytest.raises(ingot.FormatError, match="digest") as caught:
        ingot.verify(tmp_path / "out")
    assert caught.value.subject == last["name"]


def test_strict(models: dict[str, Path]) -> None:
    source = {**recipe(models), "zzz": 1}
    plan = ingot.plan(source)
    assert any("zzz" in f"{notice.message} {notice.subject}" for notice in plan.notices)
    with pytest.raises(ingot.RecipeError, match="zzz"):
        ingot.plan(source, strict=True)


def test_notices_are_logged(models: dict[str, Path], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO, logger="ingot"):
        ingot.plan({**recipe(models), "zzz": 1})
    assert any("zzz" in record.getMessage() and record.levelno == logging.WARNING for record in caplog.records)
    assert capfd.readouterr().out == ""


def test_progress_function(models: dict[str, Path], tmp_path: Path) -> None:
    told: list[ingot.Progress] = []
    ingot.merge(recipe(models), tmp_path / "out", progress=told.append)
    assert told[-1].bytes_done == told[-1].bytes_total > 0
    assert told[-1].tensors_done == told[-1].tensors_total == 5
    assert [state.bytes_done for state in told] == sorted(state.bytes_done for state in told)


def test_models_in_memory_into_a_directory(models: dict[str, Path], tmp_path: Path) -> None:
    """A recipe may mix models of both kinds; a model in memory has no files beside its weights."""
    source = recipe(models)
    source["models"][0]["model"] = "live"
    live = load(models["a"] / "model.safetensors")
    ingot.merge(source, tmp_path / "mixed", models={"live": live})
    ingot.merge(recipe(models), tmp_path / "files")
    mixed, plain = load(tmp_path / "mixed" / "model.safetensors"), load(tmp_path / "files" / "model.safetensors")
    for name, value in plain.items():
        assert mixed[name].tobytes() == value.tobytes()


def test_state_dicts_give_the_bytes_of_files(models: dict[str, Path], tmp_path: Path) -> None:
    for method, parameters in (("ties", {"density": 0.4, "scope": "model"}), ("dare_ties", {"density": 0.4}), ("della", {"density": 0.5})):
        ingot.merge(recipe(models, method, **parameters), tmp_path / method, seed=5)
        merged = ingot.merge_state_dicts(
            method,
            [load(models[name] / "model.safetensors") for name in "ab"],
            base=load(models["base"] / "model.safetensors"),
            weight=[0.6, 0.4],
            seed=5,
            **parameters,
        )
        for name, value in load(tmp_path / method / "model.safetensors").items():
            assert merged[name].tobytes() == value.tobytes(), (method, name)


def merge_through_c(text: bytes, out: Path) -> None:
    """The header's short program."""
    library = _library.library
    context, parsed, plan = POINTER(_ffi.ingot_context)(), POINTER(_ffi.ingot_recipe)(), POINTER(_ffi.ingot_plan)()
    error, report = POINTER(_ffi.ingot_error)(), c_char_p()
    options = _ffi.ingot_run_options(sync=_ffi.INGOT_SYNC_NONE)
    for status in (
        library.ingot_context_create(byref(context), None, byref(error)),
        library.ingot_recipe_parse(text, len(text), b"recipe.yml", byref(parsed), None, byref(error)),
        library.ingot_plan_create(context, parsed, byref(plan), None, byref(error)),
        library.ingot_plan_run_to_directory(context, plan, str(out).encode(), byref(report), byref(options), byref(error)),
    ):
        assert status == 0, library.ingot_error_json(error)
    library.ingot_string_destroy(report)
    library.ingot_plan_destroy(plan)
    library.ingot_recipe_destroy(parsed)
    library.ingot_context_destroy(context)


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "della"])
def test_three_faces_give_the_same_bytes(models: dict[str, Path], tmp_path: Path, command: str, method: str) -> None:
    parameters = {} if method == "linear" else {"density": 0.5}
    path = tmp_path / "recipe.yml"
    path.write_text(json.dumps(recipe(models, method, **parameters), default=str))
    ingot.merge(path, tmp_path / "python")
    merge_through_c(path.read_bytes(), tmp_path / "c")
    subprocess.run([command, "merge", path, tmp_path / "command"], check=True, capture_output=True)
    python = files(tmp_path / "python")
    assert "model.safetensors" in python
    assert python == files(tmp_path / "c")
    assert python == files(tmp_path / "command")


def test_large_models_of_many_tensors(tmp_path: Path) -> None:
    """Thousands of small tensors: nothing depends on their number."""
    base = {f"layers.{index}.weight": np.full((3, 5), index, "f") for index in range(3000)}
    merged = ingot.merge_state_dicts("linear", [base, {name: value + 2 for name, value in base.items()}])
    assert list(merged) == list(base)
    assert all((value == base[name] + 1).all() for name, value in merged.items())
    save(tmp_path / "model", base)
    assert len(ingot.inspect(tmp_path / "model").tensors) == 3000


def test_dtype_of_files(tmp_path: Path) -> None:
    base = state(0, "float16")
    save(tmp_path / "x", base)
    save(tmp_path / "y", near(base, 1))
    source = {"merge_method": "linear", "models": [{"model": tmp_path / name, "parameters": {"weight": 1}} for name in "xy"]}
    ingot.merge(source, tmp_path / "half")
    ingot.merge({**source, "dtype": "float32"}, tmp_path / "single")
    half, single = (load(tmp_path / name / "model.safetensors") for name in ("half", "single"))
    assert half["norm.weight"].dtype == "float16"
    assert single["norm.weight"].dtype == "float32"
    np.testing.assert_array_equal(half["norm.weight"], single["norm.weight"].astype("float16"))


def test_methods() -> None:
    known = ingot.methods()
    assert {"linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "passthrough"} <= set(known)
    density = known["ties"].parameters["density"]
    assert (density.minimum, density.maximum, density.default, density.per_model) == (0, 1, 1, True)
    assert density.minimum_excluded
    assert not density.maximum_excluded
    assert known["ties"].base == "required"
    assert "density (number > 0 and <= 1, default 1, per model)" in str(known["ties"])
    assert "density (number from 0 to 1, default 1, per model)" in str(known["dare_ties"])
    known.clear()
    assert ingot.methods()
