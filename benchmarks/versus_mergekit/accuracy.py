"""How far the results of Ingot and mergekit are from float64, and from each other.

    scripts/setup bench
    .venv-bench/bin/python benchmarks/versus_mergekit/accuracy.py --ingot PATH/TO/ingot

Both programs run the same recipe on the same small checkpoints, once with dtype bfloat16 and once with float32. The reference is numpy in
float64, from the published formulas with mergekit's defaults. Errors are norms over all tensors, relative to the norm of the merged
change (reference less base): what a merge is about. Where several elements of a task vector have the magnitude at which it is cut, which
of them stay is arbitrary, and so is the sign where a vote is even; those elements are left out, and their share is shown. Random methods
draw other masks in the two programs and have no elements to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import checkpoints
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Tensors = dict[str, Array]

WEIGHTS = (0.5, 0.3, 0.2)
DENSITY, GAMMA, T = 0.5, 0.01, 0.4


def load(directory: Path) -> Tensors:
    """Every tensor of a BF16 or F32 checkpoint in float64."""
    tensors: Tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name == "__metadata__":
                continue
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            if entry["dtype"] == "BF16":
                bits = np.frombuffer(data[begin:end], dtype="<u2").astype(np.uint32) << 16
                values = bits.view(np.float32)
            else:
                values = np.frombuffer(data[begin:end], dtype="<f4")
            tensors[name] = values.astype(np.float64).reshape(entry["shape"])
    return tensors


# Each reference gives the result, and which elements have one result only.


def whole(result: Array) -> tuple[Array, Mask]:
    return result, np.ones(result.shape, dtype=np.bool_)


def linear(base: Array, tuned: Sequence[Array]) -> tuple[Array, Mask]:
    return whole(sum((w * x for w, x in zip(WEIGHTS, tuned)), np.zeros_like(base)) / sum(WEIGHTS))


def slerp(base: Array, tuned: Sequence[Array]) -> tuple[Array, Mask]:
    a, b = tuned[0], tuned[1]
    cosine = float(np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b)))
    if abs(cosine) > 0.9995:
        return whole((1 - T) * a + T * b)
    angle = np.arccos(cosine)
    return whole((np.sin((1 - T) * angle) * a + np.sin(T * angle) * b) / np.sin(angle))


def task_arithmetic(base: Array, tuned: Sequence[Array]) -> tuple[Array, Mask]:
    return whole(base + sum((w * (x - base) for w, x in zip(WEIGHTS, tuned)), np.zeros_like(base)))


def cut(delta: Array, drop: int, keep: int) -> tuple[Array, Mask]:
    """Drops the `drop` largest magnitudes and keeps the next `keep`; true where that is no matter of taste."""
    magnitude = np.abs(delta).ravel()
    order = np.argsort(-magnitude, kind="stable")
    kept = np.zeros(magnitude.shape, dtype=np.bool_)
    kept[order[drop : drop + keep]] = True
    certain = np.ones(magnitude.shape, dtype=np.bool_)
    for place in (drop, drop + keep):
        if 0 < place < magnitude.size and magnitude[order[place - 1]] == magnitude[order[place]]:
            certain &= magnitude != magnitude[order[place]]
    return np.where(kept.reshape(delta.shape), delta, 0), certain.reshape(delta.shape)


def vectors(gamma: float, votes: bool, normalize: bool) -> Callable[[Array, Sequence[Array]], tuple[Array, Mask]]:
    """The task-vector family: trimmed by magnitude, with outliers dropped, with or without a vote on signs."""

    def merge(base: Array, tuned: Sequence[Array]) -> tuple[Array, Mask]:
        keep = int(DENSITY * base.size)
        drop = min(int(gamma * base.size), base.size - keep)
        parts = [cut(x - base, drop, keep) for x in tuned]
        certain = np.logical_and.reduce([part[1] for part in parts])
        scaled = np.stack([w * part[0] for w, part in zip(WEIGHTS, parts)])
        weights = np.array(WEIGHTS).reshape(-1, *[1] * base.ndim)
        if not votes:
            merged = scaled.sum(axis=0) / (sum(WEIGHTS) if normalize else 1)
            return base + merged, certain
        vote = scaled.sum(axis=0)
        # 0.5 d = 0.3 d + 0.2 d: an even vote, which the last digit of a weight decides.
        certain &= (np.abs(vote) > 1e-6 * np.abs(scaled).sum(axis=0)) | ~scaled.any(axis=0)
        sign = np.where(vote >= 0, 1, -1)
        agrees = np.sign(scaled) == sign
        merged = (scaled * agrees).sum(axis=0)
        if normalize:
            total = (weights * agrees).sum(axis=0)
            merged = merged / np.where(total == 0, 1, total)
        return base + merged, certain

    return merge


def model_stock(base: Array, tuned: Sequence[Array]) -> tuple[Array, Mask]:
    deltas = [(x - base).ravel() for x in tuned]
    cosines = [
        deltas[i] @ deltas[j] / max(np.linalg.norm(deltas[i]) * np.linalg.norm(deltas[j]), 1e-6)
        for i in range(len(deltas))
        for j in range(i)
    ]
    cosine, count = float(np.mean(np.clip(cosines, -1, 1))), len(tuned)
    t = count * cosine / (1 + (count - 1) * cosine)
    return whole(t * np.mean(tuned, axis=0) + (1 - t) * base)


def multislerp(base: Array, tuned: Sequence[Array]) -> tuple[Array, Mask]:
    weights = np.array(WEIGHTS) / sum(WEIGHTS)
    deltas = [(x - base).ravel() for x in tuned]
    norms = [float(np.linalg.norm(delta)) for delta in deltas]
    units = [delta / (norm + 1e-8) for delta, norm in zip(deltas, norms)]
    mean = sum((w * unit for w, unit in zip(weights, units)), np.zeros_like(deltas[0]))
    mean /= np.linalg.norm(mean)
    tangent = sum((w * (unit - (unit @ mean) * mean) for w, unit in zip(weights, units)), np.zeros_like(mean))
    length = float(np.linalg.norm(tangent)) + 1e-8
    merged = (mean * np.cos(length) + tangent * (np.sin(length) / length)) * float(weights @ np.array(norms))
    return whole(base + merged.reshape(base.shape))


def karcher(base: Array, tuned: Sequence[Array]) -> tuple[Array, Mask]:
    norms = [float(np.linalg.norm(x)) for x in tuned]
    units = [x.ravel() / norm for x, norm in zip(tuned, norms)]
    share = 1 / len(tuned)
    mean = sum((share * unit for unit in units), np.zeros_like(units[0]))
    mean /= np.linalg.norm(mean)
    for _ in range(10):
        step = np.zeros_like(mean)
        for unit in units:
            cosine = float(np.clip(mean @ unit, -1, 1))
            angle = np.arccos(cosine)
            if angle >= 1e-5:
                step += share * (angle / np.sin(angle)) * (unit - cosine * mean)
        length = float(np.linalg.norm(step))
        if length < 1e-5:
            break
        mean = np.cos(length) * mean + np.sin(length) * step / length
        mean /= np.linalg.norm(mean)
    return whole((share * sum(norms) * mean).reshape(base.shape))


@dataclass(frozen=True)
class Method:
    reference: Callable[[Array, Sequence[Array]], tuple[Array, Mask]]
    base: bool = True
    models: int = 3
    weighted: bool = True
    each: dict[str, float] = field(default_factory=dict)
    settings: dict[str, float] = field(default_factory=dict)


METHODS = {
    "linear": Method(linear, base=False),
    "slerp": Method(slerp, base=False, models=2, weighted=False, settings={"t": T}),
    "task_arithmetic": Method(task_arithmetic),
    "ties": Method(vectors(0, votes=True, normalize=True), each={"density": DENSITY}),
    "breadcrumbs": Method(vectors(GAMMA, votes=False, normalize=False), each={"density": DENSITY, "gamma": GAMMA}),
    "breadcrumbs_ties": Method(vectors(GAMMA, votes=True, normalize=False), each={"density": DENSITY, "gamma": GAMMA}),
    "model_stock": Method(model_stock, weighted=False),
    "multislerp": Method(multislerp),
    "karcher": Method(karcher, base=False, weighted=False),
}


def recipe(name: str, root: Path, dtype: str) -> str:
    method = METHODS[name]
    models: list[dict[str, object]] = []
    for number, weight in zip(range(1, method.models + 1), WEIGHTS):
        parameters = {**({"weight": weight} if method.weighted else {}), **method.each}
        models.append({"model": str(root / f"ft{number}"), "parameters": parameters})
    document: dict[str, object] = {"merge_method": name, "models": models, "dtype": dtype, "parameters": method.settings}
    if method.base:
        document["base_model"] = str(root / "base")
    elif name == "slerp":
        document["base_model"] = str(root / "ft1")
    return json.dumps(document)  # JSON is YAML


def rounded(x: Array) -> Array:
    """To bfloat16 once, ties to even (by way of float32, which changes nothing that could be seen here)."""
    return (checkpoints.to_bfloat16(np.ascontiguousarray(x, dtype=np.float32)).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def norm(parts: Sequence[Array]) -> float:
    return float(np.sqrt(sum(float(np.sum(part * part)) for part in parts)))


def measure(name: str, dtype: str, inputs: list[Tensors], ours: Tensors, theirs: Tensors) -> dict[str, float]:
    method = METHODS[name]
    errors: dict[str, list[Array]] = {"ours": [], "theirs": [], "once": []}
    change: list[Array] = []
    different = elements = counted = 0
    largest = 0.0
    for tensor, base in inputs[0].items():
        reference, certain = method.reference(base, [model[tensor] for model in inputs[1 : method.models + 1]])
        a, b = ours[tensor][certain], theirs[tensor][certain]
        expected = reference[certain]
        errors["ours"].append(a - expected)
        errors["theirs"].append(b - expected)
        errors["once"].append((rounded(expected) if dtype == "bfloat16" else expected.astype(np.float32).astype(np.float64)) - expected)
        change.append(expected - base[certain])
        different += int(np.count_nonzero(a != b))
        largest = max(largest, float(np.max(np.abs(a - b), initial=0)))
        counted += a.size
        elements += base.size
    scale = norm(change)
    return {
        "different": different / counted,
        "largest": largest,
        "ours": norm(errors["ours"]) / scale,
        "theirs": norm(errors["theirs"]) / scale,
        "once": norm(errors["once"]) / scale,
        "left_out": 1 - counted / elements,
    }


def run(command: Sequence[str]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", choices=("tiny", "small"), help="sizes of the models")
    parser.add_argument("--ingot", default=shutil.which("ingot"), required=shutil.which("ingot") is None, help="the command")
    parser.add_argument("--mergekit", default=str(Path(sys.executable).parent / "mergekit-yaml"), help="the peer's command")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    options = parser.parse_args()
    print("| method | dtype | elements that differ | largest difference | error, Ingot | error, mergekit | rounding alone | left out |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="ingot-accuracy-") as temporary:
        root = checkpoints.make(Path(temporary), options.preset)
        inputs = [load(root / name) for name in ("base", "ft1", "ft2", "ft3")]
        for name in options.methods.split(","):
            for dtype in ("bfloat16", "float32"):
                folder = Path(temporary) / f"{name}-{dtype}"
                folder.mkdir()
                (folder / "recipe.yml").write_text(recipe(name, root, dtype), encoding="utf-8")
                run([options.ingot, "merge", str(folder / "recipe.yml"), str(folder / "ours"), "--sync", "none"])
                run([options.mergekit, str(folder / "recipe.yml"), str(folder / "theirs")])
                found = measure(name, dtype, inputs, load(folder / "ours"), load(folder / "theirs"))
                print(
                    f"| {name} | {dtype} | {100 * found['different']:.2f} % | {found['largest']:.2g} | {found['ours']:.2g} "
                    f"| {found['theirs']:.2g} | {found['once']:.2g} | {100 * found['left_out']:.2f} % |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
