"""Engines of the module's functions: kept when they are idle, each lent to one call at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._engine import Engine

_idle: dict[tuple[Any, ...], list[Engine]] = {}
_idle_lock = threading.Lock()
_MOST_IDLE = 4


def _after_fork() -> None:
    global _idle_lock
    _idle_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def shared_engine(threads: int | None, memory: int | str | None, isa: str | None) -> Iterator[Engine]:
    """An engine with these options that nobody uses, new if need be; kept for the next call."""
    key = (threads, memory, isa, os.environ.get("INGOT_THREADS"), os.environ.get("INGOT_FORCE_ISA"))
    with _idle_lock:
        found = _idle.get(key)
        engine = found.pop() if found else None
    if engine is None:
        engine = Engine(threads=threads, memory=memory, isa=isa)
    try:
        yield engine
    finally:
        with _idle_lock:
            if sum(map(len, _idle.values())) < _MOST_IDLE:
                _idle.setdefault(key, []).append(engine)
                engine = None
        if engine is not None:
            engine.close()
