"""Exceptions: one class for each status of the library, each also of the built-in kind that fits it."""

from __future__ import annotations

import ctypes
import enum
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref
from typing import Any, NamedTuple

from . import _ffi
from ._library import library


class Status(enum.IntEnum):
    """The library's status codes, with the header's names and numbers."""

    INVALID_ARGUMENT = _ffi.INGOT_E_INVALID_ARGUMENT
    RECIPE = _ffi.INGOT_E_RECIPE
    NOT_FOUND = _ffi.INGOT_E_NOT_FOUND
    IO = _ffi.INGOT_E_IO
    FORMAT = _ffi.INGOT_E_FORMAT
    SHAPE = _ffi.INGOT_E_SHAPE
    DTYPE = _ffi.INGOT_E_DTYPE
    MEMORY = _ffi.INGOT_E_MEMORY
    CANCELLED = _ffi.INGOT_E_CANCELLED
    CALLBACK = _ffi.INGOT_E_CALLBACK
    UNSUPPORTED = _ffi.INGOT_E_UNSUPPORTED
    EXISTS = _ffi.INGOT_E_EXISTS
    NO_SPACE = _ffi.INGOT_E_NO_SPACE
    NONFINITE = _ffi.INGOT_E_NONFINITE
    BUSY = _ffi.INGOT_E_BUSY
    STALE = _ffi.INGOT_E_STALE
    OUTPUT = _ffi.INGOT_E_OUTPUT
    INTERNAL = _ffi.INGOT_E_INTERNAL


class Position(NamedTuple):
    """A place in a text: its name (a path, usually), line and column from 1."""

    origin: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.origin}:{self.line}:{self.column}"


class IngotError(Exception):
    """What went wrong: `message` says what was found and what was expected, `hint` what to try next.

    `subject` is what it is about (a tensor, a path, a key of the recipe), `position` where in a recipe or file.
    Each status has its own class, so `except ingot.ShapeError` and `except ValueError` both work.
    """

    status: Status = Status.INTERNAL
    message: str
    hint: str | None
    subject: str | None
    position: Position | None
    user_code: int

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        subject: str | None = None,
        position: Position | None = None,
        user_code: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.subject = subject
        self.position = position
        self.user_code = user_code

    def __str__(self) -> str:
        text = f"{self.position}: {self.message}" if self.position else self.message
        if self.subject and self.subject not in text:
            text += f" [{self.subject}]"
        return f"{text}\nhint: {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {name: getattr(self, name) for name in ("hint", "subject", "position", "user_code")}
        return _rebuild, (type(self), self.message, fields)


def _rebuild(kind: type[IngotError], message: str, fields: dict[str, Any]) -> IngotError:
    return kind(message, **fields)


class _SystemError(IngotError, OSError):
    """With `errno` where one fits, and `filename`."""

    _errno: int | None = None

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.errno = self._errno
        self.strerror = message
        self.filename = self.subject


class InvalidArgumentError(IngotError, ValueError):
    """A value that the library does not take."""

    status = Status.INVALID_ARGUMENT


class RecipeError(IngotError, ValueError):
    """The recipe's text; `position` says where."""

    status = Status.RECIPE


class NotFoundError(_SystemError, FileNotFoundError, KeyError):
    """A model, a file or a tensor is absent."""

    status = Status.NOT_FOUND
    _errno = errno.ENOENT


class ReadError(_SystemError):
    """Reading failed."""

    status = Status.IO
    _errno = errno.EIO


class FormatError(IngotError, ValueError):
    """A file is not what its format says."""

    status = Status.FORMAT


class ShapeError(IngotError, ValueError):
    """Shapes that do not go together."""

    status = Status.SHAPE


class DTypeError(IngotError, TypeError):
    """An element type without the arithmetic that is needed."""

    status = Status.DTYPE


class MemoryBudgetError(IngotError, MemoryError):
    """The memory budget is too small; the message says how much is needed."""

    status = Status.MEMORY


class CancelledError(IngotError):
    """`Engine.cancel` stopped the run."""

    status = Status.CANCELLED


class CallbackError(IngotError, RuntimeError):
    """A source, sink or resolver of the caller failed."""

    status = Status.CALLBACK


class UnsupportedError(IngotError, NotImplementedError):
    """Known, but not done by this version, build or machine."""

    status = Status.UNSUPPORTED


class ExistsError(_SystemError, FileExistsError):
    """The destination exists."""

    status = Status.EXISTS
    _errno = errno.EEXIST


class NoSpaceError(_SystemError):
    """The disk is too small, or full."""

    status = Status.NO_SPACE
    _errno = errno.ENOSPC


class NonfiniteError(IngotError, ValueError):
    """Values that are combined hold NaN or infinity."""

    status = Status.NONFINITE


class BusyError(IngotError, RuntimeError):
    """The engine, or the destination, is in use."""

    status = Status.BUSY


class StaleError(_SystemError):
    """A source changed while, or since, it was read."""

    status = Status.STALE
    _errno = errno.ESTALE


class OutputError(_SystemError):
    """Writing the output failed."""

    status = Status.OUTPUT
    _errno = errno.EIO


class InternalError(IngotError, RuntimeError):
    """A bug of the library: please report it."""

    status = Status.INTERNAL


_CLASSES: dict[int, type[IngotError]] = {
    int(kind.status): kind
    for kind in (
        InvalidArgumentError,
        RecipeError,
        NotFoundError,
        ReadError,
        FormatError,
        ShapeError,
        DTypeError,
        MemoryBudgetError,
        CancelledError,
        CallbackError,
        UnsupportedError,
        ExistsError,
        NoSpaceError,
        NonfiniteError,
        BusyError,
        StaleError,
        OutputError,
        InternalError,
    )
}


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _exception(status: int, error: Any) -> IngotError:
    """The exception for a failed call, from its error object."""
    line, column = ctypes.c_int32(), ctypes.c_int32()
    position = None
    if library.ingot_error_position(error, byref(line), byref(column)):
        position = Position(_text(library.ingot_error_origin(error)) or "", line.value, column.value)
    message = _text(library.ingot_error_message(error))
    return _CLASSES.get(status, InternalError)(
        message or _text(library.ingot_status_name(status)) or f"status {status}",
        hint=_text(library.ingot_error_hint(error)),
        subject=_text(library.ingot_error_subject(error)),
        position=position,
        user_code=library.ingot_error_user_code(error),
    )


def check(function: Any, *arguments: Any) -> None:
    """Calls a function of the library whose last parameter is an error, and raises what it reports."""
    error = POINTER(_ffi.ingot_error)()
    status = function(*arguments, byref(error))
    if status == _ffi.INGOT_OK:
        return
    try:
        raised = _exception(status, error)
    finally:
        library.ingot_error_destroy(error)
    raise raised


@contextmanager
def subject(name: str) -> Iterator[None]:
    """Names the tensor that an error without a subject is about."""
    try:
        yield
    except IngotError as error:
        error.subject = error.subject or name
        raise
