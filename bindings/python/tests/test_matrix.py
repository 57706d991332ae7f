"""Matrix methods against the papers' formulas in numpy's float64: the error of the merged delta, relative in the Frobenius norm."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ingot
import numpy as np
import pytest
from support import load

NAME = "model.layers.0.mlp.up_proj.weight"
LIMIT = 1e-4
Matrix = np.ndarray


def bfloat16(values: Matrix) -> Matrix:
    """Rounds to the nearest bfloat16, kept as float32."""
    bits = values.astype("f").view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view("f")


def gaussian(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Matrix, list[Matrix]]:
    return np.zeros(shape, "f"), [rng.normal(0, 0.02, shape).astype("f") for _ in range(4)]


def bf16_difference(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Matrix, list[Matrix]]:
    """Differences of bf16 weights: rank 16 under the noise of rounding."""
    base = bfloat16(rng.normal(0, 0.05, shape))
    tunes = []
    for _ in range(4):
        delta = rng.normal(0, 0.05, (shape[0], 16)) @ rng.normal(0, 0.05, (16, shape[1]))
        tunes.append(bfloat16(base + delta))
    return base, tunes


def duplicates(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Matrix, list[Matrix]]:
    one, other = (rng.normal(0, 0.02, shape).astype("f") for _ in range(2))
    return np.zeros(shape, "f"), [one, one, other, one]


def rank_deficient(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Matrix, list[Matrix]]:
    """Small integers, so that the rank is exact in float32."""
    tunes = [(rng.integers(-3, 4, (shape[0], 5)) @ rng.integers(-3, 4, (5, shape[1]))).astype("f") for _ in range(4)]
    return np.zeros(shape, "f"), tunes


INPUTS = {f.__name__: f for f in (gaussian, bf16_difference, duplicates, rank_deficient)}


def factors(matrix: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """The thin SVD over the numerical range."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    kept = s > 1e-6 * s[0]
    return u[:, kept], s[kept], v[kept]


def polar(matrix: Matrix) -> Matrix:
    u, _, v = factors(matrix)
    return u @ v


def iso_c(tasks: list[Matrix]) -> Matrix:
    u, s, v = factors(sum(tasks))
    return s.sum() / min(tasks[0].shape) * (u @ v)


def top(matrix: Matrix, count: int) -> tuple[Matrix, Matrix, Matrix]:
    u, s, v = factors(matrix)
    return u[:, :count], s[:count], v[:count]


def tsv_m(tasks: list[Matrix]) -> Matrix:
    parts = [top(t, min(t.shape) // len(tasks)) for t in tasks]
    u = polar(np.concatenate([p[0] for p in parts], axis=1))
    v = polar(np.concatenate([p[2] for p in parts], axis=0))
    return u @ np.diag(np.concatenate([p[1] for p in parts])) @ v


def wudi(tasks: list[Matrix]) -> Matrix:
    norms = [(t * t).sum() for t in tasks]
    c = sum(t.T @ t / n for t, n in zip(tasks, norms))
    d = sum(t @ t.T @ t / n for t, n in zip(tasks, norms))
    values, vectors = np.linalg.eigh(c)
    kept = values > 1e-8 * values[-1]
    basis = vectors[:, kept]
    start = sum(tasks)
    return start - start @ basis @ basis.T + d @ basis @ np.diag(1 / values[kept]) @ basis.T


def opcm(tasks: list[Matrix]) -> Matrix:
    merged = tasks[0]
    for task in tasks[1:]:
        u, s, v = factors(merged)
        share = np.cumsum(s) / s.sum()
        over = np.nonzero(share > 0.5)[0]
        q = int(over[0]) if len(over) else 0
        seen = u.T @ task @ v.T
        removed = np.diag(np.diag(seen))
        removed[:q, :q] = seen[:q, :q]
        merged = merged + task - u @ removed @ v
    return merged * np.mean([np.linalg.norm(t) for t in tasks]) / np.linalg.norm(merged)


def svc(tasks: list[Matrix]) -> Matrix:
    merged = sum(tasks)
    u, _, _ = factors(merged)
    own = u.T @ merged
    counts = np.zeros(len(own))
    for task in tasks:
        seen = u.T @ task
        counts += np.maximum(1, (own * seen).sum(axis=1) / np.maximum((seen * seen).sum(axis=1), 1e-300))
    return merged + u @ np.diag(len(tasks) / counts - 1) @ own


DENSITY, STEPS, RATE = 0.4, 60, 1e-3


def largest(task: Matrix) -> Matrix:
    count = int(DENSITY * task.size)
    return np.abs(task) >= np.sort(np.abs(task), axis=None)[-count]


def doge(tasks: list[Matrix], *, projects: bool = True) -> Matrix:
    scales = [0.07 / np.linalg.norm(t) for t in tasks]
    common, total = sum(s * t for s, t in zip(scales, tasks)), sum(scales)
    rank = min(tasks[0].shape)
    joined = np.concatenate([np.linalg.svd(t, full_matrices=False)[0][:, : rank // len(tasks)] for t in tasks], axis=1)
    basis = np.linalg.svd(joined, full_matrices=False)[0][:, : rank // 6 if projects else 0]
    delta, first, second = (np.zeros(tasks[0].shape) for _ in range(3))
    for step in range(1, STEPS + 1):
        gradient = sum(-2 * total * (t * (t - common - total * delta)).sum(axis=1, keepdims=True) * t for t in tasks)
        gradient = gradient - basis @ (basis.T @ gradient)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        delta = delta - RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return sum(s * largest(t) * (t + delta) for s, t in zip(scales, tasks))


def doge_without_projection(tasks: list[Matrix]) -> Matrix:
    return doge(tasks, projects=False)


def dop(tasks: list[Matrix]) -> Matrix:
    merged = tasks[0]
    for task in tasks[1:]:
        left, right = (0.8 * merged @ merged.T + 0.2 * task @ task.T), (0.8 * merged.T @ merged + 0.2 * task.T @ task)
        goal = 2 * (0.8 * merged @ merged.T @ merged + 0.2 * task @ task.T @ task)
        (rows, q), (columns, p) = np.linalg.eigh(left), np.linalg.eigh(right)
        sums = rows[:, None] + columns[None]
        kept = sums > 1e-12 * sums[-1, -1]
        turned = np.where(kept, q.T @ goal @ p / np.where(kept, sums, 1), q.T @ ((merged + task) / 2) @ p)
        merged = q @ turned @ p.T
    return merged


Reference = Callable[[list[Matrix]], Matrix]
SETTINGS: dict[str, object] = {"density": DENSITY, "iterations": STEPS, "lr": RATE}
CASES: list[tuple[str, dict[str, object], Reference]] = [
    ("iso_c", {}, iso_c),
    ("iso_c", {"route": "svd"}, iso_c),
    ("iso_c", {"route": "eigen"}, iso_c),
    ("tsv_m", {}, tsv_m),
    ("wudi", {"solver": "closed_form"}, wudi),
    ("opcm", {}, opcm),
    ("svc", {}, svc),
    ("doge", {**SETTINGS, "subspace": 0}, doge_without_projection),
    ("dop", {}, dop),
]


@pytest.mark.parametrize("shape", [(96, 96), (64, 160), (150, 72)])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(("method", "parameters", "reference"), CASES)
def test_equals_the_svd_in_float64(
    method: str, parameters: dict[str, object], reference: Reference, kind: str, shape: tuple[int, int]
) -> None:
    base, tunes = INPUTS[kind](np.random.default_rng(5), shape)
    merged = ingot.merge_state_dicts(method, [{NAME: t} for t in tunes], base={NAME: base}, dtype="float32", **parameters)[NAME]
    expected = reference([t.astype("d") - base for t in tunes])
    found = merged.astype("d") - base
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error <= LIMIT, f"{error:.1e}"


@pytest.mark.parametrize("shape", [(96, 96), (64, 160), (150, 72)])
@pytest.mark.parametrize("kind", ["gaussian", "bf16_difference"])
def test_doge_outside_the_common_subspace(kind: str, shape: tuple[int, int]) -> None:
    """Of repeated tasks, and of small ranks, the joined vectors have equal singular values, and the common subspace is undetermined."""
    base, tunes = INPUTS[kind](np.random.default_rng(5), shape)
    merged = ingot.merge_state_dicts("doge", [{NAME: t} for t in tunes], base={NAME: base}, dtype="float32", **SETTINGS)[NAME]
    expected = doge([t.astype("d") - base for t in tunes])
    error = np.linalg.norm(merged.astype("d") - base - expected) / np.linalg.norm(expected)
    assert error <= 5 * LIMIT, f"{error:.1e}"


MODULE = NAME.removesuffix(".weight")


def with_sides(
    tmp_path: Path, method: str, tensors: dict[str, dict[str, Matrix]], sides: list[dict[str, str]], top: str, **parameters: object
) -> Matrix:
    """Merges m0, m1, ... of `tensors`, each with its side files, and gives the weight."""
    lines = [f"merge_method: {method}", "dtype: float32", *([top] if top else []), "models:"]
    for number, side in enumerate(sides):
        lines.append(f"  - {{model: m{number}, side: {{{', '.join(f'{k}: {v}' for k, v in side.items())}}}}}")
    lines.append("parameters: {" + ", ".join(f"{key}: {value}" for key, value in parameters.items()) + "}")
    ingot.merge("\n".join(lines) + "\n", tmp_path / "out", models=tensors)
    return load(tmp_path / "out" / "model.safetensors")[NAME].astype("d")


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("solver", ["cg", "exact"])
def test_mats_solves_its_equations(tmp_path: Path, solver: str, count: int) -> None:
    rng = np.random.default_rng(count)
    m, n = 11, 14
    tensors: dict[str, dict[str, Matrix]] = {}
    operator, right = np.zeros((m * n, m * n)), np.zeros(m * n)
    sides = []
    for number in range(count):
        weight = rng.normal(0, 1, (m, n)).astype("f")
        x, g = rng.normal(0, 1, (40, n)), rng.normal(0, 1, (40, m))
        inputs, outputs = (x.T @ x / 40).astype("f"), (g.T @ g / 40).astype("f")
        tensors[f"m{number}"] = {NAME: weight}
        tensors[f"i{number}"], tensors[f"o{number}"] = {MODULE: inputs}, {MODULE: outputs}
        sides.append({"gram": f"i{number}", "output_gram": f"o{number}"})
        operator += np.kron(outputs.astype("d"), inputs.astype("d"))
        right += (outputs.astype("d") @ weight @ inputs).ravel()
    expected = np.linalg.solve(operator, right).reshape(m, n)
    found = with_sides(tmp_path, "mats", tensors, sides, "", mats_solver=solver, tolerance="1.0e-10", iterations=1000)
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


def test_custom_diffusion_is_the_constrained_minimum(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    m, n = 20, 16
    base = rng.normal(0, 1, (m, n)).astype("f")
    captions = rng.normal(0, 1, (200, n))
    gram = (captions.T @ captions / 200).astype("f")
    tensors: dict[str, dict[str, Matrix]] = {"base": {NAME: base}, "captions": {MODULE: gram}}
    words, wanted = [], []
    for number in range(3):
        weight = (base + rng.normal(0, 0.1, (m, n))).astype("f")
        features = rng.normal(0, 1, (2, n)).astype("f")
        tensors[f"m{number}"], tensors[f"w{number}"] = {NAME: weight}, {MODULE: features}
        words.append(features.astype("d"))
        wanted.append(weight.astype("d") @ features.T)
    top = "base_model: base\nside: {regularization: captions}"
    found = with_sides(tmp_path, "custom_diffusion", tensors, [{"features": f"w{i}"} for i in range(3)], top, ridge=0)
    c, v = np.concatenate(words), np.concatenate(wanted, axis=1)
    directions = c @ np.linalg.inv(gram.astype("d"))
    expected = base + (v - base @ c.T) @ np.linalg.inv(directions @ c.T) @ directions
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)
    assert np.linalg.norm(found @ c.T - v) <= 1e-6 * np.linalg.norm(v)


def test_the_package_advises_openblas_and_leaves_what_is_set() -> None:
    code = "import os, ingot; print(os.environ.get('OPENBLAS_CORETYPE', ''))"
    source = str(Path(ingot.__file__).parents[1])
    own = {**os.environ, "OPENBLAS_CORETYPE": "Haswell", "PYTHONPATH": source}
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=own)
    assert answer.stdout.strip() == "Haswell"
    del own["OPENBLAS_CORETYPE"]
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=own)
    assert answer.stdout.strip() in ("", "SkylakeX")
