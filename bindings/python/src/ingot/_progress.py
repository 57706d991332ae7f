"""Progress: what a callback is told, and the bar that progress=True shows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How far a run is. Bytes are of the output; `tensor` is one that is being worked on; `seconds` count from its start."""

    bytes_done: int
    bytes_total: int
    tensors_done: int
    tensors_total: int
    tensor: str | None
    seconds: float


Listener = Callable[[Progress], object]


@contextmanager
def listening(progress: bool | Listener | None) -> Iterator[Listener | None]:
    """The function to tell of progress: the caller's, a bar's, or None."""
    if progress is None or progress is False:
        yield None
    elif progress is True:
        with _bar() as listener:
            yield listener
    elif callable(progress):
        yield progress
    else:
        raise TypeError(f"progress is {progress!r}, expected True, False or a function of one ingot.Progress")


@contextmanager
def _bar() -> Iterator[Listener | None]:
    """tqdm's where it is installed, else a line on stderr; on a terminal only (in a notebook, tqdm's widget)."""
    try:
        from tqdm.auto import tqdm  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        with _line() as listener:
            yield listener
        return
    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, disable=None, leave=True, file=sys.stderr) as bar:

        def show(state: Progress) -> None:
            bar.total = state.bytes_total
            if state.tensor is not None:
                bar.set_postfix_str(state.tensor, refresh=False)
            bar.update(state.bytes_done - bar.n)

        yield show


@contextmanager
def _line() -> Iterator[Listener | None]:
    stream: Any = sys.stderr
    if stream is None or not stream.isatty():
        yield None
        return

    def show(state: Progress) -> None:
        share = 100 * state.bytes_done // max(state.bytes_total, 1)
        rate = state.bytes_done / max(state.seconds, 1e-9) / 2**20
        stream.write(f"\r{share:3d} %  {state.tensors_done}/{state.tensors_total} tensors  {rate:.0f} MiB/s ")
        stream.flush()

    try:
        yield show
    finally:
        stream.write("\n")
