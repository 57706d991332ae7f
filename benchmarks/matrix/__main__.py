"""Matrix methods side by side with a straightforward implementation in torch, on the same threads and matrices, in one run.

    .venv/bin/python benchmarks/matrix [--library PATH/TO/libingot.so] [--threads 2] [--rounds 3] [--inputs gaussian,bf16_difference]
    .venv/bin/python benchmarks/matrix --model large --ingot PATH/TO/ingot [--root DIRECTORY] [--methods iso_c,regmean]

Four float32 models and a base of one weight, in memory on both sides. The torch side follows the papers' formulas with
torch.linalg.svd(full_matrices=False) on the CPU; the runs of the two are interleaved and the median counts. `gemms` is the time in
float32 products of the long side by the square of the short one, measured in the same rounds. The error is that of the merged
delta against the same formulas in float64, over the numerical range (1e-6 of the largest singular value), in the Frobenius norm.

With --model every matrix method merges whole models of that size (see models.py).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from inputs import INPUTS

if TYPE_CHECKING:
    import torch
    from blas import OpenBLAS

NAME = "model.layers.0.mlp.up_proj.weight"
Implementation = Callable[["list[torch.Tensor]"], "torch.Tensor"]


def svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The thin SVD; in float64, where it is the reference, over the numerical range."""
    import torch

    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    if matrix.dtype == torch.float32:
        return u, s, v
    kept = s > 1e-6 * s[0]
    return u[:, kept], s[kept], v[kept]


def iso_c(tasks: list[torch.Tensor]) -> torch.Tensor:
    u, s, v = svd(sum(tasks))
    return s.sum() / min(tasks[0].shape) * (u @ v)


def polar(matrix: torch.Tensor) -> torch.Tensor:
    u, _, v = svd(matrix)
    return u @ v


def tsv_m(tasks: list[torch.Tensor]) -> torch.Tensor:
    import torch

    count = min(tasks[0].shape) // len(tasks)
    parts = [svd(t) for t in tasks]
    u = polar(torch.cat([p[0][:, :count] for p in parts], dim=1))
    v = polar(torch.cat([p[2][:count] for p in parts], dim=0))
    return u @ torch.diag(torch.cat([p[1][:count] for p in parts])) @ v


def opcm(tasks: list[torch.Tensor]) -> torch.Tensor:
    import torch

    merged = tasks[0]
    for task in tasks[1:]:
        u, s, v = svd(merged)
        over = torch.nonzero(torch.cumsum(s, 0) / s.sum() > 0.5)
        q = int(over[0]) if len(over) else 0
        seen = u.T @ task @ v.T
        removed = torch.diag(torch.diag(seen))
        removed[:q, :q] = seen[:q, :q]
        merged = merged + task - u @ removed @ v
    return merged * (sum(t.norm() for t in tasks) / len(tasks) / merged.norm())


METHODS: dict[str, Implementation] = {"iso_c": iso_c, "tsv_m": tsv_m, "opcm": opcm}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="matrix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", help="libingot.so to measure; else the one the package finds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", help="comma-separated; else all")
    parser.add_argument("--shapes", default="2048x2048,2048x5632")
    parser.add_argument("--inputs", default=",".join(INPUTS))
    parser.add_argument("--no-error", action="store_true", help="leave out the reference in float64, which takes longest")
    parser.add_argument("--model", help="merge whole models of this size instead: tiny, small, large (1.1B)")
    parser.add_argument("--ingot", default="ingot", help="the command, for --model")
    parser.add_argument("--root", type=Path, default=Path(".build/bench"), help="where models of --model lie: 13 GB for large")
    parser.add_argument("--memory", default="4GiB", help="the budget of --model")
    return parser.parse_args()


def timed(body: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = body()
    return time.perf_counter() - start, result


def routes(method: str, base: np.ndarray, tunes: list[np.ndarray]) -> str:
    """What the report says of routes: polar factors by Halley's iteration are 2, by the eigenvectors of a Gram matrix 1, by the SVD 0."""
    import tempfile

    import ingot

    recipe = {
        "merge_method": method,
        "base_model": "base",
        "models": [{"model": f"m{i}"} for i in range(len(tunes))],
        "dtype": "float32",
    }
    models = {"base": {NAME: base}} | {f"m{i}": {NAME: tune} for i, tune in enumerate(tunes)}
    with tempfile.TemporaryDirectory() as folder:
        report = ingot.merge(recipe, Path(folder) / "out", models=models, memory="4GiB", sync="none")
    found: dict[str, list[str]] = {}
    for finding in report.findings:
        if finding.name.endswith(("route", "residual", "condition")):
            found.setdefault(finding.name, []).append(f"{finding.value:.3g}")
    return ", ".join(f"{name} {' '.join(dict.fromkeys(values))}" for name, values in found.items())


def measure(method: str, shape: tuple[int, int], kind: str, options: argparse.Namespace, blas: OpenBLAS) -> str:
    import ingot
    import torch

    base, tunes = INPUTS[kind](np.random.default_rng(7), shape)
    ours: list[float] = []
    theirs: list[float] = []
    units: list[float] = []
    merged = base
    origin, others = torch.from_numpy(base), [torch.from_numpy(t) for t in tunes]
    for _ in range(options.rounds + 1):
        units.append(blas.seconds(max(shape), min(shape), min(shape), rounds=1))
        seconds, result = timed(
            lambda: ingot.merge_state_dicts(
                method, [{NAME: t} for t in tunes], base={NAME: base}, dtype="float32", threads=options.threads, memory="4GiB"
            )
        )
        ours.append(seconds)
        merged = result[NAME]  # type: ignore[index]
        theirs.append(timed(lambda: origin + METHODS[method]([t - origin for t in others]))[0])
    text = "-"
    if not options.no_error:
        exact = METHODS[method]([torch.from_numpy(t.astype("d") - base) for t in tunes]).numpy()
        text = f"{np.linalg.norm(merged.astype('d') - base - exact) / np.linalg.norm(exact):.1e}"
    # The first round of each warms up.
    a, b, unit = (statistics.median(times[1:]) for times in (ours, theirs, units))
    ratio = statistics.median(t / o for o, t in zip(ours[1:], theirs[1:]))
    return (
        f"{method:6} {kind:16} {shape[0]:5} x {shape[1]:<5} {a:7.2f} s {a / unit:6.1f} {b:7.2f} s {ratio:7.2f} {text:>8}  "
        f"{routes(method, base, tunes)}"
    )


def main() -> None:
    options = parse()
    if options.library:
        os.environ["INGOT_LIBRARY"] = options.library
    if options.model:
        import models

        return models.main(options)
    import torch
    from blas import OpenBLAS

    blas = OpenBLAS(options.threads)
    torch.set_num_threads(options.threads)
    load = os.getloadavg()
    print(f"{options.threads} threads, median of {options.rounds} interleaved rounds; load before {load[0]:.1f}")
    print(json.dumps({"core": blas.core} | {f"{t} GF/s": round(blas.rate(t) / 1e9) for t in ("float32", "float64")}))
    print(f"{'method':6} {'input':16} {'shape':13} {'ingot':>9} {'gemms':>6} {'torch':>9} {'ratio':>7} {'error':>8}  routes")
    for text in options.shapes.split(","):
        rows, columns = (int(side) for side in text.split("x"))
        for method in (options.methods or ",".join(METHODS)).split(","):
            for kind in options.inputs.split(","):
                print(measure(method, (rows, columns), kind, options, blas), flush=True)


if __name__ == "__main__":
    main()
