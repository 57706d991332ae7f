"""Making plans: a recipe, or a delta pack, and the models that are read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref
from typing import Any, Literal

from . import _ffi
from ._context import Context, choice, whole
from ._errors import CancelledError
from ._hub import with_download
from ._lending import StateDict, lent
from ._library import library
from ._plan import Model, Plan
from ._recipes import Recipe, RecipeSource
from ._sizes import byte_count

Numerics = Literal["once", "stepwise"]
Missing = Literal["error", "intersection", "union"]

_NUMERICS = {"once": _ffi.INGOT_NUMERICS_ONCE, "stepwise": _ffi.INGOT_NUMERICS_STEPWISE}
_MISSING = {
    "error": _ffi.INGOT_MISSING_ERROR,
    "intersection": _ffi.INGOT_MISSING_INTERSECTION,
    "union": _ffi.INGOT_MISSING_UNION,
}


def _shard_size(asked: int | str | None) -> int:
    """None for the default, 0 for one file."""
    if asked is None:
        return 0
    return _ffi.INGOT_SHARD_SIZE_UNLIMITED if asked == 0 else byte_count(asked, "shard_size")


class Planner(Context):
    """A context that makes plans: the part of an Engine that writes nothing."""

    def plan(
        self,
        recipe: RecipeSource,
        *,
        seed: int | None = None,
        shard_size: int | str | None = None,
        numerics: Numerics | None = None,
        missing: Missing | None = None,
        strict: bool = False,
        models: Mapping[str, StateDict[Any]] | None = None,
        download: bool = False,
    ) -> Plan:
        """See `ingot.plan`."""
        parsed = Recipe(recipe, strict=strict)
        given = [lent(name, tensors) for name, tensors in (models or {}).items()]

        def make() -> Plan:
            return self._plan(parsed, given, seed=seed, shard_size=shard_size, numerics=numerics, missing=missing)

        return with_download(make, lambda: parsed.models) if download else make()

    def _plan(
        self,
        parsed: Recipe,
        models: Sequence[Model],
        *,
        seed: int | None,
        shard_size: int | str | None = None,
        numerics: Numerics | None = None,
        missing: Missing | None = None,
        files: bool = True,
    ) -> Plan:
        options = _ffi.ingot_plan_options()
        if seed is not None:
            options.flags |= _ffi.INGOT_PLAN_SEED
            options.seed = whole(seed, 0, 2**64 - 1, "seed")
        if not files:
            options.flags |= _ffi.INGOT_PLAN_NO_FILES
        options.shard_size_bytes = _shard_size(shard_size)
        if numerics is not None:
            options.numerics = choice(numerics, _NUMERICS, "numerics")
        if missing is not None:
            options.missing = choice(missing, _MISSING, "missing")
        options.models = (POINTER(_ffi.ingot_model) * max(len(models), 1))(*(model.handle.pointer for model in models))
        options.model_count = len(models)
        pointer = POINTER(_ffi.ingot_plan)()
        with self._call() as call:
            call.run(library.ingot_plan_create, self._pointer, parsed.pointer, byref(pointer), byref(options))
            plan = Plan(pointer, models)
            if call.is_cancelled:  # making a plan takes no cancel flag
                raise CancelledError("the call was cancelled")
        return plan

    def _delta_plan(
        self,
        function: Any,
        pack: str | os.PathLike[str],
        base: str | os.PathLike[str] | None,
        task: str | int | None,
        scale: float,
        shard_size: int | str | None,
    ) -> Plan:
        options = _ffi.ingot_delta_options(
            task=None if task is None else str(task).encode(),
            scale=scale,
            shard_size_bytes=_shard_size(shard_size),
        )
        pointer = POINTER(_ffi.ingot_plan)()
        with self._call() as call:
            name = None if base is None else os.fsencode(base)
            call.run(function, self._pointer, os.fsencode(pack), name, byref(pointer), byref(options))
            return Plan(pointer, ())
