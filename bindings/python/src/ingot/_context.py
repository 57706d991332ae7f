"""Contexts of the library: threads, memory, calls."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p
from typing import Any, Literal

from . import _ffi
from ._calls import Call
from ._errors import InvalidArgumentError, UnsupportedError, check
from ._handles import Handle
from ._library import library
from ._progress import Listener, listening
from ._sizes import byte_count

Team = Literal["auto", "openmp", "pthread"]
Sync = Literal["all", "none"]
Path = str | os.PathLike[str]

logger = logging.getLogger("ingot")

_TEAMS = {"auto": _ffi.INGOT_TEAM_AUTO, "openmp": _ffi.INGOT_TEAM_OPENMP, "pthread": _ffi.INGOT_TEAM_PTHREAD}
_SYNCS = {"all": _ffi.INGOT_SYNC_ALL, "none": _ffi.INGOT_SYNC_NONE}


def choice(value: str, choices: Mapping[str, int], name: str) -> int:
    if value not in choices:
        raise InvalidArgumentError(f"{name} is {value!r}, expected one of {', '.join(choices)}", subject=name)
    return choices[value]


def synchronisation(value: Sync) -> int:
    """What ingot_run_options has for `sync`."""
    return choice(value, _SYNCS, "sync")


def encoded_paths(paths: Path | Sequence[Path]) -> tuple[Any, int]:
    """One path, or several, as an array of C's, and their number."""
    each = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    return (c_char_p * max(len(each), 1))(*map(os.fsencode, each)), len(each)


def whole(value: int, low: int, high: int, name: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is {value!r}, expected an int")
    number = value.__index__()
    if not low <= number <= high:
        raise InvalidArgumentError(f"{name} is {number}, expected {low} to {high}", subject=name)
    return number


def _log(_user: Any, level: int, message: bytes, fields: bytes) -> None:
    place = json.loads(fields)
    text = message.decode("utf-8", "replace")
    if "origin" in place:
        text = f"{place['origin']}:{place.get('line')}:{place.get('column')}: {text}"
    logger.log(logging.WARNING if level == _ffi.INGOT_LOG_WARNING else logging.INFO, "%s", text)


_log_function = _ffi.ingot_log_fn(_log)

# Calls under way in this process, of all engines.
_running: list[Call] = []
# True in a child that was forked while there were some: a lock that another thread held then is held for ever there.
_was_torn = False


def _after_fork() -> None:
    global _was_torn
    _was_torn = _was_torn or bool(_running)


os.register_at_fork(after_in_child=_after_fork)


class Context:
    """Worker threads and a memory budget, and the calls that use them: what an Engine is before it can do anything."""

    def __init__(
        self,
        *,
        threads: int | None = None,
        memory: int | str | None = None,
        isa: str | None = None,
        team: Team = "pthread",
    ) -> None:
        self._options = _ffi.ingot_context_options(
            threads=0 if threads is None else whole(threads, 1, 4096, "threads"),
            team=choice(team, _TEAMS, "team"),
            memory_budget_bytes=0 if memory is None else byte_count(memory, "memory"),
            isa=None if isa is None else isa.encode(),
            log=_log_function,
        )
        self._calls: set[Call] = set()
        self._closed = False
        self._process = os.getpid()
        self._handle: Handle = self._create()

    def _create(self) -> Handle:
        if _was_torn:
            raise UnsupportedError(
                "this process was forked while its parent was in a call of ingot, and may not use the library",
                hint="fork before the call or after it, or start processes by spawn",
            )
        pointer = POINTER(_ffi.ingot_context)()
        check(library.ingot_context_create, byref(pointer), byref(self._options))
        return Handle(pointer, library.ingot_context_destroy)

    @property
    def _pointer(self) -> Any:
        if self._closed:
            raise InvalidArgumentError("the engine is closed", subject="engine")
        if self._process != os.getpid():
            # After fork() the threads are gone, and a call that ran in the parent will never end here.
            self._handle = self._create()
            self._process = os.getpid()
        return self._handle.pointer

    @property
    def info(self) -> dict[str, Any]:
        """What was chosen: threads, team, isa, memory_budget_bytes, blas_core, blas_hint."""
        return json.loads(library.ingot_context_json(self._pointer))  # type: ignore[no-any-return]

    def cancel(self) -> None:
        """Stops the call that is under way, if any, at the next tile: it raises CancelledError. From any thread."""
        for call in tuple(self._calls):
            call.cancel()

    def close(self) -> None:
        """Ends its threads. May be called twice."""
        self._closed = True
        self._handle.close()

    def __repr__(self) -> str:
        if self._closed:
            return "<ingot.Engine, closed>"
        info = self.info
        return f"<ingot.Engine, {info['threads']} threads, {info['isa']}, {info['memory_budget_bytes']} bytes>"

    @contextmanager
    def _call(self, progress: bool | Listener | None = None) -> Iterator[Call]:
        with listening(progress) as listener, Call(listener) as call:
            self._calls.add(call)
            _running.append(call)
            try:
                yield call
            finally:
                self._calls.discard(call)
                _running.remove(call)

    @contextmanager
    def _report(self) -> Iterator[c_char_p]:
        """A text of the library's, released at the end."""
        text = c_char_p()
        try:
            yield text
        finally:
            if text.value is not None:
                library.ingot_string_destroy(text)
