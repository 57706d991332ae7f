"""Long calls into the library: how they are told to stop, and how exceptions of callbacks come out again.

While the library works no Python runs on this thread, so a signal's handler waits until the progress function comes. There it
must not raise: ctypes would swallow it. A call therefore takes the handlers over while it lasts: what they raise is kept, the
run is cancelled, and the exception is raised where it would have been, once the library has returned.
"""

from __future__ import annotations

import signal
import threading
from ctypes import byref, c_int32, pointer
from types import FrameType
from typing import Any

from . import _ffi
from ._errors import CancelledError, check
from ._progress import Listener, Progress

# Those that programs give handlers that raise; asking for all 64 would take longer than a small merge.
_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# Calls of the main thread that are under way, the innermost last.
_calls: list[Call] = []


class Call:
    """One call: its cancel flag, its progress function, and what was raised meanwhile.

    with Call(listener) as call:
        call.run(library.ingot_…, arguments…)
    """

    def __init__(self, listener: Listener | None = None) -> None:
        self._flag = c_int32(0)
        self._listener = listener
        self._raised: BaseException | None = None
        self._handlers: dict[int, Any] = {}
        self._function = _ffi.ingot_progress_fn(self._progress)

    def cancel(self) -> None:
        """Stops it at the next tile. From any thread."""
        self._flag.value = 1

    @property
    def is_cancelled(self) -> bool:
        return self._flag.value != 0

    def options(self, flags: int = 0, sync: int = _ffi.INGOT_SYNC_ALL) -> Any:
        """ingot_run_options with this call's progress function and cancel flag."""
        options = _ffi.ingot_run_options(flags=flags, sync=sync, cancel=pointer(self._flag))
        # On the main thread also without a listener: it is where handlers of signals get to run.
        if self._listener is not None or self in _calls:
            options.progress = self._function
        return byref(options)

    def run(self, function: Any, *arguments: Any) -> None:
        """Calls the library; raises its error, or what a handler or the listener raised."""
        try:
            check(function, *arguments)
        except CancelledError:
            if self._raised is None:
                raise
        if self._raised is not None:
            raise self._raised

    def _keep(self, raised: BaseException) -> None:
        if self._raised is None:
            self._raised = raised
        self.cancel()

    def _progress(self, _user: Any, told: Any) -> int:
        try:
            if self._listener is not None and self._raised is None:
                state = told.contents
                tensor = None if state.tensor is None else state.tensor.decode("utf-8", "replace")
                self._listener(
                    Progress(
                        state.bytes_done,
                        state.bytes_total,
                        state.tensors_done,
                        state.tensors_total,
                        tensor,
                        state.elapsed_ns / 1e9,
                    )
                )
        except BaseException as raised:
            self._keep(raised)
        return 0 if self._raised is None else 1

    def __enter__(self) -> Call:
        if threading.current_thread() is threading.main_thread():
            _calls.append(self)
            try:
                if len(_calls) == 1:
                    self._take_handlers()
            except BaseException:
                self._leave()
                raise
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._leave()
        # Also what came after the library had returned.
        if self._raised is not None and error is not self._raised:
            raise self._raised

    def _leave(self) -> None:
        if self not in _calls:
            return
        try:
            while self._handlers:
                number = next(iter(self._handlers))
                signal.signal(number, self._handlers[number])
                del self._handlers[number]
        finally:
            _calls.remove(self)

    def _take_handlers(self) -> None:
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):  # of Python's; neither SIG_DFL, SIG_IGN nor one of C
                self._handlers[number] = handler
                try:
                    signal.signal(number, self._on_signal)
                except ValueError:  # only the main interpreter has signals
                    del self._handlers[number]
                    return

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        handler = self._handlers.get(number)
        try:
            if handler is not None:
                handler(number, frame)
        except BaseException as raised:
            (_calls[-1] if _calls else self)._keep(raised)
