"""Merges two small classifiers that each know half of the digits, and shows that the merge knows them all.

Called by scripts/demo. One base network (benchmarks/digits/classifier.py) is trained a little (100 images, 6 passes) on all
ten of scikit-learn's handwritten digits; two copies of it are trained on, one on the digits 0-4 only, one on 5-9 only, and
each forgets the other half. `ingot merge` joins the two with three recipes. Accuracies are those on 540 images that no training saw.
The settings of the recipes are fixed here, not searched for.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from classifier import accuracy, digits, initial, load, save, train
from sklearn.model_selection import train_test_split

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

    pixels, labels = digits()
    images, unseen, targets, expected = train_test_split(pixels, labels, test_size=540, random_state=0, stratify=labels)
    generator = np.random.default_rng(0)
    few = generator.permutation(len(targets))[:100]
    base = train(initial(generator), images[few], targets[few], passes=6, rate=2e-3, generator=generator, batch=32).weights
    low = train(base, images[targets < 5], targets[targets < 5], 10, 1e-3, generator, batch=64).weights
    high = train(base, images[targets >= 5], targets[targets >= 5], 10, 1e-3, generator, batch=64).weights
    for name, weights in (("base", base), ("digits-0-4", low), ("digits-5-9", high)):
        save(weights, out / name)
    rows = [("base (a little of all digits)", accuracy(base, unseen, expected))]
    parents = [("parent trained on 0-4", accuracy(low, unseen, expected)), ("parent trained on 5-9", accuracy(high, unseen, expected))]

    merges = []
    for name, text in RECIPES.items():
        recipe = out / f"{name}.yml"
        paths = {"base": out / "base", "low": out / "digits-0-4", "high": out / "digits-5-9"}
        recipe.write_text(text.format(**paths), encoding="utf-8")
        run(options.ingot, "merge", recipe, out / f"merged-{name}")
        merges.append((f"merge: {name}", accuracy(load(out / f"merged-{name}"), unseen, expected)))

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
