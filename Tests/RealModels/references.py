"""The methods in numpy's float64, written from their definitions."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from weights import Doubles, Floats


class Merged(NamedTuple):
    value: Doubles
    # What the tolerance is relative to: the sum of the magnitudes that were combined.
    scale: Doubles


class Interpolated(NamedTuple):
    value: Doubles
    scale: Doubles
    cosine: float
    is_spherical: bool


def assert_close(found: Floats, expected: Doubles, scale: Doubles, tolerance: float, name: str) -> None:
    """Element by element: |found − expected| ≤ tolerance · max(|expected|, scale)."""
    error = np.abs(found.astype(np.float64) - expected)
    bound = np.maximum(np.abs(expected), scale)
    bound *= tolerance
    if np.all(error <= bound):
        return
    worst = int(np.argmax(np.where(np.isfinite(error), error - bound, np.inf)))
    raise AssertionError(
        f"{name}[{worst}]: found {found.flat[worst]!r}, expected {expected.flat[worst]!r}, "
        f"error {error.flat[worst]:.3g}, allowed {bound.flat[worst]:.3g}"
    )


def at_layer(gradient: list[float], name: str, layers: int) -> float:
    """A parameter's value at a tensor: interpolated over the layers, the first entry outside them."""
    if len(gradient) == 1:
        return gradient[0]
    match = re.search(r"\.layer\.(\d+)\.", name)
    place = (int(match.group(1)) / (layers - 1) if match else 0.0) * (len(gradient) - 1)
    left = min(int(place), len(gradient) - 2)
    share = place - left
    return (1 - share) * gradient[left] + share * gradient[left + 1]


def slerp(first: Doubles, second: Doubles, t: float) -> Interpolated:
    """Along the arc of the flattened tensors; nearly parallel ones in a straight line."""

    def direction(tensor: Doubles) -> Doubles:
        norm = np.linalg.norm(tensor)
        return tensor.ravel() / (norm if norm > 1e-8 else 1.0)

    cosine = float(direction(first) @ direction(second))
    is_spherical = abs(cosine) <= 0.9995
    shares = (1 - t, t)
    if is_spherical:
        angle = math.acos(cosine)
        shares = (math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle))
    terms = [share * tensor for share, tensor in zip(shares, (first, second))]
    return Interpolated(terms[0] + terms[1], np.abs(terms[0]) + np.abs(terms[1]), cosine, is_spherical)


def threshold(delta: Floats, keep: int) -> np.float32:
    """The smallest magnitude among the `keep` largest."""
    magnitudes = np.abs(delta).ravel()
    return np.float32(np.partition(magnitudes, magnitudes.size - keep)[magnitudes.size - keep])


def ties(base: Doubles, deltas: list[Doubles], masks: list[npt.NDArray[np.bool_]], weights: list[float], scale: float) -> Merged:
    """Elects the sign of the weighted sum, averages what agrees, and adds it to the base."""
    terms = [weight * np.where(mask, delta, 0.0) for weight, delta, mask in zip(weights, deltas, masks)]
    total = np.add.reduce(terms)
    elected = np.where(total >= 0, 1.0, -1.0)
    merged, divisor, magnitude = np.zeros_like(base), np.zeros_like(base), np.abs(base)
    for weight, term in zip(weights, terms):
        agrees = np.sign(term) == elected
        merged += np.where(agrees, term, 0.0)
        divisor += np.where(agrees, weight, 0.0)
        magnitude = magnitude + np.abs(term)
    divisor[divisor == 0] = 1.0
    return Merged(base + scale * merged / divisor, magnitude)
