"""Merges two small classifiers that each know half of the digits, and shows that the merge knows them all.

Called by scripts/demo. One base network is trained a little (100 images, 6 passes) on all ten digits of scikit-learn's
handwritten digits; two copies of it are trained on, one on the digits 0-4 only, one on 5-9 only, and each forgets the
other half. `ingot merge` joins the two with three recipes. Accuracies are those on 540 images that no training saw.
The settings of the recipes are fixed here, not searched for.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Weights = dict[str, Array]

HIDDEN, LAYERS, CLASSES = 64, 2, 10
LEAST_GAIN = 20.0  # points that the best merge must win over the better parent

RECIPES = {
    "linear": """\
# The plain average of the two classifiers.
merge_method: linear
models:
  - model: {low}
    parameters:
      weight: 0.5
  - model: {high}
    parameters:
      weight: 0.5
dtype: float32
""",
    "task_arithmetic": """\
# What each classifier learned beyond the base, scaled by 0.6 and added to the base.
merge_method: task_arithmetic
base_model: {base}
models:
  - model: {low}
    parameters:
      weight: 0.6
  - model: {high}
    parameters:
      weight: 0.6
dtype: float32
""",
    "ties": """\
# The larger half of each change; where the two disagree in sign, the stronger side wins.
merge_method: ties
base_model: {base}
models:
  - model: {low}
    parameters:
      weight: 1.0
      density: 0.5
  - model: {high}
    parameters:
      weight: 1.0
      density: 0.5
parameters:
  normalize: true
dtype: float32
""",
}


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


def train(start: Weights, images: Array, labels: Labels, passes: int, rate: float, generator: np.random.Generator, batch: int) -> Weights:
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
    return weights


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


def run(*command: str | Path) -> None:
    words = [str(word) for word in command]
    print(f"$ {' '.join(words)}", flush=True)
    subprocess.run(words, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ingot", required=True, help="the ingot command")
    parser.add_argument("--out", required=True, type=Path, help="a folder for models, recipes and results; made anew")
    options = parser.parse_args()
    out: Path = options.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    digits = load_digits()
    pixels = (digits.data / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    split = train_test_split(pixels, labels, test_size=540, random_state=0, stratify=labels)
    images, unseen, targets, expected = split

    def accuracy(weights: Weights) -> float:
        return 100 * float(np.mean(forward(weights, unseen)[0].argmax(axis=1) == expected))

    generator = np.random.default_rng(0)
    few = generator.permutation(len(targets))[:100]
    base = train(initial(generator), images[few], targets[few], passes=6, rate=2e-3, generator=generator, batch=32)
    low = train(base, images[targets < 5], targets[targets < 5], 10, 1e-3, generator, batch=64)
    high = train(base, images[targets >= 5], targets[targets >= 5], 10, 1e-3, generator, batch=64)
    for name, weights in (("base", base), ("digits-0-4", low), ("digits-5-9", high)):
        save(weights, out / name)
    rows = [("base (a little of all digits)", accuracy(base))]
    parents = [("parent trained on 0-4", accuracy(low)), ("parent trained on 5-9", accuracy(high))]

    merges = []
    for name, text in RECIPES.items():
        recipe = out / f"{name}.yml"
        paths = {"base": out / "base", "low": out / "digits-0-4", "high": out / "digits-5-9"}
        recipe.write_text(text.format(**paths), encoding="utf-8")
        run(options.ingot, "merge", recipe, out / f"merged-{name}")
        merges.append((f"merge: {name}", accuracy(load(out / f"merged-{name}"))))

    print(f"\n{'accuracy on 540 unseen images of all ten digits':52}")
    for label, value in [*rows, *parents, *merges]:
        print(f"  {label:32} {value:5.1f} %")
    best = max(merges, key=lambda merge: merge[1])
    better = max(parents, key=lambda parent: parent[1])
    gain = best[1] - better[1]
    print(f"\n{best[0]} beats the {better[0]} by {gain:.1f} points\n", flush=True)

    shown = best[0].removeprefix("merge: ")
    run(options.ingot, "plan", out / f"{shown}.yml")
    run(options.ingot, "inspect", out / f"merged-{shown}")
    if gain < LEAST_GAIN:
        print(f"error: the best merge must beat the better parent by {LEAST_GAIN:.0f} points", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
