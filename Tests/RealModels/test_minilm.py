"""A published checkpoint: copies are its bytes, merges are numpy's float64."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import references
import weights
from conftest import Command, write_recipe
from weights import Doubles, Tensor

FLOATS, INTEGERS = 103, 1
SIGNALLING = np.array([0x7F800001, 0xFF812345, 0x7FBFFFFF, 0xFFA00000], dtype="<u4")


def assert_equal_bytes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert np.array_equal(found[name].data, tensor.data), name


def assert_integers_of(found: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    """Tensors without arithmetic are the base's."""
    integers = [name for name, tensor in base.items() if tensor.dtype != "F32"]
    assert len(integers) == INTEGERS
    for name in integers:
        assert np.array_equal(found[name].data, base[name].data), name


def floats_of(*models: Mapping[str, Tensor]) -> dict[str, list[Doubles]]:
    names = [name for name, tensor in models[0].items() if tensor.dtype == "F32"]
    assert len(names) == FLOATS
    return {name: [model[name].floats.astype(np.float64) for model in models] for name in names}


# Copies


def test_passthrough_is_byte_identical(ingot: Command, minilm: Path, folder: Path) -> None:
    recipe = write_recipe(folder / "recipe.yml", merge_method="passthrough", models=[{"model": str(minilm)}])
    record = ingot.merge(recipe, folder / "out")
    expected = weights.read(minilm)
    assert len(expected) == FLOATS + INTEGERS
    assert_equal_bytes(weights.read(folder / "out"), expected)
    total = sum(tensor.data.size for tensor in expected.values())
    assert (record.run["bytes_read"], record.run["bytes_written"], record.run["bytes_decoded"]) == (total, total, 0)
    for path in minilm.rglob("*"):
        # The card and the config are the output's own; every other file is carried over.
        name = path.relative_to(minilm)
        if path.is_file() and name.as_posix() not in ("README.md", "config.json", "model.safetensors", ".gitattributes"):
            assert (folder / "out" / name).read_bytes() == path.read_bytes(), name
    before, after = (json.loads((place / "config.json").read_text()) for place in (minilm, folder / "out"))
    after.pop("torch_dtype")
    assert after == before
    assert ingot("verify", folder / "out").stdout


def plant_signalling_nans(model: Path) -> list[str]:
    """Puts NaNs that arithmetic would quieten into a matrix, a vector and the largest tensor."""
    names = ["embeddings.word_embeddings.weight", "encoder.layer.2.attention.self.key.weight", "pooler.dense.bias"]
    tensors = weights.read_file(model / "model.safetensors", writable=True)
    for name in names:
        words = tensors[name].data.view("<u4")
        words[: SIGNALLING.size] = SIGNALLING
        words[-SIGNALLING.size :] = SIGNALLING
    return names


def test_signalling_nans_survive_a_copy(ingot: Command, minilm: Path, folder: Path) -> None:
    model = weights.copy_model(minilm, folder / "model")
    names = plant_signalling_nans(model)
    recipe = write_recipe(folder / "recipe.yml", merge_method="passthrough", models=[{"model": str(model)}])
    record = ingot.merge(recipe, folder / "out")
    found = weights.read(folder / "out")
    for name in names:
        words = found[name].data.view("<u4")
        assert np.array_equal(words[: SIGNALLING.size], SIGNALLING), name
        assert np.array_equal(words[-SIGNALLING.size :], SIGNALLING), name
    assert_equal_bytes(found, weights.read(model))
    assert record.run["bytes_decoded"] == 0


def test_signalling_nans_stop_a_merge(ingot: Command, minilm: Path, folder: Path) -> None:
    model = weights.copy_model(minilm, folder / "model")
    plant_signalling_nans(model)
    recipe = write_recipe(
        folder / "recipe.yml",
        merge_method="linear",
        models=[{"model": str(place), "parameters": {"weight": 0.5}} for place in (minilm, model)],
    )
    done = ingot("merge", recipe, folder / "out", exit_code=3)
    assert re.search(r"error: .*\b8 in .*model", done.stderr), done.stderr
    assert not (folder / "out").exists()


# Merges


# One tensor of the checkpoint, the pooler's bias, is all zeros; a zero tensor counts as orthogonal, so it takes the arc.
@pytest.mark.parametrize(("copy", "t", "linear", "spherical"), [("near", [0.3], FLOATS - 1, 1), ("far", [0.0, 0.35, 1.0], 0, FLOATS)])
def test_slerp(
    request: pytest.FixtureRequest,
    ingot: Command,
    minilm: Path,
    folder: Path,
    copy: str,
    t: list[float],
    linear: int,
    spherical: int,
) -> None:
    other: Path = request.getfixturevalue(copy)
    recipe = write_recipe(
        folder / "recipe.yml",
        merge_method="slerp",
        base_model=str(minilm),
        models=[{"model": str(minilm)}, {"model": str(other)}],
        parameters={"t": t if len(t) > 1 else t[0]},
    )
    record = ingot.merge(recipe, folder / "out")
    found, base = weights.read(folder / "out"), weights.read(minilm)
    branches = record.findings("spherical")
    assert [list(branches.values()).count(branch) for branch in (0, 1)] == [linear, spherical]
    for name, (first, second) in floats_of(base, weights.read(other)).items():
        expected = references.slerp(first, second, references.at_layer(t, name, layers=6))
        assert branches[name] == expected.is_spherical, name
        assert record.findings("cosine")[name] == pytest.approx(expected.cosine, rel=1e-6), name
        references.assert_close(found[name].floats, expected.value, expected.scale, 2e-6, name)
    assert_integers_of(found, base)


def weighted(models: list[Path], values: list[float]) -> list[dict[str, object]]:
    return [{"model": str(model), "parameters": {"weight": weight}} for model, weight in zip(models, values)]


def test_linear(ingot: Command, minilm: Path, near: Path, far: Path, folder: Path) -> None:
    values = [0.5, 0.3, -0.4]
    recipe = write_recipe(folder / "recipe.yml", merge_method="linear", models=weighted([minilm, near, far], values))
    ingot.merge(recipe, folder / "out")
    found, models = weights.read(folder / "out"), [weights.read(model) for model in (minilm, near, far)]
    for name, tensors in floats_of(*models).items():
        terms = [weight / sum(values) * tensor for weight, tensor in zip(values, tensors)]
        references.assert_close(found[name].floats, sum(terms), sum(map(np.abs, terms)), 1e-6, name)
    assert_integers_of(found, models[0])


def test_task_arithmetic(ingot: Command, minilm: Path, near: Path, far: Path, folder: Path) -> None:
    values, scale = [0.7, -0.4], 1.5
    recipe = write_recipe(
        folder / "recipe.yml",
        merge_method="task_arithmetic",
        base_model=str(minilm),
        models=weighted([near, far], values),
        parameters={"lambda": scale},
    )
    ingot.merge(recipe, folder / "out")
    found, models = weights.read(folder / "out"), [weights.read(model) for model in (minilm, near, far)]
    for name, (base, *others) in floats_of(*models).items():
        terms = [scale * weight * (other - base) for weight, other in zip(values, others)]
        bound = np.abs(base) + sum(map(np.abs, terms))
        references.assert_close(found[name].floats, base + sum(terms), bound, 1e-6, name)
    assert_integers_of(found, models[0])


@pytest.fixture(scope="module")
def trimmed(ingot: Command, minilm: Path, near: Path, far: Path, session_folder: Path) -> list[Path]:
    """ties of each copy alone: the base plus exactly what is kept of that copy's task vector."""
    outputs = []
    for copy in (near, far):
        recipe = write_recipe(
            session_folder / f"trim-{copy.name}.yml",
            merge_method="ties",
            base_model=str(minilm),
            models=[{"model": str(copy), "parameters": {"weight": 1.0, "density": 0.5}}],
        )
        outputs.append(session_folder / f"trimmed-{copy.name}")
        ingot.merge(recipe, outputs[-1])
    return outputs


def test_ties_keeps_exactly_k_of_each_tensor(minilm: Path, near: Path, far: Path, trimmed: list[Path]) -> None:
    base = weights.read(minilm)
    for copy, output in zip((near, far), trimmed):
        other, found = weights.read(copy), weights.read(output)
        for name in floats_of(base):
            delta = other[name].floats - base[name].floats
            kept = found[name].floats != base[name].floats
            wanted = delta.size // 2
            cut = references.threshold(delta, wanted)
            # Only where a kept delta is lost in the base's rounding could the count be short: it is at no tensor here.
            assert np.count_nonzero(kept) == min(wanted, np.count_nonzero(delta)), (copy.name, name)
            assert np.all(kept[np.abs(delta) > cut]), (copy.name, name)
            assert not np.any(kept[np.abs(delta) < cut]), (copy.name, name)


def test_ties(ingot: Command, minilm: Path, near: Path, far: Path, trimmed: list[Path], folder: Path) -> None:
    values, density = [1.0, 0.5], 0.5
    models = weighted([near, far], values)
    recipe = write_recipe(
        folder / "recipe.yml",
        merge_method="ties",
        base_model=str(minilm),
        models=models,
        parameters={"density": density, "lambda": 0.8},
    )
    ingot.merge(recipe, folder / "out")
    base, found = weights.read(minilm), weights.read(folder / "out")
    sources, alone = [weights.read(model) for model in (near, far)], [weights.read(output) for output in trimmed]
    for name in floats_of(base):
        start = base[name].floats
        deltas, masks = [], []
        for source, trim in zip(sources, alone):
            delta = source[name].floats - start
            cut = references.threshold(delta, delta.size // 2)
            mask: npt.NDArray[np.bool_] = np.abs(delta) > cut
            # Which of several equal magnitudes at the cut stay is the engine's to choose, the same way in every merge.
            level = np.abs(delta) == cut
            mask |= level & (trim[name].floats != start)
            deltas.append(delta.astype(np.float64))
            masks.append(mask)
        expected = references.ties(start.astype(np.float64), deltas, masks, values, scale=0.8)
        references.assert_close(found[name].floats, expected.value, expected.scale, 1e-6, name)
    assert_integers_of(found, base)


# Layers


def test_frankenmerge(ingot: Command, minilm: Path, folder: Path) -> None:
    ranges = [(0, 4), (1, 6)]
    recipe = write_recipe(
        folder / "recipe.yml",
        merge_method="passthrough",
        slices=[{"sources": [{"model": str(minilm), "layer_range": list(layers)}]} for layers in ranges],
    )
    record = ingot.merge(recipe, folder / "out")
    assert record.run["bytes_decoded"] == 0
    config = json.loads((folder / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 9
    source, found = weights.read(minilm), weights.read(folder / "out")
    order = [layer for first, end in ranges for layer in range(first, end)]
    pattern = re.compile(r"^(encoder\.layer\.)(\d+)(\..+)$")
    expected = {name: tensor for name, tensor in source.items() if not pattern.match(name)}
    for name, tensor in source.items():
        if match := pattern.match(name):
            prefix, layer, rest = match.groups()
            for number, origin in enumerate(order):
                if origin == int(layer):
                    expected[f"{prefix}{number}{rest}"] = tensor
    assert len(expected) == 8 + 9 * 16
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert np.array_equal(found[name].data, tensor.data), name


def test_frankenmerge_runs_in_transformers(ingot: Command, minilm: Path, folder: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    order = [0, 1, 2, 3, 1, 2, 3, 4, 5]
    recipe = write_recipe(
        folder / "recipe.yml",
        merge_method="passthrough",
        slices=[{"sources": [{"model": str(minilm), "layer_range": layers}]} for layers in ([0, 4], [1, 6])],
    )
    ingot.merge(recipe, folder / "out")
    merged, problems = transformers.AutoModel.from_pretrained(folder / "out", output_loading_info=True)
    assert not problems["missing_keys"], problems
    assert not problems["mismatched_keys"], problems
    # A buffer that transformers stopped saving.
    assert set(problems["unexpected_keys"]) <= {"embeddings.position_ids"}, problems
    stacked = transformers.AutoModel.from_pretrained(minilm)
    stacked.encoder.layer = torch.nn.ModuleList([stacked.encoder.layer[layer] for layer in order])
    words = transformers.AutoTokenizer.from_pretrained(folder / "out")(["Layers may be repeated."], return_tensors="pt")
    with torch.no_grad():
        results = [model.eval()(**words).last_hidden_state for model in (merged, stacked)]
    assert torch.isfinite(results[0]).all()
    assert torch.equal(*results)
