"""Comparisons of checkpoints as typed values, against numpy."""

from __future__ import annotations

from pathlib import Path

import ingot
import numpy as np
import pytest
from support import load, save, state


def test_values(models: dict[str, Path]) -> None:
    told: list[ingot.Progress] = []
    found = ingot.diff(models["a"], models["b"], models["base"], threads=2, progress=told.append)
    a, b, base = (load(models[name] / "model.safetensors") for name in ("a", "b", "base"))
    assert (found.a, found.b, found.base, found.equal) == (str(models["a"]), str(models["b"]), str(models["base"]), False)
    assert set(found.tensors) == set(a)
    assert (found.only_a, found.only_b, found.files, found.notices) == ((), (), (), ())
    assert told[-1].bytes_done == told[-1].bytes_total > 0
    for name, tensor in found.tensors.items():
        assert (tensor.dtype_a, tensor.shape_a, tensor.equal) == (
            {"f": "F32", "i": "I64"}[a[name].dtype.kind],
            a[name].shape,
            name == "positions",
        )
        if name == "positions":
            assert tensor.values is None
            assert tensor.task_vectors is None
            assert tensor.differing_elements == 0
            continue
        x, y, z = (value[name].astype("f8") for value in (a, b, base))
        assert tensor.values is not None
        assert tensor.values.largest_difference == pytest.approx(np.abs(x - y).max(), rel=1e-6)
        assert tensor.values.rms_difference == pytest.approx(np.sqrt(((x - y) ** 2).mean()), rel=1e-6)
        assert tensor.values.norm_ratio == pytest.approx(np.linalg.norm(y) / np.linalg.norm(x), rel=1e-6)
        assert tensor.values.ulp_dtype == "F32"
        assert tensor.differing_elements == (x != y).sum()
        vectors = tensor.task_vectors
        assert vectors is not None
        assert vectors.norm_a == pytest.approx(np.linalg.norm(x - z), rel=1e-5)
        assert vectors.changed_in_both == ((x != z) & (y != z)).sum()
        assert vectors.sign_conflicts == ((x - z) * (y - z) < 0).sum()
    summary = found.summary
    assert summary.tensors == 5
    assert summary.equal_tensors == 1
    assert summary.sign_conflicts == sum(t.task_vectors.sign_conflicts for t in found.tensors.values() if t.task_vectors)
    assert next(iter(found.tensors.values())).values == max(
        (t.values for t in found.tensors.values() if t.values), key=lambda values: values.largest_difference
    )
    assert found.to_dict()["summary"]["elements"] == summary.elements


def test_equal_lone_and_files(models: dict[str, Path], tmp_path: Path) -> None:
    assert ingot.diff(models["a"], models["a"]).equal
    tensors = state(0)
    tensors["extra"] = np.ones(2, "f")
    tensors["norm.weight"] = np.ones(3, "f")
    del tensors["scale"]
    save(tmp_path / "other", tensors)
    (tmp_path / "other" / "config.json").write_text('{"model_type": "else", "architectures": ["Test"]}')
    (tmp_path / "other" / "tokenizer.json").write_text("{}")
    found = ingot.diff(models["base"], tmp_path / "other")
    assert not found.equal
    assert [(lone.name, lone.dtype, lone.shape) for lone in found.only_a] == [("scale", "F32", ())]
    assert [lone.name for lone in found.only_b] == ["extra"]
    assert found.base is None
    assert found.summary.sign_conflicts is None
    assert {file.name: (file.kind, file.changes) for file in found.files} == {
        "config.json": ("changed", (("model_type", '"test"', '"else"'),)),
        "tokenizer.json": ("only_b", ()),
    }
    assert found.tensors["norm.weight"].values is None
    assert found.tensors["norm.weight"].differing_elements is None
    assert ingot.diff(models["base"], tmp_path / "other", tensors_only=True).files == ()
    zeros = save(tmp_path / "zeros", {"w": np.zeros(3, "f")})
    value = ingot.diff(zeros, zeros).tensors["w"].values
    assert value is not None
    assert value.cosine is None
    assert value.norm_ratio is None


def test_mistakes(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ingot.NotFoundError, match="nowhere"):
        ingot.diff(models["a"], tmp_path / "nowhere")
    with pytest.raises(ingot.NotFoundError, match="nowhere"):
        ingot.diff(models["a"], models["b"], tmp_path / "nowhere")
    with pytest.raises(ingot.InvalidArgumentError) as error:
        ingot.diff(models["a"], "a@b@c+d")
    assert error.value.position is None
