"""Whole models: each matrix method on a base and four fine-tunes in bfloat16, with wall and processor time and peak memory.

The models are those of benchmarks/versus_mergekit (large: 1.1 billion parameters, 2.2 GB each). Side inputs are of random
vectors, one tensor for all layers of a width. RegMean's row also has the share that its Cholesky factors and products have of OpenBLAS's
float64 rate, measured before and after; MaTS takes one step after the first residual, of the hundred that are its default.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "versus_mergekit"))

import checkpoints
import measure
from blas import OpenBLAS

MODELS = 4
# What differs from the defaults: the direct solvers, and few of the steps that MaTS takes one like the other.
METHODS: dict[str, dict[str, object]] = {
    "iso_c": {},
    "iso_cts": {},
    "tsv_m": {},
    "r_tsvm": {},
    "opcm": {},
    "svc": {},
    "wudi": {"solver": "spectral"},
    "optmerge": {"solver": "spectral"},
    "dop": {},
    "doge": {"doge_solver": "closed_form"},
    "regmean": {},
    "mats": {"iterations": 1},
    "custom_diffusion": {},
}
# Side inputs of each model.
SIDES = {"regmean": ["gram"], "mats": ["gram", "output_gram"], "custom_diffusion": ["features"]}
WITHOUT_BASE = {"regmean", "mats"}
WORDS = 8


def matrices(preset: checkpoints.Preset) -> list[tuple[str, tuple[int, int]]]:
    return [(name, (shape[0], shape[1])) for name, shape in preset.tensors() if len(shape) == 2 and ".layers." in name]


def gram(rng: np.random.Generator, width: int) -> np.ndarray:
    """Of 4 · width random vectors whose channels differ in strength by a factor of 100."""
    x = rng.standard_normal((4 * width, width), dtype=np.float32) * np.exp(rng.uniform(np.log(0.1), np.log(10), width)).astype("f")
    return x.T @ x / np.float32(len(x))


def write_side(kind: str, path: Path, seed: int, preset: checkpoints.Preset) -> Path:
    """One tensor for each width; other modules are aliases of the first of theirs."""
    leaders: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, shape in matrices(preset):
        if kind in ("features", "regularization") and ".k_proj." not in name and ".v_proj." not in name:
            continue
        module = name.removesuffix(".weight")
        width = shape[0] if kind == "output_gram" else shape[1]
        if leaders.setdefault(width, module) != module:
            aliases[module] = leaders[width]
    if path.exists():
        return path
    rng = np.random.default_rng(seed)
    tensors = {
        module: rng.standard_normal((WORDS, width), dtype=np.float32) if kind == "features" else gram(rng, width)
        for width, module in leaders.items()
    }
    save_file(tensors, path, metadata={"kind": kind, "aliases": json.dumps(aliases)})
    return path


def recipe(method: str, directory: Path, preset: checkpoints.Preset) -> dict[str, object]:
    models: list[dict[str, object]] = [{"model": str(directory / f"ft{number}")} for number in range(1, MODELS + 1)]
    for number, model in enumerate(models, start=1):
        for kind in SIDES.get(method, []):
            path = write_side(kind, directory / f"{kind}{number}.safetensors", number, preset)
            model["side"] = {**model.get("side", {}), kind: str(path)}  # type: ignore[dict-item]
    found: dict[str, object] = {"merge_method": method, "models": models, "parameters": METHODS[method], "dtype": "bfloat16"}
    if method not in WITHOUT_BASE:
        found["base_model"] = str(directory / "base")
    if method == "custom_diffusion":
        found["side"] = {"regularization": str(write_side("regularization", directory / "captions.safetensors", 0, preset))}
    return found


def regmean_flops(preset: checkpoints.Preset) -> float:
    """Of the right sides, the Cholesky factors and the solutions."""
    return sum((MODELS + 1) * 2.0 * m * n * n + n**3 / 3 for _, (m, n) in matrices(preset))


def main(options: argparse.Namespace) -> None:
    preset = checkpoints.PRESETS[options.model]
    directory = checkpoints.make(options.root.resolve(), options.model, fine_tunes=MODELS)
    chosen = (options.methods or ",".join(METHODS)).split(",")
    blas = OpenBLAS(options.threads)
    out = directory / "out"
    print(f"{preset.parameters() / 1e9:.2f} billion parameters, {MODELS} models, {options.threads} threads, budget {options.memory}")
    print(json.dumps({"core": blas.core} | {f"{t} GF/s": round(blas.rate(t) / 1e9) for t in ("float32", "float64")}))
    print(f"{'method':10} {'wall':>9} {'cpu':>9} {'peak memory':>12} {'of the budget':>14}")
    for method in chosen:
        shutil.rmtree(out, ignore_errors=True)
        file = directory / f"{method}.json"
        file.write_text(json.dumps(recipe(method, directory, preset)), encoding="utf-8")
        before = blas.rate("float64")
        command = [options.ingot, "merge", str(file), str(out), "--threads", str(options.threads), "--memory", options.memory]
        run = measure.run([*command, "--sync", "none"], dict(os.environ), directory / "log", 0.02)
        rate = (before + blas.rate("float64")) / 2
        peak = json.loads((out / "ingot.json").read_text(encoding="utf-8"))["run"]["peak_memory_bytes"]
        text = f"{method:10} {run.wall:7.1f} s {run.cpu:7.1f} s {run.peak_anonymous / 2**20:8.0f} MiB {peak / 2**20:10.0f} MiB"
        if method == "regmean":
            text += f"  {100 * regmean_flops(preset) / run.wall / rate:.0f} % of the float64 rate of {rate / 1e9:.0f} GF/s"
        print(text, flush=True)
    shutil.rmtree(out, ignore_errors=True)
