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


Reference = Callable[[list[Matrix]], Matrix]
CASES: list[tuple[str, dict[str, object], Reference]] = [
    ("iso_c", {}, iso_c),
    ("iso_c", {"route": "svd"}, iso_c),
    ("iso_c", {"route": "eigen"}, iso_c),
    ("tsv_m", {}, tsv_m),
    ("wudi", {"solver": "closed_form"}, wudi),
    ("opcm", {}, opcm),
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


def test_the_package_advises_openblas_and_leaves_what_is_set() -> None:
    code = "import os, ingot; print(os.environ.get('OPENBLAS_CORETYPE', ''))"
    source = str(Path(ingot.__file__).parents[1])
    own = {**os.environ, "OPENBLAS_CORETYPE": "Haswell", "PYTHONPATH": source}
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=own)
    assert answer.stdout.strip() == "Haswell"
    del own["OPENBLAS_CORETYPE"]
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=own)
    assert answer.stdout.strip() in ("", "SkylakeX")
