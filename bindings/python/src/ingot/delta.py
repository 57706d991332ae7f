"""Delta packs: what fine-tuning changed about a base, in a few bits for each element.

    >>> import ingot
    >>> ingot.delta.pack("compeft", "base", "expert", "expert.pack", density=0.1)  # doctest: +SKIP
    >>> ingot.delta.apply("expert.pack", "base", "expert-again")  # doctest: +SKIP

In recipes `base+pack`, or `base+pack#task` where a pack has several, is the model that was packed, as nearly as the pack has it.
docs/packs.md has methods and layout.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from ctypes import byref, c_char_p
from typing import Any

from ._context import Path, Sync
from ._engines import shared_engine
from ._errors import check
from ._library import library
from ._packs import Pack, PackForm, PackTask
from ._progress import Listener
from ._reports import Report

__all__ = ["Pack", "PackForm", "PackTask", "apply", "inspect", "pack", "unpack"]


def pack(
    method: str,
    base: Path,
    models: Path | Sequence[Path],
    out: Path,
    *,
    force: bool = False,
    sync: Sync = "all",
    progress: bool | Listener | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    isa: str | None = None,
    **parameters: Any,
) -> Pack:
    """Packs the differences of models to their base into the directory `out`, which appears when it is complete.

    method: "compeft" (sparse and ternary), "bitdelta" (one bit for each element), "tall" or "emr" (one vector, and a mask of each model).
    base: the model that all came from: a directory, a file, a name of the Hugging Face cache.
    models: the fine-tuned models: one, of tall and emr also several.
    force: replace an existing pack, in one step once the new one is complete.
    parameters: of the method; where models may differ in one, also a list with a value for each. A trailing underscore is
        dropped (lambda_).
    Other parameters as for `ingot.merge`. The bytes depend on the models and the parameters alone.
    """
    with shared_engine(threads, memory, isa) as engine:
        return engine.pack_delta(method, base, models, out, force=force, sync=sync, progress=progress, **parameters)


def apply(
    pack: Path,
    base: Path,
    out: Path,
    *,
    task: str | int | None = None,
    scale: float = 1.0,
    force: bool = False,
    sync: Sync = "all",
    progress: bool | Listener | None = None,
    shard_size: int | str | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    isa: str | None = None,
) -> Report:
    """Writes the model that a pack and its base make.

    task: which one, by name or by number from 0 on, of a pack with several.
    scale: what the differences are multiplied by.
    Other parameters as for `ingot.merge`. Raises ShapeError for another base than the pack was made with.
    """
    with shared_engine(threads, memory, isa) as engine:
        return engine.apply_delta(pack, base, out, task=task, scale=scale, force=force, sync=sync, progress=progress, shard_size=shard_size)


def unpack(
    pack: Path,
    out: Path,
    *,
    base: Path | None = None,
    task: str | int | None = None,
    force: bool = False,
    sync: Sync = "all",
    progress: bool | Listener | None = None,
    shard_size: int | str | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    isa: str | None = None,
) -> Report:
    """Writes the differences that a pack has, as float32 tensors.

    base: needed where the pack has tensors whole (bitdelta).
    Other parameters as for `apply`.
    """
    with shared_engine(threads, memory, isa) as engine:
        return engine.unpack_delta(pack, out, base=base, task=task, force=force, sync=sync, progress=progress, shard_size=shard_size)


def inspect(pack: Path) -> Pack:
    """Reads what a pack holds: base, tasks, sizes and errors. `pack` is its directory or its file."""
    text = c_char_p()
    check(library.ingot_delta_inspect, os.fsencode(pack), byref(text))
    try:
        return Pack.from_json((text.value or b"").decode())
    finally:
        library.ingot_string_destroy(text)
