"""How far the results of Ingot and mergekit are from float64, and from each other.

    scripts/setup bench
    .venv-bench/bin/python benchmarks/versus_mergekit/accuracy.py --ingot PATH/TO/ingot

Both programs run the same recipe on the same checkpoints, with dtype bfloat16 and with float32. The reference is numpy in float64, from the
published formulas with mergekit's defaults, one tensor at a time. Errors are norms over all tensors, relative to the norm of the merged
change (reference less base): what a merge is about. Where several elements of a task vector have the magnitude at which it is cut, which
of them stay is arbitrary, and so is the sign where a vote is even; those elements are left out, and their share is shown. Random methods
draw other masks in the two programs and have no elements to compare, and arcee_fusion samples its quartiles there.

`--preset large` is the 1.1B set of the benchmark. `--layers 2` takes its first two layers, embeddings and head (220 million parameters):
every layer has the same distribution, so more tell nothing new.
"""

from __future__ import annotations

import argparse
import json
import os
import re
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

WEIGHTS = (0.5, 0.3, 0.2)
DENSITY, GAMMA, T, NEAR = 0.5, 0.01, 0.4, 0.001


class Checkpoint:
    """The tensors of a BF16 or F32 checkpoint, each read when it is asked for, in float64."""

    def __init__(self, directory: Path) -> None:
        self.places: dict[str, tuple[Path, int, str, tuple[int, ...]]] = {}
        for path in sorted(directory.glob("*.safetensors")):
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    self.places[name] = (path, 8 + length + entry["data_offsets"][0], entry["dtype"], tuple(entry["shape"]))

    def __getitem__(self, name: str) -> Array:
        path, offset, dtype, shape = self.places[name]
        raw = np.memmap(path, dtype="<u2" if dtype == "BF16" else "<f4", mode="r", offset=offset, shape=shape)
        values = (raw.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else raw
        return values.astype(np.float64)

    def names(self, every: int) -> list[str]:
        """Every `every`-th tensor of each kind: names that differ in their numbers alone are of one kind."""
        kinds: dict[str, int] = {}
        chosen = []
        for name in self.places:
            kind = re.sub(r"\d+", "#", name)
            if kinds.setdefault(kind, 0) % every == 0:
                chosen.append(name)
            kinds[kind] += 1
        return chosen


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


def cut(delta: Array, drop: int, keep: int, tolerance: float = 0) -> tuple[Array, Mask]:
    """Drops the `drop` largest magnitudes and keeps the next `keep`; true where that is no matter of taste, or of float32."""
    magnitude = np.abs(delta).ravel()
    ranks = [rank for rank in (drop, drop + keep) if 0 < rank < magnitude.size]
    places = sorted({magnitude.size - rank - step for rank in ranks for step in (0, 1)} & set(range(magnitude.size)))
    ordered = np.partition(magnitude, places) if places else magnitude
    kept = np.ones(magnitude.shape, dtype=np.bool_)
    certain = np.ones(magnitude.shape, dtype=np.bool_)
    for rank in ranks:
        # The smallest magnitude above the cut, and the largest below it.
        above, below = ordered[magnitude.size - rank], ordered[magnitude.size - rank - 1]
        kept &= magnitude < above if rank == drop else magnitude >= above
        if above - below <= tolerance * above:
            certain &= np.abs(magnitude - above) > tolerance * above
    if keep == 0:
        kept[:] = False
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


def nuslerp(base: Array, tuned: Sequence[Array]) -> tuple[Array, Mask]:
    a, b = tuned[0], tuned[1]
    t = WEIGHTS[1] / (WEIGHTS[0] + WEIGHTS[1])
    angle = np.arccos(np.clip(float(np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b))), -1, 1))
    if abs(np.sin(angle)) < 1e-8:
        return whole((1 - t) * a + t * b)
    return whole((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle))


def nearswap(base: Array, tuned: Sequence[Array]) -> tuple[Array, Mask]:
    share = np.clip(NEAR / np.maximum(np.abs(base - tuned[0]), 1e-6), 0, 1)
    return whole(share * tuned[0] + (1 - share) * base)


def agents(plus: bool) -> Callable[[Array, Sequence[Array]], tuple[Array, Mask]]:
    """RAM and RAM+: changes of one model alone are added, shared ones averaged."""

    def merge(base: Array, tuned: Sequence[Array]) -> tuple[Array, Mask]:
        deltas = np.stack([x - base for x in tuned])
        active = np.abs(deltas) > 1e-5
        count = active.sum(axis=0)
        merged = np.where(count > 1, (deltas * active).sum(axis=0) / np.maximum(count, 1), 0)
        for delta, own in zip(deltas, active):
            unique, shared = int(np.sum(own & (count == 1))), int(np.sum(own & (count > 1)))
            factor = 1 + 0.1 * min(max(shared / max(unique, 1e-5), 0), 0.2) if plus else 1
            merged += factor * np.where(own & (count == 1), delta, 0)
        return whole(base + merged)

    return merge


def sce(base: Array, tuned: Sequence[Array]) -> tuple[Array, Mask]:
    deltas = np.stack([x - base for x in tuned])
    variance = deltas.var(axis=0)
    keep = int(np.float32(np.count_nonzero(variance)) * np.float32(DENSITY))
    chosen, certain = cut(variance, 0, keep, tolerance=1e-6)
    deltas = deltas * (chosen != 0)
    energies = (deltas**2).reshape(len(tuned), -1).mean(axis=1)
    total = float(energies.sum())
    shares = (energies / total if total >= 1e-6 else np.full(len(tuned), 1 / len(tuned))).reshape(-1, *[1] * base.ndim)
    vote = deltas.sum(axis=0)
    certain &= (np.abs(vote) > 1e-6 * np.abs(deltas).sum(axis=0)) | ~deltas.any(axis=0)
    agrees = np.sign(deltas) == np.where(vote >= 0, 1, -1)
    weight = (shares * agrees).sum(axis=0)
    return base + (shares * deltas * agrees).sum(axis=0) / np.maximum(weight, 1e-6), certain


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
    "nuslerp": Method(nuslerp, base=False, models=2),
    "nearswap": Method(nearswap, models=1, weighted=False, settings={"t": NEAR}),
    "ram": Method(agents(plus=False), weighted=False),
    "ramplus_tl": Method(agents(plus=True), weighted=False),
    "sce": Method(sce, weighted=False, settings={"select_topk": DENSITY}),
}


def recipe(name: str, root: Path, dtype: str, layers: int | None) -> str:
    method = METHODS[name]
    models: list[dict[str, object]] = []
    for number, weight in zip(range(1, method.models + 1), WEIGHTS):
        parameters = {**({"weight": weight} if method.weighted else {}), **method.each}
        models.append({"model": str(root / f"ft{number}"), "parameters": parameters})
    document: dict[str, object] = {"merge_method": name, "dtype": dtype, "parameters": method.settings}
    if layers is None:
        document["models"] = models
    else:
        base: list[dict[str, object]] = [{"model": str(root / "base")}] if method.base else []
        document["slices"] = [{"sources": [{**source, "layer_range": [0, layers]} for source in base + models]}]
    if method.base:
        document["base_model"] = str(root / "base")
    elif name == "slerp":
        document["base_model"] = str(root / "ft1")
    return json.dumps(document)  # JSON is YAML


def rounded(x: Array) -> Array:
    """To bfloat16 once, ties to even (by way of float32, which changes nothing that could be seen here)."""
    return (checkpoints.to_bfloat16(np.ascontiguousarray(x, dtype=np.float32)).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def squares(x: Array) -> float:
    return float(np.sum(x * x))


def measure(
    name: str, dtype: str, names: Sequence[str], inputs: Sequence[Checkpoint], ours: Checkpoint, theirs: Checkpoint
) -> dict[str, float]:
    method = METHODS[name]
    sums = dict.fromkeys(("ours", "theirs", "once", "change"), 0.0)
    different = elements = counted = 0
    largest = 0.0
    for tensor in names:
        base = inputs[0][tensor]
        reference, certain = method.reference(base, [model[tensor] for model in inputs[1 : method.models + 1]])
        a, b = ours[tensor][certain], theirs[tensor][certain]
        expected = reference[certain]
        sums["ours"] += squares(a - expected)
        sums["theirs"] += squares(b - expected)
        sums["once"] += squares((rounded(expected) if dtype == "bfloat16" else expected.astype(np.float32).astype(np.float64)) - expected)
        sums["change"] += squares(expected - base[certain])
        different += int(np.count_nonzero(a != b))
        largest = max(largest, float(np.max(np.abs(a - b), initial=0)))
        counted += a.size
        elements += base.size
    return {
        "different": different / counted,
        "largest": largest,
        **{part: float(np.sqrt(sums[part] / sums["change"])) for part in ("ours", "theirs", "once")},
        "left_out": 1 - counted / elements,
    }


def layer(name: str) -> int:
    """The layer's number, -1 for what lies outside of the layers."""
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else -1


def run(command: Sequence[str]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", choices=("tiny", "small", "large"), help="sizes of the models")
    parser.add_argument("--root", type=Path, help="where the checkpoints lie or are made; else a folder that is removed")
    parser.add_argument("--work", type=Path, help="where outputs go, each removed when it has been compared")
    parser.add_argument("--every", type=int, default=1, help="compare every N-th tensor of each kind")
    parser.add_argument("--layers", type=int, help="merge and compare the first N layers, the embeddings and the head only")
    parser.add_argument("--ingot", default=shutil.which("ingot"), required=shutil.which("ingot") is None, help="the command")
    parser.add_argument("--mergekit", default=str(Path(sys.executable).parent / "mergekit-yaml"), help="the peer's command")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    parser.add_argument("--dtypes", default="bfloat16,float32", help="comma-separated")
    options = parser.parse_args()
    print("| method | dtype | elements that differ | largest difference | error, Ingot | error, mergekit | rounding alone | left out |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="ingot-accuracy-", dir=options.work) as temporary:
        root = checkpoints.make(options.root or Path(temporary), options.preset)
        inputs = [Checkpoint(root / name) for name in ("base", "ft1", "ft2", "ft3")]
        names = [name for name in inputs[0].names(options.every) if options.layers is None or layer(name) < options.layers]
        for name in options.methods.split(","):
            for dtype in options.dtypes.split(","):
                folder = Path(temporary) / f"{name}-{dtype}"
                folder.mkdir()
                (folder / "recipe.yml").write_text(recipe(name, root, dtype, options.layers), encoding="utf-8")
                run([options.ingot, "merge", str(folder / "recipe.yml"), str(folder / "ours"), "--sync", "none"])
                run([options.mergekit, str(folder / "recipe.yml"), str(folder / "theirs")])
                found = measure(name, dtype, names, inputs, Checkpoint(folder / "ours"), Checkpoint(folder / "theirs"))
                shutil.rmtree(folder)
                print(
                    f"| {name} | {dtype} | {100 * found['different']:.2f} % | {found['largest']:.2g} | {found['ours']:.2g} "
                    f"| {found['theirs']:.2g} | {found['once']:.2g} | {100 * found['left_out']:.2f} % |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
