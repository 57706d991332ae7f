"""Handles of the C API that release themselves."""

from __future__ import annotations

import os
import weakref
from typing import Any


def _release(process: int, destroy: Any, pointer: Any) -> None:
    # A child of fork() has the handle's memory but not its threads or the state of its locks: it lets go without a word.
    if os.getpid() == process:
        destroy(pointer)


class Handle:
    """Owns one handle; `close` may come twice, and comes by itself at the latest when the interpreter ends."""

    def __init__(self, pointer: Any, destroy: Any) -> None:
        self.pointer = pointer
        self._finalizer = weakref.finalize(self, _release, os.getpid(), destroy, pointer)

    def close(self) -> None:
        self._finalizer()
