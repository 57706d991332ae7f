"""Engines: a team of threads and the memory it may use, and the work that is done with them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from ctypes import byref
from typing import Any

from . import _ffi
from ._adapters import AdapterMerges
from ._comparison import Comparison
from ._context import Sync, encoded_paths, synchronisation
from ._errors import IngotError, InvalidArgumentError, RecipeError
from ._lending import StateDict, Tensor, allocate, asked_dtype, given, items, lent, prototype
from ._library import library
from ._packs import Pack
from ._plan import Plan
from ._planner import Missing, Numerics, Planner
from ._progress import Listener
from ._recipes import BASE, Recipe, RecipeSource, as_parameters, model_names, recipe, require_method
from ._reports import Method, Report, Verification
from ._rolling import RollingMerges
from ._sides import Wrapper, plain, side_inputs, single, weight_name
from ._tensors import Loan, framework


class Engine(Planner, RollingMerges, AdapterMerges):
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

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        cached_reads: bool = False,
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
            | (_ffi.INGOT_RUN_CACHED_READS if cached_reads else 0)
        )
        way = synchronisation(sync)
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

    def verify(self, directory: str | os.PathLike[str], *, progress: bool | Listener | None = None) -> Verification:
        """See `ingot.verify`."""
        with self._report() as text, self._call(progress) as call:
            call.run(library.ingot_directory_verify, self._pointer, os.fsencode(directory), byref(text), call.options())
            return Verification.from_json((text.value or b"").decode())

    def diff(
        self,
        a: str | os.PathLike[str],
        b: str | os.PathLike[str],
        base: str | os.PathLike[str] | None = None,
        *,
        tensors_only: bool = False,
        progress: bool | Listener | None = None,
    ) -> Comparison:
        """See `ingot.diff`."""
        with self._report() as text, self._call(progress) as call:
            call.run(
                library.ingot_checkpoint_compare,
                self._pointer,
                os.fsencode(a),
                os.fsencode(b),
                None if base is None else os.fsencode(base),
                byref(text),
                call.options(_ffi.INGOT_RUN_TENSORS_ONLY if tensors_only else 0),
            )
            return Comparison.from_json((text.value or b"").decode())

    # ---- delta packs

    def pack_delta(
        self,
        method: str,
        base: str | os.PathLike[str],
        models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        out: str | os.PathLike[str],
        *,
        force: bool = False,
        sync: Sync = "all",
        progress: bool | Listener | None = None,
        **parameters: Any,
    ) -> Pack:
        """See `ingot.delta.pack`."""
        names, count = encoded_paths(models)
        given = as_parameters(parameters)
        flags = _ffi.INGOT_RUN_OVERWRITE if force else 0
        way = synchronisation(sync)
        with self._report() as text, self._call(progress) as call:
            call.run(
                library.ingot_delta_pack,
                self._pointer,
                method.encode(),
                given,
                os.fsencode(base),
                names,
                count,
                os.fsencode(out),
                byref(text),
                call.options(flags, way),
            )
            return Pack.from_json((text.value or b"").decode())

    def apply_delta(
        self,
        pack: str | os.PathLike[str],
        base: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        task: str | int | None = None,
        scale: float = 1.0,
        force: bool = False,
        sync: Sync = "all",
        progress: bool | Listener | None = None,
        shard_size: int | str | None = None,
    ) -> Report:
        """See `ingot.delta.apply`."""
        if scale == 0:  # the library's word for its default
            raise InvalidArgumentError("scale is 0, which leaves the base", hint="copy the base", subject="scale")
        plan = self._delta_plan(library.ingot_delta_plan_apply, pack, base, task, scale, shard_size)
        return self.merge(plan, out, force=force, sync=sync, progress=progress)

    def unpack_delta(
        self,
        pack: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        base: str | os.PathLike[str] | None = None,
        task: str | int | None = None,
        force: bool = False,
        sync: Sync = "all",
        progress: bool | Listener | None = None,
        shard_size: int | str | None = None,
    ) -> Report:
        """See `ingot.delta.unpack`."""
        plan = self._delta_plan(library.ingot_delta_plan_unpack, pack, base, task, 0, shard_size)
        return self.merge(plan, out, force=force, sync=sync, progress=progress)

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
        name: str | None = None,
        side: Mapping[str, Any] | None = None,
        aim: Mapping[str, Any] | None = None,
        allow_nonfinite: bool = False,
        progress: bool | Listener | None = None,
        **parameters: Any,
    ) -> Tensor:
        """See `ingot.merge_tensors`."""
        if not isinstance(tensors, Mapping | Sequence):
            raise TypeError(f"tensors is a {type(tensors).__name__}, expected a list of tensors or a mapping")
        described = require_method(method)
        name = weight_name(name, described, side, aim)
        models = {key: {name: tensor} for key, tensor in items(tensors)}
        merged = self._merge(
            described,
            models,
            model_names(tensors, "tensors"),
            None if base is None else {name: base},
            None if out is None else {name: out},
            dtype=dtype,
            seed=seed,
            config=None,
            side=side,
            aim=aim,
            wrap=single(name),
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
        aim: Mapping[str, Any] | None = None,
        allow_nonfinite: bool = False,
        progress: bool | Listener | None = None,
        **parameters: Any,
    ) -> dict[str, Tensor]:
        """See `ingot.merge_state_dicts`."""
        if not isinstance(state_dicts, Mapping | Sequence):
            raise TypeError(f"state_dicts is a {type(state_dicts).__name__}, expected a list of mappings or a mapping of them")
        return self._merge(
            require_method(method),
            dict(items(state_dicts)),
            model_names(state_dicts, "state_dicts"),
            base,
            out,
            dtype=dtype,
            seed=seed,
            config=config,
            side=side,
            aim=aim,
            wrap=plain,
            allow_nonfinite=allow_nonfinite,
            progress=progress,
            parameters=parameters,
        )

    def _merge(
        self,
        method: Method,
        state_dicts: Mapping[Any, StateDict[Any]],
        names: Sequence[str],
        base: StateDict[Any] | None,
        out: StateDict[Any] | None,
        *,
        dtype: Any,
        seed: int | None,
        config: Mapping[str, Any] | None,
        side: Mapping[str, Any] | None,
        aim: Mapping[str, Any] | None,
        wrap: Wrapper,
        allow_nonfinite: bool,
        progress: bool | Listener | None,
        parameters: Mapping[str, Any],
    ) -> dict[str, Any]:
        if not state_dicts:
            raise InvalidArgumentError("there is nothing to merge, expected at least one model", subject=method.name)
        text = None if config is None else json.dumps(config, default=str)
        models = [lent(name, tensors, text) for name, tensors in zip(names, state_dicts.values())]
        if base is not None:
            models.insert(0, lent(BASE, base, text))
        sides = side_inputs(method, side, aim, list(state_dicts), names, base=base is not None, wrap=wrap)
        models += [lent(name, tensors) for name, tensors in sides.models.items()]
        outputs = Loan()
        types = [] if out is None else [outputs.borrow(key, tensor, output=True).dtype for key, tensor in out.items()]
        asked = asked_dtype(dtype, types)
        source = recipe(
            method,
            list(state_dicts),
            names,
            base=base is not None,
            dtype=asked,
            parameters=parameters,
            sides=sides.by_model,
            shared_sides=sides.shared,
            aim=sides.aim,
        )
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
