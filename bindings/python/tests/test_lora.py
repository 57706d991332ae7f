"""LoRA adapters: what is written against numpy, what is seen in them, what is refused. The methods are the engine's, tested there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from support import load, save, write

PREFIX = "base_model.model."
SHAPES = {"model.layers.0.self_attn.q_proj": (20, 16), "model.layers.0.mlp.up_proj": (14, 24)}
Q, UP = SHAPES
ALPHA = 8


def adapter(path: Path, seed: int, rank: int = 4, modules: dict[str, tuple[int, int]] = SHAPES, **config: Any) -> Path:
    """Writes an adapter in PEFT's layout."""
    generator = np.random.default_rng(seed)
    path.mkdir()
    tensors = {}
    for name, (outputs, inputs) in modules.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = generator.standard_normal((rank, inputs)).astype("f")
        tensors[f"{PREFIX}{name}.lora_B.weight"] = generator.standard_normal((outputs, rank)).astype("f")
    write(path / "adapter_model.safetensors", tensors)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": ALPHA, "target_modules": [name.split(".")[-1] for name in modules]}
    (path / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "org/base", **config}))
    return path


def factors(path: Path) -> dict[str, tuple[Any, Any]]:
    """B and A of every module in float64, the scale of the config left out."""
    stored = load(path / "adapter_model.safetensors")
    names = [name.removeprefix(PREFIX).removesuffix(".lora_A.weight") for name in stored if name.endswith(".lora_A.weight")]
    return {name: tuple(stored[f"{PREFIX}{name}.lora_{part}.weight"].astype("f8") for part in "BA") for name in names}


def changes(path: Path) -> dict[str, Any]:
    """scale · B A of every module."""
    config = json.loads((path / "adapter_config.json").read_text())

    def scale(name: str) -> float:
        return config["lora_alpha"] / config["r"] if name not in config.get("rank_pattern", {}) else 1  # type: ignore[no-any-return]

    return {name: scale(name) * b @ a for name, (b, a) in factors(path).items()}


def truncated(matrix: Any, rank: int) -> Any:
    u, s, v = np.linalg.svd(matrix)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def distance(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [adapter(tmp_path / "first", 1), adapter(tmp_path / "second", 2)]


def test_linear_sums_factors(pair: list[Path], tmp_path: Path) -> None:
    report = ingot.lora.merge("linear", pair, tmp_path / "out", weight=[0.7, -0.3])
    scale = ALPHA / 4
    one, two = map(factors, pair)
    exact = [changes(path) for path in pair]
    for name, found in changes(tmp_path / "out").items():
        roots = [(0.7 * scale) ** 0.5, (0.3 * scale) ** 0.5]
        expected = (roots[0] * one[name][0] + roots[1] * two[name][0]) @ (roots[0] * one[name][1] - roots[1] * two[name][1])
        close(found, expected)
        module = report.modules[name]
        assert (module.name, module.outputs, module.inputs, module.rank) == (name, *SHAPES[name], 4)
        assert module.norm == pytest.approx(np.linalg.norm(expected), rel=1e-5)
        assert module.relative_error == pytest.approx(distance(expected, 0.7 * exact[0][name] - 0.3 * exact[1][name]), rel=1e-4)
    assert set(report.modules) == set(SHAPES)
    assert (report.output, report.whole_tensors) == (str(tmp_path / "out"), 0)
    assert report.bytes == (tmp_path / "out" / "adapter_model.safetensors").stat().st_size
    assert report.threads >= 1
    assert report.workspace_bytes > 0
    assert report.to_dict()["run"]["seconds"] == report.seconds >= 0
    assert isinstance(report, ingot.lora.LoRAReport)
    assert ingot.verify(tmp_path / "out").tensors == 4


def test_svd_is_the_best_of_its_rank(pair: list[Path], tmp_path: Path) -> None:
    exact = [changes(path) for path in pair]
    report = ingot.lora.merge("svd", tuple(pair), tmp_path / "out", weight=0.5, rank=3, threads=2, memory="64MiB")
    for name, found in changes(tmp_path / "out").items():
        whole = 0.5 * (exact[0][name] + exact[1][name])
        close(found, truncated(whole, 3))
        module = report.modules[name]
        assert module.rank == 3
        assert module.relative_error == pytest.approx(distance(truncated(whole, 3), whole), rel=1e-4)
    # Ranks by a share of the spectrum: a module's own rank stands in rank_pattern.
    report = ingot.lora.merge("svd", pair, tmp_path / "shares", weight=np.float32(1), energy=0.8, seed=2**64 - 1)
    for name, found in changes(tmp_path / "shares").items():
        whole = exact[0][name] + exact[1][name]
        squares = np.linalg.svd(whole, compute_uv=False) ** 2
        rank = int(np.searchsorted(np.cumsum(squares), 0.8 * squares.sum()) + 1)
        assert report.modules[name].rank == rank < 8
        close(found, truncated(whole, rank))


def test_other_ranks_types_and_modules(pair: list[Path], tmp_path: Path) -> None:
    """cat adds ranks up; a module of one adapter only is merged from that; results are replaced when they may be."""
    third = adapter(tmp_path / "third", 3, rank=2, modules={Q: SHAPES[Q]}, use_rslora=True)
    report = ingot.lora.merge("cat", [*pair, third], tmp_path / "out", dtype="float16")
    assert {name: module.rank for name, module in report.modules.items()} == {Q: 10, UP: 8}
    assert any("by some of the adapters" in notice.message for notice in report.notices)
    one, two = map(changes, pair)
    b, a = factors(third)[Q]
    for name, found in changes(tmp_path / "out").items():
        expected = one[name] + two[name] + (ALPHA / 2**0.5 * b @ a if name == Q else 0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3 * np.abs(expected).max())
    with pytest.raises(ingot.ExistsError):
        ingot.lora.merge("cat", pair, tmp_path / "out")
    assert set(ingot.lora.merge("cat", pair[0], tmp_path / "out", force=True, sync="none").modules) == set(SHAPES)
    close(changes(tmp_path / "out")[Q], one[Q])


def test_draws_follow_the_seed(pair: list[Path], tmp_path: Path) -> None:
    given: dict[str, Any] = {"density": 0.5, "majority": "frequency"}
    for place, seed in (("none", None), ("zero", 0), ("one", 1)):
        ingot.lora.merge("dare_ties", pair, tmp_path / place, seed=seed, **given)
    none, zero, one = ((tmp_path / place / "adapter_model.safetensors").read_bytes() for place in ("none", "zero", "one"))
    assert none == zero != one
    for reweight in (True, False):
        ingot.lora.merge("lego", pair, tmp_path / f"lego-{reweight}", clusters=3, start="first", reweight=reweight)
    lego = [ingot.lora.inspect(tmp_path / f"lego-{reweight}").adapters[0] for reweight in (True, False)]
    assert [each.modules[Q].rank for each in lego] == [3, 3]
    assert lego[0].norm > lego[1].norm


def tuned(tmp_path: Path) -> tuple[Path, Path, dict[str, Any]]:
    """A base, a model that differs by rank 2 in two weights and otherwise in an embedding and a norm, and the differences."""
    generator = np.random.default_rng(5)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype("f")

    names = {f"{name}.weight": shape for name, shape in SHAPES.items()}
    base = {name: normal(*shape) for name, shape in names.items()}
    base |= {
        "model.embed_tokens.weight": normal(11, 16),
        "model.norm.weight": normal(16),
        "model.layers.0.mlp.down_proj.weight": normal(24, 14),
    }
    other = {name: value.copy() for name, value in base.items()}
    for name, (outputs, inputs) in names.items():
        other[name] += normal(outputs, 2) @ normal(2, inputs)
    other["model.embed_tokens.weight"] += np.float32(0.5)
    other["model.norm.weight"] += np.float32(0.25)
    differences = {name.removesuffix(".weight"): other[name].astype("f8") - base[name] for name in base}
    return save(tmp_path / "base", base), save(tmp_path / "tuned", other), differences


def test_extract_and_apply(tmp_path: Path) -> None:
    base, expert, differences = tuned(tmp_path)
    report = ingot.lora.extract(base, expert, tmp_path / "lora", rank=2)
    assert set(report.modules) == set(SHAPES)
    assert report.whole_tensors == 2
    for name, found in changes(tmp_path / "lora").items():
        np.testing.assert_allclose(found, differences[name], rtol=0, atol=1e-5)
        assert report.modules[name].rank == 2
        assert report.modules[name].norm == pytest.approx(np.linalg.norm(differences[name]), rel=1e-5)
        error = report.modules[name].relative_error
        assert error is not None
        assert error < 1e-5
    assert any("equal" in notice.message for notice in report.notices)
    ingot.merge({"merge_method": "passthrough", "models": [{"model": f"{base}+{tmp_path / 'lora'}"}]}, tmp_path / "again")
    found, expected = load(tmp_path / "again" / "model.safetensors"), load(expert / "model.safetensors")
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5)


def test_extract_by_rules(tmp_path: Path) -> None:
    base, expert, differences = tuned(tmp_path)
    # A share that the second singular value is needed for, and one that it is not.
    values = np.linalg.svd(differences[Q], compute_uv=False)
    share = values[0] ** 2 / (values**2).sum()
    for energy, rank in ((share + 0.01, 2), (share - 0.01, 1)):
        report = ingot.lora.extract(base, expert, tmp_path / f"rank-{rank}", energy=energy, only="*.q_proj", exact=True)
        assert {name: module.rank for name, module in report.modules.items()} == {Q: rank}
        assert report.whole_tensors == 0
        close(changes(tmp_path / f"rank-{rank}")[Q], truncated(differences[Q], rank))
    assert ingot.lora.extract(base, expert, tmp_path / "most", energy=1, max_rank=1, only=[Q]).modules[Q].rank == 1

    # The first rule that matches counts.
    rules: dict[str, int | str] = {"*.q_proj": "fraction:0", "*_proj": "whole", "*": 1}
    report = ingot.lora.extract(base, expert, tmp_path / "rules", norm_fraction=0.5, rules=rules, others="skip", embeddings="skip", seed=3)
    assert set(report.modules) >= {Q}
    assert UP not in report.modules
    stored = load(tmp_path / "rules" / "adapter_model.safetensors")
    np.testing.assert_array_equal(stored[f"{PREFIX}{UP}.weight"], load(expert / "model.safetensors")[f"{UP}.weight"])
    report = ingot.lora.extract(base, expert, tmp_path / "skip", rank=2, skip=["*.q_proj", "/norm|embed/"], dtype="bfloat16")
    assert (set(report.modules), report.whole_tensors) == ({UP}, 0)
    report = ingot.lora.extract(base, expert, tmp_path / "table", rank=1, embeddings="lora", others="skip")
    assert set(report.modules) == {*SHAPES, "model.embed_tokens"}
    assert ingot.lora.inspect(tmp_path / "table").adapters[0].modules["model.embed_tokens"].embedding


def test_resize(pair: list[Path], tmp_path: Path) -> None:
    report = ingot.lora.resize(pair[0], tmp_path / "small", rank=2)
    exact = changes(pair[0])
    for name, found in changes(tmp_path / "small").items():
        close(found, truncated(exact[name], 2))
        assert report.modules[name].rank == 2
        assert report.modules[name].relative_error == pytest.approx(distance(truncated(exact[name], 2), exact[name]), rel=1e-4)
    report = ingot.lora.resize(pair[0], tmp_path / "share", norm_fraction=0.6, dtype=np.float16)
    for name, module in report.modules.items():
        values = np.linalg.svd(exact[name], compute_uv=False)
        assert module.rank == (values > 0.6 * values[0]).sum()
    assert {tensor.dtype for tensor in ingot.inspect(tmp_path / "share" / "adapter_model.safetensors").tensors.values()} == {"F16"}


def test_inspect(pair: list[Path], tmp_path: Path) -> None:
    whole = {f"{PREFIX}lm_head.weight": np.ones((3, 5), "f")}
    third = adapter(tmp_path / "third", 3, rank=2, modules={Q: SHAPES[Q]}, base_model_name_or_path=None, modules_to_save=["lm_head"])
    write(third / "adapter_model.safetensors", {**load(third / "adapter_model.safetensors"), **whole})
    found = ingot.lora.inspect(*pair, third, spectrum=True)
    assert isinstance(found, ingot.lora.LoRAInspection)
    assert [each.name for each in found.adapters] == [str(path) for path in (*pair, third)]
    assert [each.base for each in found.adapters] == ["org/base", "org/base", None]
    for path, each in zip((*pair, third), found.adapters):
        exact = changes(path)
        assert set(each.modules) == set(exact)
        assert each.norm == pytest.approx(sum((value**2).sum() for value in exact.values()) ** 0.5, rel=1e-6)
        for name, module in each.modules.items():
            rank = factors(path)[name][1].shape[0]
            assert (module.outputs, module.inputs, module.rank) == (*SHAPES[name], rank)
            assert (module.alpha, module.scale, module.dtype) == (ALPHA, ALPHA / rank, "F32")
            assert (module.embedding, module.bias) == (False, False)
            assert module.norm == pytest.approx(np.linalg.norm(exact[name]), rel=1e-6)
            assert module.singular_values is not None
            np.testing.assert_allclose(module.singular_values, np.linalg.svd(exact[name], compute_uv=False)[:rank], rtol=1e-6)
    first, _, last = found.adapters
    assert first.parameters == sum(4 * (outputs + inputs) for outputs, inputs in SHAPES.values())
    assert (first.use_dora, dict(first.whole_tensors)) == (False, {})
    assert last.whole_tensors["lm_head.weight"].shape == (3, 5)

    inputs = [{name: a for name, (_, a) in factors(path).items()} for path in (*pair, third)]
    assert [(overlap.first, overlap.second) for overlap in found.overlaps] == [
        (str(one), str(two)) for one, two in ((pair[0], pair[1]), (pair[0], third), (pair[1], third))
    ]
    for overlap, (one, two) in zip(found.overlaps, ((0, 1), (0, 2), (1, 2))):
        shares = [
            np.linalg.norm(inputs[one][name] @ inputs[two][name].T) / np.linalg.norm(inputs[one][name]) / np.linalg.norm(inputs[two][name])
            for name in inputs[one]
            if name in inputs[two]
        ]
        assert overlap.modules == len(shares)
        assert (overlap.mean, overlap.largest) == (pytest.approx(np.mean(shares), rel=1e-6), pytest.approx(max(shares), rel=1e-6))
    assert ingot.lora.inspect() == ingot.lora.LoRAInspection((), (), {})
    plain = ingot.lora.inspect(pair[0])
    assert plain.overlaps == ()
    assert plain.adapters[0].modules[Q].singular_values is None
    assert plain.to_dict()["adapters"][0]["modules"][0]["name"] in SHAPES


def test_mistakes(pair: list[Path], tmp_path: Path) -> None:
    base, expert, _ = tuned(tmp_path)
    out = tmp_path / "out"
    smaller = adapter(tmp_path / "smaller", 3, rank=2)
    wider = adapter(tmp_path / "wider", 3, modules={Q: (20, 17)})
    dora = adapter(tmp_path / "dora", 4, modules={Q: SHAPES[Q]}, use_dora=True)
    magnitude = {f"{PREFIX}{Q}.lora_magnitude_vector": np.ones(20, "f")}
    write(dora / "adapter_model.safetensors", {**load(dora / "adapter_model.safetensors"), **magnitude})
    merge, extract, resize, one = ingot.lora.merge, ingot.lora.extract, ingot.lora.resize, pair[0]
    invalid = ingot.InvalidArgumentError
    calls: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (invalid, "there is no method", lambda: merge("sdv", pair, out)),
        (invalid, "no option density", lambda: merge("svd", pair, out, density=0.5)),
        (invalid, "rnak", lambda: merge("svd", pair, out, rnak=4)),
        (invalid, "density", lambda: merge("ties", pair, out, density=2)),
        (invalid, "majority", lambda: merge("ties", pair, out, majority="most")),
        (invalid, "drop", lambda: merge("knots_dare", pair, out, drop="0.1")),
        (invalid, "clusters", lambda: merge("lego", pair, out, clusters=0)),
        (invalid, "start", lambda: merge("lego", pair, out, start="last")),
        (invalid, "reweight", lambda: merge("lego", pair, out, reweight=3)),
        (invalid, "modules_to_save", lambda: merge("svd", pair, out, modules_to_save="keep")),
        (invalid, "rank", lambda: merge("svd", pair, out, rank=0)),
        (invalid, "rank", lambda: merge("svd", pair, out, rank=2.5)),
        (invalid, "energy", lambda: merge("svd", pair, out, rank=2, energy=0.5)),
        (invalid, "weight", lambda: merge("cat", pair, out, weight=[1, 2, 3])),
        (invalid, "weight", lambda: merge("cat", pair, out, weight="1")),  # type: ignore[arg-type]
        (invalid, "JSON", lambda: merge("cat", pair, out, weight=float("inf"))),
        (invalid, "seed", lambda: merge("dare_linear", pair, out, seed=-1)),
        (invalid, "no adapters", lambda: merge("cat", [], out)),
        (invalid, "sync", lambda: merge("cat", pair, out, sync="some")),  # type: ignore[arg-type]
        (ingot.DTypeError, "int8", lambda: merge("cat", pair, out, dtype="int8")),
        (ingot.ShapeError, "ranks 4 and 2", lambda: merge("linear", [one, smaller], out)),
        (ingot.ShapeError, "adapters of one model", lambda: merge("cat", [one, wider], out)),
        (ingot.UnsupportedError, "DoRA", lambda: merge("cat", [dora], out)),
        (ingot.NotFoundError, "nowhere", lambda: merge("cat", [one, tmp_path / "nowhere"], out)),
        (invalid, "rank", lambda: extract(base, expert, out)),
        (invalid, "energy", lambda: extract(base, expert, out, energy=1.5)),
        (invalid, "norm_fraction", lambda: extract(base, expert, out, rank=2, norm_fraction=0.5)),
        (invalid, "max_rank", lambda: extract(base, expert, out, energy=0.5, max_rank=0)),
        (invalid, "energy:2", lambda: extract(base, expert, out, rank=2, rules={"*": "energy:2"})),
        (invalid, "rules", lambda: extract(base, expert, out, rank=2, rules=["*"])),  # type: ignore[arg-type]
        (invalid, "skip", lambda: extract(base, expert, out, rank=2, skip="/[/")),
        (invalid, "embeddings", lambda: extract(base, expert, out, rank=2, embeddings="some")),  # type: ignore[arg-type]
        (invalid, "others", lambda: extract(base, expert, out, rank=2, others="lora")),  # type: ignore[arg-type]
        (invalid, "nothing to extract", lambda: extract(base, base, out, rank=2)),
        (ingot.NotFoundError, "nowhere", lambda: extract(base, tmp_path / "nowhere", out, rank=2)),
        (invalid, "rank", lambda: resize(one, out)),
        (invalid, "rank", lambda: resize(one, out, rank=-1)),
        (ingot.NotFoundError, "no adapter_model", lambda: resize(base, out, rank=2)),
        (ingot.NotFoundError, "nowhere", lambda: ingot.lora.inspect(one, tmp_path / "nowhere")),
    ]
    kept = {path.name for path in tmp_path.iterdir()}
    for kind, words, call in calls:
        with pytest.raises(kind, match=words):
            call()
        assert {path.name for path in tmp_path.iterdir()} == kept, words


def test_errors_say_what_to_do(pair: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ingot.InvalidArgumentError) as caught:
        ingot.lora.merge("ties", pair, tmp_path / "out", drop=0.5)
    error = caught.value
    assert (error.status, error.subject, error.position) == (ingot.Status.INVALID_ARGUMENT, "drop", None)
    assert error.hint == "its options are density, majority"
    with pytest.raises(ingot.MemoryBudgetError):
        ingot.lora.merge("cat", pair, tmp_path / "out", memory="1KiB")
    assert not (tmp_path / "out").exists()


def test_progress_and_cancelling(pair: list[Path], tmp_path: Path) -> None:
    base, expert, _ = tuned(tmp_path)
    out = tmp_path / "out"
    told: list[ingot.Progress] = []
    ingot.lora.extract(base, expert, out, rank=1, progress=told.append)
    assert told[-1].tensors_done == told[-1].tensors_total == 4

    class Stop(Exception):
        pass

    def stop(_: ingot.Progress) -> None:
        raise Stop

    calls: list[Callable[[], Any]] = [
        lambda: ingot.lora.merge("svd", pair, tmp_path / "other", progress=stop),
        lambda: ingot.lora.extract(base, expert, tmp_path / "other", rank=1, progress=stop),
        lambda: ingot.lora.resize(pair[0], tmp_path / "other", rank=1, progress=stop),
    ]
    kept = {path.name for path in tmp_path.iterdir()}
    for call in calls:
        with pytest.raises(Stop):
            call()
        assert {path.name for path in tmp_path.iterdir()} == kept
    with ingot.Engine(threads=1) as engine:
        with pytest.raises(ingot.CancelledError):
            engine.resize_lora(pair[0], tmp_path / "other", rank=1, progress=lambda _: engine.cancel())
        assert not (tmp_path / "other").exists()
        assert engine.merge_lora("svd", pair, tmp_path / "other").modules[Q].rank == 4
