"""Merges of models of several tensors against definitions of the methods in numpy's float64."""

from __future__ import annotations

from collections.abc import Callable

import ingot
import numpy as np
import pytest
from support import SHAPES, near, state

State = dict[str, np.ndarray]
WEIGHTS = [0.6, 0.3, 0.5]


@pytest.fixture(scope="module")
def base() -> State:
    return state(0)


@pytest.fixture(scope="module")
def tunes(base: State) -> list[State]:
    return [near(base, seed) for seed in (1, 2, 3)]


def close(found: State, reference: Callable[[str], np.ndarray], terms: Callable[[str], np.ndarray], tolerance: float = 1e-6) -> None:
    """Element by element |x - r| ≤ tolerance × max(|r|, Σ|wᵢxᵢ| + |base|)."""
    for name in SHAPES:
        expected = reference(name)
        bound = tolerance * np.maximum(np.abs(expected), terms(name))
        assert found[name].shape == SHAPES[name]
        assert (np.abs(found[name].astype("d") - expected) <= bound).all(), name


def test_linear(tunes: list[State]) -> None:
    for normalize in (True, False):
        merged = ingot.merge_state_dicts("linear", tunes, weight=WEIGHTS, normalize=normalize)
        scale = sum(WEIGHTS) if normalize else 1
        close(
            merged,
            lambda name, scale=scale: sum(w * t[name].astype("d") for w, t in zip(WEIGHTS, tunes)) / scale,
            lambda name: sum(abs(w * t[name].astype("d")) for w, t in zip(WEIGHTS, tunes)),
        )
        np.testing.assert_array_equal(merged["positions"], np.arange(17))


@pytest.mark.parametrize("spherical", [False, True])
def test_slerp(base: State, tunes: list[State], spherical: bool) -> None:
    other, t = state(9) if spherical else near(base, 1, scale=0.01), 0.3
    branches = set()

    def reference(name: str) -> np.ndarray:
        a, b = base[name].astype("d"), other[name].astype("d")
        cosine = (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))
        branches.add(bool(abs(cosine) <= 0.9995))
        if abs(cosine) > 0.9995:
            return (1 - t) * a + t * b
        angle = np.arccos(cosine)
        return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)

    merged = ingot.merge_state_dicts("slerp", [other], base=base, t=t)
    close(merged, reference, lambda name: abs(base[name].astype("d")) + abs(other[name]), 2e-6)
    assert spherical in branches


def test_task_arithmetic(base: State, tunes: list[State]) -> None:
    merged = ingot.merge_state_dicts("task_arithmetic", tunes, base=base, weight=WEIGHTS, lambda_=0.8)
    close(
        merged,
        lambda name: base[name].astype("d") + 0.8 * sum(w * (t[name].astype("d") - base[name]) for w, t in zip(WEIGHTS, tunes)),
        lambda name: abs(base[name].astype("d")) + sum(abs(w * t[name].astype("d")) for w, t in zip(WEIGHTS, tunes)),
    )


def trimmed(delta: np.ndarray, threshold: float) -> np.ndarray:
    return np.where(np.abs(delta) >= threshold, delta, 0)


def threshold(values: np.ndarray, density: float) -> float:
    kept = int(density * values.size)
    return float(np.sort(np.abs(values), axis=None)[values.size - kept]) if kept else float("inf")


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_ties(base: State, tunes: list[State], scope: str) -> None:
    density = [0.2, 0.5, 0.8]
    merged = ingot.merge_state_dicts("ties", tunes, base=base, weight=WEIGHTS, density=density, scope=scope, ties="ge")
    # As the engine computes them: in f32, where some magnitudes are equal.
    deltas = [{name: (t[name] - base[name]).astype("d") for name in SHAPES} for t in tunes]
    everything = [threshold(np.concatenate([d[name].ravel() for name in SHAPES]), q) for d, q in zip(deltas, density)]

    def reference(name: str) -> np.ndarray:
        limits = everything if scope == "model" else [threshold(d[name], q) for d, q in zip(deltas, density)]
        terms = [w * trimmed(d[name], limit) for w, d, limit in zip(WEIGHTS, deltas, limits)]
        sign = np.where(sum(terms) >= 0, 1, -1)
        agrees = [np.sign(term) == sign for term in terms]
        weight = sum(w * agree for w, agree in zip(WEIGHTS, agrees))
        mean = sum(term * agree for term, agree in zip(terms, agrees)) / np.where(weight == 0, 1, weight)
        return base[name] + mean

    close(merged, reference, lambda name: abs(base[name].astype("d")) + sum(abs(w * t[name].astype("d")) for w, t in zip(WEIGHTS, tunes)))


def test_ties_keeps_exactly_its_share(base: State, tunes: list[State]) -> None:
    coarse = {name: np.round(value, 2) for name, value in tunes[0].items()}  # thousands of equal magnitudes
    zero = {name: np.zeros_like(value) for name, value in coarse.items()}
    merged = ingot.merge_state_dicts("ties", [coarse], base=zero, density=0.3)
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        assert np.count_nonzero(merged[name]) == min(int(0.3 * size), np.count_nonzero(coarse[name]))


def test_scopes_differ(base: State, tunes: list[State]) -> None:
    """One tensor changed much more than the others takes their share of the whole model's budget."""
    tunes = [{**t, "norm.weight": t["norm.weight"] + 3 * (t["norm.weight"] - base["norm.weight"])} for t in tunes]
    tensor, model = (ingot.merge_state_dicts("ties", tunes, base=base, density=0.1, scope=scope) for scope in ("tensor", "model"))
    changed = [(merged["norm.weight"] != base["norm.weight"]).mean() for merged in (tensor, model)]
    assert changed[0] < 0.35 < changed[1]


def test_dare(base: State, tunes: list[State]) -> None:
    """The drops are random; what is kept is not: each element is the base's, or the base plus its delta over the density."""
    for density in (0.25, 0.5):
        merged = ingot.merge_state_dicts("dare_linear", tunes[:1], base=base, density=density, rescale_rule="inverse_keep", seed=3)
        for name in ("embed.weight", "norm.weight"):
            delta = (tunes[0][name] - base[name]).astype("d")
            kept = merged[name] != base[name]
            assert abs(kept.mean() - density) < 5 * np.sqrt(density * (1 - density) / kept.size)
            expected = np.where(kept, base[name] + delta / density, base[name])
            np.testing.assert_allclose(merged[name], expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_seeds(base: State, tunes: list[State]) -> None:
    def drop(seed: int | None, **more: int) -> bytes:
        merged = ingot.merge_state_dicts("dare_ties", tunes, base=base, density=0.5, seed=seed, **more)
        return b"".join(tensor.tobytes() for tensor in merged.values())

    assert drop(None) == drop(0) == drop(0, threads=1) == drop(0, threads=2)
    assert drop(1) != drop(0)
    assert drop(2**64 - 1) != drop(0)
    with pytest.raises(ingot.InvalidArgumentError, match="seed"):
        drop(2**64)
    with pytest.raises(ingot.InvalidArgumentError, match="seed"):
        drop(-1)


def test_names_take_part_in_draws(base: State, tunes: list[State]) -> None:
    one, two = (ingot.merge_tensors("dare_linear", [tunes[0]["norm.weight"]], base["norm.weight"], density=0.5, name=name) for name in "xy")
    whole = ingot.merge_state_dicts("dare_linear", tunes[:1], base=base, density=0.5)
    same = ingot.merge_tensors("dare_linear", [tunes[0]["norm.weight"]], base["norm.weight"], density=0.5, name="norm.weight")
    assert one.tobytes() != two.tobytes()
    assert whole["norm.weight"].tobytes() == same.tobytes()


def test_passthrough(tunes: list[State]) -> None:
    merged = ingot.merge_state_dicts("passthrough", tunes[:1])
    for name, value in tunes[0].items():
        assert merged[name].tobytes() == value.tobytes()
    scaled = ingot.merge_state_dicts("passthrough", tunes[:1], scale=0.5)
    close(scaled, lambda name: 0.5 * tunes[0][name].astype("d"), lambda name: abs(tunes[0][name]))


def test_keys_give_values_to_models(base: State, tunes: list[State]) -> None:
    listed = ingot.merge_state_dicts("ties", tunes[:2], base=base, weight=[0.7, 0.2], density=[0.5, 1])
    named = ingot.merge_state_dicts(
        "ties", {"math": tunes[0], "code+x@y": tunes[1]}, base=base, weight={"math": 0.7, "code+x@y": 0.2}, density={"math": 0.5}
    )
    for name in SHAPES:
        assert listed[name].tobytes() == named[name].tobytes()
    arrays = ingot.merge_state_dicts("ties", tunes[:2], base=base, weight=np.array([0.7, 0.2]), density=[np.float32(0.5), 1])
    assert arrays["norm.weight"].tobytes() == listed["norm.weight"].tobytes()


def test_base_as_one_more_input(base: State, tunes: list[State]) -> None:
    merged = ingot.merge_state_dicts("linear", {"x": tunes[0]}, base=base, weight={"x": 3, "base": 1})
    close(
        merged,
        lambda name: (3 * tunes[0][name].astype("d") + base[name]) / 4,
        lambda name: 3 * abs(tunes[0][name]) + abs(base[name]),
    )


def test_settings_change_no_byte(base: State, tunes: list[State]) -> None:
    merged = {
        (threads, memory, isa): b"".join(
            tensor.tobytes()
            for tensor in ingot.merge_state_dicts("della", tunes, base=base, density=0.6, threads=threads, memory=memory, isa=isa).values()
        )
        for threads in (1, 2)
        for memory in ("4MiB", None)
        for isa in ("scalar", None)
    }
    assert len(set(merged.values())) == 1
