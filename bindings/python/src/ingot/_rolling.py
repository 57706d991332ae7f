"""Rolling merges: what a step or the end did, and how an engine runs them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from ctypes import byref
from dataclasses import dataclass, field
from typing import Any

from . import _ffi
from ._context import Context, Path, Sync, synchronisation
from ._dtypes import output_dtype
from ._library import library
from ._progress import Listener
from ._recipes import as_parameters
from ._reports import Notice, Report, notices


@dataclass(frozen=True)
class RollingReport:
    """What a step of a rolling merge did, or its end."""

    output: str  # the state, or the model that was made of it
    method: str
    models: int  # that are in the state now
    identity: str  # a digest of method, its setting and base: the same from step to step
    tensors: int
    run: Report
    notices: tuple[Notice, ...]
    _fields: dict[str, Any] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """All that the library reported, as JSON has it."""
        return json.loads(json.dumps(self._fields))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, text: str) -> RollingReport:
        fields = json.loads(text)
        return cls(
            fields["output"],
            fields["method"],
            fields["models"],
            fields["identity"],
            fields["tensors"],
            Report.from_dict(fields["run"]),
            notices(fields["notices"]),
            fields,
        )


class RollingMerges(Context):
    """The part of an Engine that folds models into states."""

    def roll(
        self,
        state: Path,
        model: Path,
        *,
        method: str | None = None,
        base: Path | None = None,
        weight: float | None = None,
        side: Path | None = None,
        again: bool = False,
        sync: Sync = "all",
        progress: bool | Listener | None = None,
        **settings: Any,
    ) -> RollingReport:
        """See `ingot.rolling.step`."""
        parameters: Mapping[str, Any] = {**settings, "weight": weight, "side": side, "again": again or None}
        return self._roll(
            library.ingot_rolling_step,
            None if method is None else method.encode(),
            as_parameters(parameters),
            None if base is None else os.fsencode(base),
            os.fsencode(model),
            os.fsencode(state),
            flags=0,
            sync=sync,
            progress=progress,
        )

    def finish_rolling(
        self,
        state: Path,
        out: Path,
        *,
        lambda_: float | None = None,
        dtype: Any = None,
        force: bool = False,
        sync: Sync = "all",
        progress: bool | Listener | None = None,
    ) -> RollingReport:
        """See `ingot.rolling.finish`."""
        return self._roll(
            library.ingot_rolling_finish,
            as_parameters({"lambda": lambda_, "dtype": None if dtype is None else output_dtype(dtype).torch}),
            os.fsencode(state),
            os.fsencode(out),
            flags=_ffi.INGOT_RUN_OVERWRITE if force else 0,
            sync=sync,
            progress=progress,
        )

    def _roll(self, function: Any, *arguments: Any, flags: int, sync: Sync, progress: bool | Listener | None) -> RollingReport:
        way = synchronisation(sync)
        with self._report() as text, self._call(progress) as call:
            call.run(function, self._pointer, *arguments, byref(text), call.options(flags, way))
            return RollingReport.from_json((text.value or b"").decode())
