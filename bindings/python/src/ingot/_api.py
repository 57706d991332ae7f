"""The functions of the package. Each borrows an engine with the threads and memory that are asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from ctypes import byref, c_char_p
from typing import Any

from ._comparison import Comparison
from ._context import Sync
from ._engines import shared_engine
from ._errors import check
from ._lending import StateDict, Tensor
from ._library import library
from ._plan import Plan
from ._planner import Missing, Numerics
from ._progress import Listener
from ._recipes import RecipeSource
from ._reports import Checkpoint, Report, Verification


def merge(
    recipe: RecipeSource | Plan,
    out: str | os.PathLike[str],
    *,
    threads: int | None = None,
    memory: int | str | None = None,
    seed: int | None = None,
    resume: bool = False,
    force: bool = False,
    sync: Sync = "all",
    allow_nonfinite: bool = False,
    check_finite: bool = False,
    cached_writes: bool = False,
    cached_reads: bool = False,
    progress: bool | Listener | None = None,
    isa: str | None = None,
    shard_size: int | str | None = None,
    numerics: Numerics | None = None,
    missing: Missing | None = None,
    strict: bool = False,
    models: Mapping[str, StateDict[Any]] | None = None,
    download: bool = False,
) -> Report:
    """Merges models into a new model directory.

    The directory appears under its name only when it is complete; until then it is OUT.partial, which an interrupted
    merge leaves for `resume`. One recipe, one set of models and one seed give the same bytes for every number of
    threads, every memory budget and every instruction set.

    recipe: a path, YAML or JSON text, a mapping, or a Plan; mergekit's recipes run unchanged.
    out: the directory to make; it must not exist, unless `force`.
    threads: worker threads; None for OMP_NUM_THREADS or the cores this process may use.
    memory: for tiles and kept inputs, as bytes or "64MiB"; None for 256 MiB.
    seed: of random draws; None for the recipe's, else 0.
    resume: go on with OUT.partial of an interrupted merge of the same plan.
    force: replace an existing directory, in one step, once the new one is complete.
    sync: "all" puts the files on the disk before OUT appears; "none" leaves it to the system.
    allow_nonfinite: carry NaN and infinity through; they are an error otherwise.
    check_finite: look for them also in tensors that are copied unchanged.
    cached_writes: write through the page cache, so that what reads the output next finds it in memory.
    cached_reads: read cold files through the page cache too, so that what reads them next finds them in memory.
    progress: True for a bar (tqdm's where it is installed), or a function of one Progress. An exception that it raises
        ends the merge and comes out as itself.
    isa: instruction set by name; None for INGOT_FORCE_ISA or the best of this machine.
    shard_size: most bytes of a weight file, as bytes or "5GB" (the default); 0 for one file.
    numerics: "once" (float32 throughout, one rounding at the end) or "stepwise" (rounds after each documented step, as
        mergekit does); None for the recipe's, else "once".
    missing: tensors that some models lack: an "error", left out ("intersection"), or merged from the models that have
        them ("union"); None for the recipe's, else "error".
    strict: unknown keys of the recipe are errors.
    models: models in memory, by the names that the recipe gives them; they are read in place.
    download: fetch models that are neither on disk nor in the Hugging Face cache with huggingface_hub.
    """
    with shared_engine(threads, memory, isa) as engine:
        return engine.merge(
            recipe,
            out,
            seed=seed,
            resume=resume,
            force=force,
            sync=sync,
            allow_nonfinite=allow_nonfinite,
            check_finite=check_finite,
            cached_writes=cached_writes,
            cached_reads=cached_reads,
            progress=progress,
            shard_size=shard_size,
            numerics=numerics,
            missing=missing,
            strict=strict,
            models=models,
            download=download,
        )


def plan(
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
    """Settles what a merge will do, from headers alone, without doing it. Parameters as for `merge`.

    All that can be known before the first byte is written is checked here. Printing the plan shows it as a table.
    """
    with shared_engine(None, None, None) as engine:
        return engine.plan(
            recipe,
            seed=seed,
            shard_size=shard_size,
            numerics=numerics,
            missing=missing,
            strict=strict,
            models=models,
            download=download,
        )


def inspect(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads the headers of a checkpoint: a directory, a file, or a model of the local Hugging Face cache."""
    text = c_char_p()
    check(library.ingot_checkpoint_inspect, os.fsencode(path), byref(text))
    try:
        return Checkpoint.from_json((text.value or b"").decode())
    finally:
        library.ingot_string_destroy(text)


def verify(
    directory: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: bool | Listener | None = None,
) -> Verification:
    """Compares every tensor of a directory that Ingot wrote with its digest in ingot.json.

    Raises FormatError, which names the first tensor that differs.
    """
    with shared_engine(threads, None, None) as engine:
        return engine.verify(directory, progress=progress)


def diff(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    *,
    tensors_only: bool = False,
    progress: bool | Listener | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    isa: str | None = None,
) -> Comparison:
    """Compares two checkpoints tensor by tensor, with their configuration and tokenizer. Reads every byte of both once.

    a, b: directories, files, models of the local Hugging Face cache, each also with `+adapter`.
    base: the model that both came from: then also what each of them changed about it, and where they pull in opposite directions.
    tensors_only: leave configuration and tokenizer files out.
    Other parameters as for `merge`. Models that differ are no error: look at `equal` of the result.
    """
    with shared_engine(threads, memory, isa) as engine:
        return engine.diff(a, b, base, tensors_only=tensors_only, progress=progress)


def merge_tensors(
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
    threads: int | None = None,
    memory: int | str | None = None,
    isa: str | None = None,
    **parameters: Any,
) -> Tensor:
    """Merges tensors of one shape into one: torch tensors on the CPU, numpy arrays, anything with DLPack or a buffer.

    Inputs are read where they lie, strided or not, and never copied. The result is of the caller's library, and new
    unless `out` is given; `out` may not share memory with an input.

    method: a name from `methods()`.
    tensors: one for each model: a list, or a mapping whose keys may then be used in `parameters`.
    base: the base model's tensor, for methods that have one.
    out: where the result goes; it is returned.
    dtype: of the result, e.g. "bfloat16" or torch.float32; None for out's, else the first input's (the base's), where
        float64 gives float32 and 8-bit floats give bfloat16.
    seed: of random draws; None for 0.
    name: takes part in random draws, so that tensors of one model get different ones; None for "tensor".
    side: side inputs of methods that have any, each a list of tensors or a mapping from models' keys: {"fisher": [fa, fb]}.
        In the place of a tensor may stand {"row_sums": r, "column_sums": c} where the method takes sums, and a list where it
        takes several. Gram matrices belong to the last axis; a name must end in ".weight" with them, and with `aim`.
    aim: activation-informed merging behind the method: {"side": norms of the last axis, "omega": 0.4, "base": tensor}; omega
        and base (None for `base`) may be left out.
    parameters: of the method: one value, or for parameters that may differ by model a list or a mapping. A trailing
        underscore is dropped (lambda_).
    Other parameters as for `merge`.

    >>> from array import array
    >>> merge_tensors("linear", [array("f", [0, 2]), array("f", [4, 4])], weight=[0.25, 0.75])
    array('f', [3.0, 3.5])
    """
    with shared_engine(threads, memory, isa) as engine:
        return engine.merge_tensors(
            method,
            tensors,
            base,
            out,
            dtype=dtype,
            seed=seed,
            name=name,
            side=side,
            aim=aim,
            allow_nonfinite=allow_nonfinite,
            progress=progress,
            **parameters,
        )


def merge_state_dicts(
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
    threads: int | None = None,
    memory: int | str | None = None,
    isa: str | None = None,
    **parameters: Any,
) -> dict[str, Tensor]:
    """Merges models that are in memory, mappings from names to tensors, as `merge` does those in files.

    It is the same plan: methods whose statistics run over rows, tensors or the whole model work, and names take part in
    random draws. Tensors are read where they lie. The result has the first model's order (the base's, if there is one).

    state_dicts: one mapping for each model: a list, or a mapping whose keys may then be used in `parameters`.
    base: the base model.
    out: tensors to write into, one for each of the result; none may share memory with an input.
    config: the models' config.json as a mapping: their layer count, tied weights. Needed for few things, gradients over
        layers among them.
    side: side inputs of methods that have any, each a list of state dicts or a mapping from models' keys: {"fisher": [fa, fb]}.
    aim: activation-informed merging behind the method: {"side": state dict of norms by module, "omega": 0.4, "base": state
        dict}; omega and base (None for `base`) may be left out.
    Other parameters as for `merge_tensors`.
    """
    with shared_engine(threads, memory, isa) as engine:
        return engine.merge_state_dicts(
            method,
            state_dicts,
            base,
            out,
            dtype=dtype,
            seed=seed,
            config=config,
            side=side,
            aim=aim,
            allow_nonfinite=allow_nonfinite,
            progress=progress,
            **parameters,
        )
