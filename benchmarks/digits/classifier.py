"""A small residual network that classifies handwritten digits: weights as arrays under a model's names, training, files.

scripts/demo and benchmarks/digits train it. The digits are scikit-learn's: 1797 images of 8 × 8 pixels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Weights = dict[str, Array]

HIDDEN, LAYERS, CLASSES = 64, 2, 10


def digits() -> tuple[Array, Labels]:
    """All images, pixels from 0 to 1, and what they show."""
    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target.astype(np.int64)


def initial(generator: np.random.Generator) -> Weights:
    """A small residual network: pixels → hidden, LAYERS times (up, ReLU, down, add), hidden → classes."""
    weights: Weights = {}

    def linear(name: str, outputs: int, inputs: int, gain: float = 1.0) -> None:
        scale = gain * np.sqrt(2 / inputs)
        weights[f"{name}.weight"] = (scale * generator.standard_normal((outputs, inputs))).astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(outputs, dtype=np.float32)

    linear("model.input_proj", HIDDEN, 64)
    for layer in range(LAYERS):
        linear(f"model.layers.{layer}.mlp.up_proj", 2 * HIDDEN, HIDDEN)
        linear(f"model.layers.{layer}.mlp.down_proj", HIDDEN, 2 * HIDDEN, gain=0.3)
    linear("classifier", CLASSES, HIDDEN)
    return weights


def apply(weights: Weights, name: str, x: Array) -> Array:
    y: Array = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return y


def forward(weights: Weights, images: Array) -> tuple[Array, list[tuple[Array, Array]]]:
    """Scores of the classes, and what the backward pass needs: input and activation of every part."""
    x = np.maximum(apply(weights, "model.input_proj", images), 0)
    kept = [(images, x)]
    for layer in range(LAYERS):
        up = np.maximum(apply(weights, f"model.layers.{layer}.mlp.up_proj", x), 0)
        kept.append((x, up))
        x = x + apply(weights, f"model.layers.{layer}.mlp.down_proj", up)
    kept.append((x, x))
    return apply(weights, "classifier", x), kept


def gradient(weights: Weights, images: Array, labels: Labels) -> Weights:
    """Gradient of the mean cross-entropy."""
    scores, kept = forward(weights, images)
    slope = np.exp(scores - scores.max(axis=1, keepdims=True))
    slope /= slope.sum(axis=1, keepdims=True)
    slope[np.arange(len(labels)), labels] -= 1
    slope /= len(labels)
    gradients: Weights = {}

    def back(name: str, inputs: Array, slope: Array) -> Array:
        gradients[f"{name}.weight"] = slope.T @ inputs
        gradients[f"{name}.bias"] = slope.sum(axis=0)
        below: Array = slope @ weights[f"{name}.weight"]
        return below

    slope = back("classifier", kept[-1][0], slope)
    for layer in reversed(range(LAYERS)):
        x, up = kept[layer + 1]
        inner = back(f"model.layers.{layer}.mlp.down_proj", up, slope) * (up > 0)
        slope = slope + back(f"model.layers.{layer}.mlp.up_proj", x, inner)
    back("model.input_proj", kept[0][0], slope * (kept[0][1] > 0))
    return gradients


@dataclass(frozen=True)
class Trained:
    """A training's result, and Adam's second moments at its end, by the same names."""

    weights: Weights
    second_moments: Weights


def train(start: Weights, images: Array, labels: Labels, passes: int, rate: float, generator: np.random.Generator, batch: int) -> Trained:
    """Adam from `start`, which is left as it is."""
    weights = {name: value.copy() for name, value in start.items()}
    mean = {name: np.zeros_like(value) for name, value in start.items()}
    square = {name: np.zeros_like(value) for name, value in start.items()}
    step = 0
    for _ in range(passes):
        order = generator.permutation(len(labels))
        for chosen in np.split(order, range(batch, len(labels), batch)):
            step += 1
            for name, slope in gradient(weights, images[chosen], labels[chosen]).items():
                mean[name] = 0.9 * mean[name] + 0.1 * slope
                square[name] = 0.999 * square[name] + 0.001 * slope * slope
                size = np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8
                weights[name] -= (rate * mean[name] / (1 - 0.9**step) / size).astype(np.float32)
    return Trained(weights, square)


def accuracy(weights: Weights, images: Array, labels: Labels) -> float:
    """Percent of the images whose class has the highest score of all ten."""
    return 100 * float(np.mean(forward(weights, images)[0].argmax(axis=1) == labels))


def save(weights: Weights, directory: Path) -> None:
    """A model directory as Hugging Face lays it out."""
    directory.mkdir(parents=True)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["DigitClassifier"],
        "model_type": "digit-classifier",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_labels": CLASSES,
        "torch_dtype": "float32",
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(directory: Path) -> Weights:
    weights: Weights = {}
    for file in sorted(directory.glob("*.safetensors")):
        weights.update(load_file(file))
    return weights
