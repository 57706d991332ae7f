"""Engines: a team of threads and the memory it may use, and the work that is done with them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, sizeof
from typing import Any, Literal

from . import _ffi
from ._calls import Call
from ._errors import CancelledError, IngotError, InvalidArgumentError, RecipeError, UnsupportedError, check
from ._handles import Handle
from ._hub import with_download
from ._lending import StateDict, Tensor, allocate, asked_dtype, given, items, lent, prototype
from ._library import library
from ._plan import Model, Plan
from ._progress import Listener, listening
from ._recipes import BASE, Recipe, RecipeSource, model_names, recipe, require_method, side_models
from ._reports import Report, Verification
from ._sizes import byte_count
from ._tensors import Loan, framework

Sync = Literal["all", "none"]
Numerics = Literal["once", "stepwise"]
Missing = Literal["error", "intersection", "union"]
Team = Literal["auto", "openmp", "pthread"]

logger = logging.getLogger("ingot")

_TEAMS = {"auto": _ffi.INGOT_TEAM_AUTO, "openmp": _ffi.INGOT_TEAM_OPENMP, "pthread": _ffi.INGOT_TEAM_PTHREAD}
_NUMERICS = {"once": _ffi.INGOT_NUMERICS_ONCE, "stepwise": _ffi.INGOT_NUMERICS_STEPWISE}
_MISSING = {
    "error": _ffi.INGOT_MISSING_ERROR,
    "intersection": _ffi.INGOT_MISSING_INTERSECTION,
    "union": _ffi.INGOT_MISSING_UNION,
}
_SYNCS = {"all": _ffi.INGOT_SYNC_ALL, "none": _ffi.INGOT_SYNC_NONE}


def _choice(value: str, choices: Mapping[str, int], name: str) -> int:
    if value not in choices:
        raise InvalidArgumentError(f"{name} is {value!r}, expected one of {', '.join(choices)}", subject=name)
    return choices[value]


def _whole(value: int, low: int, high: int, name: str) -> int:
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


class Engine:
    """Worker threads and a memory budget, kept from call to call.

    The functions of the module keep engines of their own; make one to choose its threads once, or to cancel it.
    An engine serves one call at a time, from any thread; another meanwhile raises BusyError. In a child of fork() it
    starts afresh; in one that was forked while a call was under way it raises UnsupportedError.

    threads: worker threads; None for OMP_NUM_THREADS or the cores this process may use.
    memory: for tiles and kept inputs of a run, as bytes or "64MiB"; None for 256 MiB.
    isa: instruction set by name ("scalar", "avx2", …); None for INGOT_FORCE_ISA or the best of this machine.
    team: whose threads work: "pthread", "openmp", or "auto", which takes OpenMP's where no other OpenMP runtime is loaded yet.
        Not the default here: a package imported later may bring Intel's libiomp5, which ends the process when it finds another.
    """

    def __init__(
        self,
        *,
        threads: int | None = None,
        memory: int | str | None = None,
        isa: str | None = None,
        team: Team = "pthread",
    ) -> None:
        self._options = _ffi.ingot_context_options(
            struct_size=sizeof(_ffi.ingot_context_options),
            threads=0 if threads is None else _whole(threads, 1, 4096, "threads"),
            team=_choice(team, _TEAMS, "team"),
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

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    # ---- plans

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
        options = _ffi.ingot_plan_options(struct_size=sizeof(_ffi.ingot_plan_options))
        if seed is not None:
            options.flags |= _ffi.INGOT_PLAN_SEED
            options.seed = _whole(seed, 0, 2**64 - 1, "seed")
        if not files:
            options.flags |= _ffi.INGOT_PLAN_NO_FILES
        if shard_size == 0:
            options.shard_size_bytes = _ffi.INGOT_SHARD_SIZE_UNLIMITED
        elif shard_size is not None:
            options.shard_size_bytes = byte_count(shard_size, "shard_size")
        if numerics is not None:
            options.numerics = _choice(numerics, _NUMERICS, "numerics")
        if missing is not None:
            options.missing = _choice(missing, _MISSING, "missing")
        options.models = (POINTER(_ffi.ingot_model) * max(len(models), 1))(*(model.handle.pointer for model in models))
        options.model_count = len(models)
        pointer = POINTER(_ffi.ingot_plan)()
        with self._call() as call:
            call.run(library.ingot_plan_create, self._pointer, parsed.pointer, byref(pointer), byref(options))
            plan = Plan(pointer, models)
            if call.is_cancelled:  # making a plan takes no cancel flag
                raise CancelledError("the call was cancelled")
        return plan

    # ---- merges into directories

    def merge(
        self,
        recipe: RecipeSource | Plan,
        out: str | os.PathLike[str],
        *,
        seed: int | None = None,
        resume: bool = False,
        force: bool = False,
        sync: Sync = "all",
        allow_nonfinite: bool = False,
        check_finite: bool = False,
        cached_writes: bool = False,
        progress: bool | Listener | None = None,
        shard_size: int | str | None = None,
        numerics: Numerics | None = None,
        missing: Missing | None = None,
        strict: bool = False,
        models: Mapping[str, StateDict[Any]] | None = None,
        download: bool = False,
    ) -> Report:
        """See `ingot.merge`."""
        if isinstance(recipe, Plan):
            given = (seed, shard_size, numerics, missing, models)
            if any(value is not None for value in given) or strict or download:
                raise InvalidArgumentError(
                    "seed, shard_size, numerics, missing, strict, models and download belong to the plan",
                    hint="give them to ingot.plan",
                )
            plan = recipe
        else:
            plan = self.plan(
                recipe,
                seed=seed,
                shard_size=shard_size,
                numerics=numerics,
                missing=missing,
                strict=strict,
                models=models,
                download=download,
            )
        flags = (
            (_ffi.INGOT_RUN_RESUME if resume else 0)
            | (_ffi.INGOT_RUN_OVERWRITE if force else 0)
            | (_ffi.INGOT_RUN_ALLOW_NONFINITE if allow_nonfinite else 0)
            | (_ffi.INGOT_RUN_CHECK_FINITE if check_finite else 0)
            | (_ffi.INGOT_RUN_CACHED_WRITES if cached_writes else 0)
        )
        way = _choice(sync, _SYNCS, "sync")
        with self._report() as text, self._call(progress) as call:
            call.run(
                library.ingot_plan_run_to_directory,
                self._pointer,
                plan.pointer,
                os.fsencode(out),
                byref(text),
                call.options(flags, way),
            )
            return Report.from_json((text.value or b"").decode())

    @contextmanager
    def _report(self) -> Iterator[c_char_p]:
        """A text of the library's, released at the end."""
        text = c_char_p()
        try:
            yield text
        finally:
            if text.value is not None:
                library.ingot_string_destroy(text)

    def verify(self, directory: str | os.PathLike[str], *, progress: bool | Listener | None = None) -> Verification:
        """See `ingot.verify`."""
        with self._report() as text, self._call(progress) as call:
            call.run(library.ingot_directory_verify, self._pointer, os.fsencode(directory), byref(text), call.options())
            return Verification.from_json((text.value or b"").decode())

    # ---- merges in memory

    def merge_tensors(
        self,
        method: str,
        tensors: Sequence[Tensor] | Mapping[str, Tensor],
        base: Tensor | None = None,
        out: Tensor | None = None,
        *,
        dtype: Any = None,
        seed: int | None = None,
        name: str = "tensor",
        allow_nonfinite: bool = False,
        progress: bool | Listener | None = None,
        **parameters: Any,
    ) -> Tensor:
        """See `ingot.merge_tensors`."""
        if not isinstance(tensors, Mapping | Sequence):
            raise TypeError(f"tensors is a {type(tensors).__name__}, expected a list of tensors or a mapping")
        models = {key: {name: tensor} for key, tensor in items(tensors)}
        merged = self._merge(
            method,
            models,
            model_names(tensors, "tensors"),
            None if base is None else {name: base},
            None if out is None else {name: out},
            dtype=dtype,
            seed=seed,
            config=None,
            allow_nonfinite=allow_nonfinite,
            progress=progress,
            parameters=parameters,
        )
        return next(iter(merged.values()))  # type: ignore[no-any-return]

    def merge_state_dicts(
        self,
        method: str,
        state_dicts: Sequence[StateDict[Tensor]] | Mapping[str, StateDict[Tensor]],
        base: StateDict[Tensor] | None = None,
        out: StateDict[Tensor] | None = None,
        *,
        dtype: Any = None,
        seed: int | None = None,
        config: Mapping[str, Any] | None = None,
        side: Mapping[str, Any] | None = None,
        allow_nonfinite: bool = False,
        progress: bool | Listener | None = None,
        **parameters: Any,
    ) -> dict[str, Tensor]:
        """See `ingot.merge_state_dicts`."""
        if not isinstance(state_dicts, Mapping | Sequence):
            raise TypeError(f"state_dicts is a {type(state_dicts).__name__}, expected a list of mappings or a mapping of them")
        return self._merge(
            method,
            dict(items(state_dicts)),
            model_names(state_dicts, "state_dicts"),
            base,
            out,
            dtype=dtype,
            seed=seed,
            config=config,
            side=side,
            allow_nonfinite=allow_nonfinite,
            progress=progress,
            parameters=parameters,
        )

    def _merge(
        self,
        method: str,
        state_dicts: Mapping[Any, StateDict[Any]],
        names: Sequence[str],
        base: StateDict[Any] | None,
        out: StateDict[Any] | None,
        *,
        dtype: Any,
        seed: int | None,
        config: Mapping[str, Any] | None,
        allow_nonfinite: bool,
        progress: bool | Listener | None,
        parameters: Mapping[str, Any],
        side: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        described = require_method(method)
        if not state_dicts:
            raise InvalidArgumentError("there is nothing to merge, expected at least one model", subject=method)
        text = None if config is None else json.dumps(config, default=str)
        models = [lent(name, tensors, text) for name, tensors in zip(names, state_dicts.values())]
        if base is not None:
            models.insert(0, lent(BASE, base, text))
        sides, side_dicts = side_models(described, side or {}, list(state_dicts), names, base=base is not None)
        models += [lent(name, tensors) for name, tensors in side_dicts.items()]
        outputs = Loan()
        types = [] if out is None else [outputs.borrow(key, tensor, output=True).dtype for key, tensor in out.items()]
        asked = asked_dtype(dtype, types)
        source = recipe(described, list(state_dicts), names, base=base is not None, dtype=asked, parameters=parameters, sides=sides)
        try:
            plan = self._plan(Recipe(source, strict=True), models, seed=seed, files=False)
        except IngotError as error:
            # The recipe is made of the arguments: its places mean nothing to the caller.
            kind = InvalidArgumentError if isinstance(error, RecipeError) else type(error)
            raise kind(error.message, hint=error.hint, subject=error.subject) from None
        order = [base, *state_dicts.values()] if base is not None else list(state_dicts.values())
        result = allocate(plan, order, outputs) if out is None else given(plan, out)
        flags = _ffi.INGOT_RUN_ALLOW_NONFINITE if allow_nonfinite else 0
        with self._call(progress) as call:
            call.run(
                library.ingot_plan_run_to_tensors,
                self._pointer,
                plan.pointer,
                outputs.array(),
                len(outputs),
                None,
                call.options(flags),
            )
        if out is None:
            return {key: framework(prototype(key, order)).finished(tensor, prototype(key, order)) for key, tensor in result.items()}
        for tensor in result.values():
            framework(tensor).written(tensor)
        return result
