"""Matrix methods side by side with a straightforward implementation in torch, on the same threads and matrices, in one run.

    .venv/bin/python benchmarks/matrix [--library PATH/TO/libingot.so] [--threads 2] [--rounds 3]

Four float32 models and a base of one weight, in memory on both sides. The torch side follows the papers' formulas with
torch.linalg.svd(full_matrices=False) on the CPU; the runs of the two are interleaved and the median counts. The error is that of the merged
delta against the same formulas in float64 (numpy), in the Frobenius norm.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

NAME = "model.layers.0.mlp.up_proj.weight"
Implementation = Callable[["list[torch.Tensor]"], "torch.Tensor"]


def iso_c(tasks: list[torch.Tensor]) -> torch.Tensor:
    import torch

    u, s, v = torch.linalg.svd(sum(tasks), full_matrices=False)
    return s.mean() * (u @ v)


def polar(matrix: torch.Tensor) -> torch.Tensor:
    import torch

    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ v


def tsv_m(tasks: list[torch.Tensor]) -> torch.Tensor:
    import torch

    count = min(tasks[0].shape) // len(tasks)
    parts = [torch.linalg.svd(t, full_matrices=False) for t in tasks]
    u = polar(torch.cat([p[0][:, :count] for p in parts], dim=1))
    v = polar(torch.cat([p[2][:count] for p in parts], dim=0))
    return u @ torch.diag(torch.cat([p[1][:count] for p in parts])) @ v


def opcm(tasks: list[torch.Tensor]) -> torch.Tensor:
    import torch

    merged = tasks[0]
    for task in tasks[1:]:
        u, s, v = torch.linalg.svd(merged, full_matrices=False)
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
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--shapes", default="2048x2048,2048x5632")
    return parser.parse_args()


def timed(body: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = body()
    return time.perf_counter() - start, result


def measure(method: str, shape: tuple[int, int], options: argparse.Namespace) -> str:
    import ingot
    import torch

    rng = np.random.default_rng(7)
    base = rng.normal(0, 0.02, shape).astype("f")
    tunes = [(base + rng.normal(0, 0.002, shape)).astype("f") for _ in range(4)]
    ours: list[float] = []
    theirs: list[float] = []
    merged = base
    for _ in range(options.rounds + 1):
        seconds, result = timed(
            lambda: ingot.merge_state_dicts(
                method, [{NAME: t} for t in tunes], base={NAME: base}, dtype="float32", threads=options.threads, memory="4GiB"
            )
        )
        ours.append(seconds)
        merged = result[NAME]  # type: ignore[index]
        origin, others = torch.from_numpy(base), [torch.from_numpy(t) for t in tunes]
        theirs.append(timed(lambda origin=origin, others=others: origin + METHODS[method]([t - origin for t in others]))[0])
    exact = METHODS[method]([torch.from_numpy(t.astype("d") - base) for t in tunes]).numpy()
    error = np.linalg.norm(merged.astype("d") - base - exact) / np.linalg.norm(exact)
    # The first round of each warms up.
    a, b = statistics.median(ours[1:]), statistics.median(theirs[1:])
    return f"{method:8} {shape[0]:5} x {shape[1]:<5} {a:8.2f} s {b:8.2f} s {b / a:8.2f} {error:10.1e}"


def main() -> None:
    options = parse()
    if options.library:
        os.environ["INGOT_LIBRARY"] = options.library
    import torch

    torch.set_num_threads(options.threads)
    load = os.getloadavg()
    print(f"{options.threads} threads, median of {options.rounds} interleaved rounds; load before {load[0]:.1f}")
    print(f"{'method':8} {'shape':13} {'ingot':>10} {'torch':>10} {'ratio':>8} {'error':>10}")
    for text in options.shapes.split(","):
        rows, columns = (int(side) for side in text.split("x"))
        for method in options.methods.split(","):
            print(measure(method, (rows, columns), options), flush=True)


if __name__ == "__main__":
    main()
