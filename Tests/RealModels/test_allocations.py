"""Allocations are a matter of the number of tensors, not of their sizes: twice the tiles, the same number of them."""

from __future__ import annotations

from pathlib import Path

import preload
import pytest
import synthetic
from conftest import Command
from preload import Preload

LAYERS = 8
# What may differ: text that grows with the digits of a size, and, with several threads, which job begins while another still runs.
SLACK = {1: 12, 2: 40}


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Preload:
    return preload.build(tmp_path_factory.mktemp("preload"))


@pytest.fixture(scope="module")
def models(session_folder: Path) -> dict[int, list[Path]]:
    """Base and two others, once in each size: 24 tensors of 10 and of 20 blocks, rows that end within a tile."""
    made: dict[int, list[Path]] = {}
    for rows in (1024, 2048):
        shapes = synthetic.layered(LAYERS, {"matrix": (rows, 640), "cube": (rows, 16, 40), "long": (rows // 2, 1280)})
        made[rows] = [
            synthetic.floats(session_folder / f"rows-{rows}-{name}", shapes, LAYERS, seed) for seed, name in enumerate(["base", "a", "b"])
        ]
    return made


# What they do once for a tensor depends on its values: sparse_soup reports a line more where zeros do not match, widen sorts columns.
BY_VALUE = {"sparse_soup", "widen"}


@pytest.mark.parametrize("method", [method for method in synthetic.METHODS if method not in BY_VALUE])
@pytest.mark.parametrize("threads", SLACK)
def test_twice_the_tiles_the_same_allocations(
    ingot: Command, counter: Preload, models: dict[int, list[Path]], folder: Path, method: str, threads: int
) -> None:
    if not ingot.is_release:
        pytest.skip("a debug build allocates what the optimiser would not")
    counts = {}
    for rows, sources in models.items():
        options = ["-o", folder / f"out-{rows}", "--sync", "none", "--threads", threads, "--team", "pthread"]
        ingot("merge", *synthetic.arguments(method, sources), *options, env=counter.environment())
        counts[rows] = counter.counts()["allocations"]
    small, large = counts.values()
    # A count that saw nothing would be equal too.
    assert small > 1000
    assert abs(large - small) <= SLACK[threads], counts
