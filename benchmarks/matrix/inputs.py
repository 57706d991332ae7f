"""Four float32 models and their base, of one weight each."""

from __future__ import annotations

import numpy as np

Matrix = np.ndarray
Models = tuple[Matrix, list[Matrix]]


def bfloat16(values: Matrix) -> Matrix:
    """Rounded to the nearest bfloat16, kept as float32."""
    bits = values.astype("f").view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view("f")


def gaussian(rng: np.random.Generator, shape: tuple[int, int]) -> Models:
    base = rng.normal(0, 0.02, shape).astype("f")
    return base, [(base + rng.normal(0, 0.002, shape)).astype("f") for _ in range(4)]


def bf16_difference(rng: np.random.Generator, shape: tuple[int, int]) -> Models:
    """Differences of bf16 weights: rank 16 under the noise of rounding."""
    base = bfloat16(rng.normal(0, 0.02, shape))
    changes = (rng.normal(0, 0.01, (shape[0], 16)) @ rng.normal(0, 0.05, (16, shape[1])) for _ in range(4))
    return base, [bfloat16(base + change) for change in changes]


def duplicates(rng: np.random.Generator, shape: tuple[int, int]) -> Models:
    base, (one, other, *_) = gaussian(rng, shape)
    return base, [one, one, other, one]


def rank_deficient(rng: np.random.Generator, shape: tuple[int, int]) -> Models:
    """Small integers on a base of zeros, so that the rank is exact in float32: 64 for each task."""
    tunes = [(rng.integers(-3, 4, (shape[0], 64)) @ rng.integers(-3, 4, (64, shape[1]))).astype("f") for _ in range(4)]
    return np.zeros(shape, "f"), tunes


INPUTS = {f.__name__: f for f in (gaussian, bf16_difference, duplicates, rank_deficient)}
