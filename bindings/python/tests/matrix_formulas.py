"""Inputs of matrix methods, and the papers' formulas in numpy's float64."""

from __future__ import annotations

import numpy as np

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


def iso_c_smooth(tasks: list[Matrix]) -> Matrix:
    """What the inverse root of a large Gram matrix computes: each direction with the weight σ / √(σ² + δ), δ = 1e-12 σ₁²."""
    u, s, v = np.linalg.svd(sum(tasks), full_matrices=False)
    weights = s / np.sqrt(s**2 + 1e-12 * s[0] ** 2)
    return (s * weights).sum() / min(tasks[0].shape) * (u @ np.diag(weights) @ v)


def top(matrix: Matrix, count: int) -> tuple[Matrix, Matrix, Matrix]:
    u, s, v = factors(matrix)
    return u[:, :count], s[:count], v[:count]


def tsv_m(tasks: list[Matrix]) -> Matrix:
    parts = [top(t, min(t.shape) // len(tasks)) for t in tasks]
    u = polar(np.concatenate([p[0] for p in parts], axis=1))
    v = polar(np.concatenate([p[2] for p in parts], axis=0))
    return u @ np.diag(np.concatenate([p[1] for p in parts])) @ v


def wudi(tasks: list[Matrix]) -> Matrix:
    return least_interference(tasks, tasks, [(t * t).sum() for t in tasks], sum(tasks))


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


def truncated(matrix: Matrix, count: int) -> Matrix:
    u, s, v = top(matrix, count)
    return u @ np.diag(s) @ v


def iso_cts(tasks: list[Matrix], fraction: float = 0.8) -> Matrix:
    rank, count = min(tasks[0].shape), len(tasks)
    each = round((rank - int(rank * fraction)) / count)
    common = top(sum(tasks), rank - each * count)
    parts = [common]
    for task in tasks:
        u, s, v = top(task - common[0] @ (common[0].T @ task), each)
        # What is left of a task that the common directions hold is rounding.
        kept = s > 1e-6 * common[1][0]
        parts.append((u[:, kept], s[kept], v[kept]))
    u = polar(np.concatenate([p[0] for p in parts], axis=1))
    v = polar(np.concatenate([p[2] for p in parts], axis=0))
    return sum(p[1].sum() for p in parts) / rank * (u @ v)


def r_tsvm(tasks: list[Matrix]) -> Matrix:
    rank, count = min(tasks[0].shape), len(tasks)
    outliers, densities = [], []
    for task in tasks:
        size = np.abs(task)
        limits = size.mean(axis=1) + 3 * size.std(axis=1)
        outliers.append(size[size > limits[:, None]].sum())
        densities.append((size >= 0.1 * np.sqrt((task * task).mean())).mean())
    weights = [count * o / sum(outliers) if sum(outliers) > 0 else 1.0 for o in outliers]
    ranks = [int(np.clip(np.floor(rank / count * d / np.mean(densities) + 0.5), 1, rank)) for d in densities]
    if sum(ranks) > rank:
        ranks = [max(k * rank // sum(ranks), 1) for k in ranks]
    parts = [top(t, k) for t, k in zip(tasks, ranks)]
    u = polar(np.concatenate([p[0] for p in parts], axis=1))
    v = polar(np.concatenate([p[2] for p in parts], axis=0))
    return u @ np.diag(np.concatenate([w * p[1] for w, p in zip(weights, parts)])) @ v


def least_interference(projectors: list[Matrix], targets: list[Matrix], norms: list[float], start: Matrix) -> Matrix:
    """The minimum of Σ ‖(θ − Tᵢ) Lᵢᵀ‖² / nᵢ nearest to the start."""
    c = sum(p.T @ p / n for p, n in zip(projectors, norms))
    d = sum(t @ p.T @ p / n for p, t, n in zip(projectors, targets, norms))
    values, vectors = np.linalg.eigh(c)
    kept = values > 1e-8 * values[-1]
    basis = vectors[:, kept]
    return start - start @ basis @ basis.T + d @ basis @ np.diag(1 / values[kept]) @ basis.T


def optmerge(tasks: list[Matrix]) -> Matrix:
    count = min(tasks[0].shape) // len(tasks)
    mean = sum(tasks) / len(tasks)
    targets = [mean + truncated(t - mean, count) for t in tasks]
    return least_interference([truncated(t, count) for t in tasks], targets, [(t * t).sum() for t in tasks], sum(tasks))


def optmerge_lora(tasks: list[Matrix]) -> Matrix:
    count = min(tasks[0].shape) // len(tasks)
    cut = [truncated(t, count) for t in tasks]
    return least_interference(cut, cut, [(t * t).sum() for t in tasks], sum(tasks) / len(tasks))


def dop(tasks: list[Matrix], weight: float = 0.8) -> Matrix:
    merged = tasks[0]
    for task in tasks[1:]:
        pairs = [(weight, merged), (1 - weight, task)]
        rows, q = np.linalg.eigh(sum(g * t @ t.T for g, t in pairs))
        columns, p = np.linalg.eigh(sum(g * t.T @ t for g, t in pairs))
        goal = q.T @ (2 * sum(g * t @ t.T @ t for g, t in pairs)) @ p
        start = q.T @ ((merged + task) / 2) @ p
        total = rows[:, None] + columns[None, :]
        free = total <= 1e-12 * (rows[-1] + columns[-1])
        merged = q @ np.where(free, start, goal / np.where(free, 1, total)) @ p.T
    return merged


def regmean(weights: list[Matrix], grams: list[Matrix], ratio: float, ridge: float = 1e-6) -> Matrix:
    shrunk = [ratio * g + (1 - ratio) * np.diag(np.diag(g)) for g in grams]
    total = sum(shrunk)
    total = total + ridge * np.trace(total) / len(total) * np.eye(len(total))
    mean = sum(weights) / len(weights)
    right = sum((w - mean) @ g for w, g in zip(weights, shrunk))
    values, vectors = np.linalg.eigh(total)
    kept = values > 1e-10 * values[-1]
    basis = vectors[:, kept]
    return mean + right @ basis @ np.diag(1 / values[kept]) @ basis.T
