"""Merges in numpy's float64, written from the papers' formulas and nothing of Ingot, for comparison.

A tensor with two axes is a matrix for the matrix methods. Biases are none: their task vectors are averaged (TSV-M, Iso-C) or summed (OPCM),
or they themselves are averaged (RegMean).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from classifier import LAYERS, Weights

Double = npt.NDArray[np.float64]
Doubles = dict[str, Double]
Inputs = Mapping[str, Double]  # by module: its inputs, one to a row

RANGE = 1e-6  # singular values up to this share of the largest are none


def doubles(weights: Weights) -> Doubles:
    return {name: value.astype(np.float64) for name, value in weights.items()}


def task_vectors(base: Weights, experts: Sequence[Weights]) -> list[Doubles]:
    return [{name: value.astype(np.float64) - base[name].astype(np.float64) for name, value in expert.items()} for expert in experts]


def _merged(base: Weights, change: Callable[[str], Double], factor: float) -> Doubles:
    return {name: value.astype(np.float64) + factor * change(name) for name, value in base.items()}


def _thin(matrix: Double) -> tuple[Double, Double, Double]:
    """The thin SVD over the numerical range."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    kept = s > RANGE * s[0] if s[0] > 0 else np.zeros(len(s), bool)
    return u[:, kept], s[kept], v[kept]


def _polar(matrix: Double) -> Double:
    u, _, v = _thin(matrix)
    product: Double = u @ v
    return product


def simple_average(experts: Sequence[Weights]) -> Doubles:
    return {name: np.mean([expert[name].astype(np.float64) for expert in experts], axis=0) for name in experts[0]}


def task_arithmetic(base: Weights, experts: Sequence[Weights], factor: float) -> Doubles:
    """arXiv 2212.04089: θ₀ + λ Σ τᵢ."""
    tasks = task_vectors(base, experts)
    return _merged(base, lambda name: np.sum([task[name] for task in tasks], axis=0), factor)


def ties(base: Weights, experts: Sequence[Weights], factor: float, density: float) -> Doubles:
    """arXiv 2306.01708, trimmed tensor by tensor: the mean of what is kept and has the elected sign."""
    tasks = task_vectors(base, experts)

    def change(name: str) -> Double:
        trimmed = []
        for task in tasks:
            flat = task[name].ravel()
            kept = np.argsort(-np.abs(flat), kind="stable")[: int(density * flat.size)]
            values = np.zeros_like(flat)
            values[kept] = flat[kept]
            trimmed.append(values.reshape(task[name].shape))
        stack = np.stack(trimmed)
        elected = np.where(stack.sum(axis=0) >= 0, 1.0, -1.0)
        agreeing = np.sign(stack) == elected
        mean: Double = np.where(agreeing, stack, 0).sum(axis=0) / np.maximum(agreeing.sum(axis=0), 1)
        return mean

    return _merged(base, change, factor)


def iso_c(base: Weights, experts: Sequence[Weights], factor: float) -> Doubles:
    """arXiv 2502.04959: the summed task matrix with all singular values at their mean."""
    tasks = task_vectors(base, experts)

    def change(name: str) -> Double:
        total: Double = np.sum([task[name] for task in tasks], axis=0)
        if total.ndim != 2:
            mean: Double = total / len(tasks)
            return mean
        u, s, v = _thin(total)
        flat: Double = (s.sum() / min(total.shape)) * (u @ v)
        return flat

    return _merged(base, change, factor)


def tsv_m(base: Weights, experts: Sequence[Weights], factor: float) -> Doubles:
    """arXiv 2412.00081: the leading singular vectors of every task side by side, made orthogonal."""
    tasks = task_vectors(base, experts)

    def change(name: str) -> Double:
        matrices = [task[name] for task in tasks]
        if matrices[0].ndim != 2:
            mean: Double = np.mean(matrices, axis=0)
            return mean
        count = max(min(matrices[0].shape) // len(tasks), 1)
        parts = [tuple(part) for part in (np.linalg.svd(matrix, full_matrices=False) for matrix in matrices)]
        left = _polar(np.concatenate([u[:, :count] for u, _, _ in parts], axis=1))
        right = _polar(np.concatenate([v[:count] for _, _, v in parts], axis=0))
        joined: Double = left @ np.diag(np.concatenate([s[:count] for _, s, _ in parts])) @ right
        return joined

    return _merged(base, change, factor)


def opcm(base: Weights, experts: Sequence[Weights], share: float = 0.5) -> Doubles:
    """arXiv 2501.09522: every task without what lies along the singular directions of the merge so far; scaled after each step."""
    tasks = task_vectors(base, experts)

    def norm(change: Doubles) -> float:
        return float(np.sqrt(sum(float((value**2).sum()) for value in change.values())))

    merged, norms, scale = tasks[0], [norm(tasks[0])], 1.0
    for task in tasks[1:]:
        norms.append(norm(task))
        added: Doubles = {}
        for name, value in task.items():
            seen = value
            if value.ndim == 2:
                u, s, v = _thin(merged[name])
                over = np.flatnonzero(np.cumsum(s) / s.sum() > share)
                closed = int(over[0]) if len(over) else 0
                inside = u.T @ value @ v.T
                removed = np.diag(np.diag(inside))
                removed[:closed, :closed] = inside[:closed, :closed]
                seen = value - u @ removed @ v
            added[name] = scale * merged[name] + seen
        scale = norm(added) / float(np.mean(norms))
        merged = {name: value / scale for name, value in added.items()}
    return _merged(base, lambda name: merged[name], 1.0)


def inputs_of(weights: Weights, pixels: npt.NDArray[np.float32]) -> Inputs:
    """What every linear layer of an expert is given for these images."""
    values = doubles(weights)
    seen: Doubles = {}

    def linear(name: str, x: Double) -> Double:
        seen[name] = x
        y: Double = x @ values[f"{name}.weight"].T + values[f"{name}.bias"]
        return y

    x = np.maximum(linear("model.input_proj", pixels.astype(np.float64)), 0)
    for layer in range(LAYERS):
        inner = np.maximum(linear(f"model.layers.{layer}.mlp.up_proj", x), 0)
        x = x + linear(f"model.layers.{layer}.mlp.down_proj", inner)
    linear("classifier", x)
    return seen


def regmean(experts: Sequence[Weights], inputs: Sequence[Inputs], ratio: float = 0.9, ridge: float = 1e-6) -> Doubles:
    """arXiv 2212.09849: least squares on every expert's own inputs; as a change of the mean, which stays where no input points."""
    merged = simple_average(experts)
    for name in inputs[0]:
        weight = f"{name}.weight"
        grams = []
        for seen in inputs:
            gram = seen[name].T @ seen[name] / len(seen[name])
            grams.append(ratio * gram + (1 - ratio) * np.diag(np.diag(gram)))
        total = np.sum(grams, axis=0)
        total += ridge * np.trace(total) / len(total) * np.eye(len(total))
        pull = np.sum([(expert[weight].astype(np.float64) - merged[weight]) @ gram for expert, gram in zip(experts, grams)], axis=0)
        merged[weight] = merged[weight] + np.linalg.solve(total, pull.T).T
    return merged
