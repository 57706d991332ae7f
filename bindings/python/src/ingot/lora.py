"""LoRA adapters in PEFT's layout: several merged into one, extracted from a fine-tuned model, brought to another rank, looked at.

    >>> import ingot
    >>> ingot.lora.merge("svd", ["french", "code"], "both", weight=[0.7, 0.3], rank=16)  # doctest: +SKIP
    >>> ingot.lora.extract("base", "expert", "expert.lora", rank=32)  # doctest: +SKIP
    >>> ingot.lora.inspect("french", "code").overlaps[0].mean  # doctest: +SKIP

An adapter is a directory with adapter_config.json and adapter_model.safetensors (or .bin), its weight file, or a name of the Hugging
Face cache. What is written has scale 1 (lora_alpha is the rank) and loads with PeftModel.from_pretrained. There is no function that applies
adapters: in recipes and everywhere that models are named, `base+adapter` is the model with the adapter applied, as in
`ingot.merge({"merge_method": "passthrough", "models": [{"model": "base+expert.lora"}]}, "out")`. docs/lora.md has the methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import byref, c_char_p
from typing import Any

from ._adapters import (
    Adapter,
    AdapterModule,
    Embeddings,
    InputOverlap,
    LoRAInspection,
    LoRAModule,
    LoRAReport,
    Others,
    WholeTensor,
)
from ._context import Path, Sync, encoded_paths
from ._engines import shared_engine
from ._errors import check
from ._library import library
from ._progress import Listener
from ._recipes import as_parameters

__all__ = [
    "Adapter",
    "AdapterModule",
    "InputOverlap",
    "LoRAInspection",
    "LoRAModule",
    "LoRAReport",
    "WholeTensor",
    "extract",
    "inspect",
    "merge",
    "resize",
]


def merge(
    method: str,
    adapters: Path | Sequence[Path],
    out: Path,
    *,
    weight: float | Sequence[float] | None = None,
    seed: int | None = None,
    dtype: Any = None,
    force: bool = False,
    sync: Sync = "all",
    progress: bool | Listener | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    isa: str | None = None,
    **parameters: Any,
) -> LoRAReport:
    """Merges adapters of one base into a new adapter.

    A module's change is ΔW = weight · scale · B A, [outputs, inputs] with A [rank, inputs] and B [outputs, rank]; no matrix of that
    size is made. A module that only some adapters change is merged from those.

    method: "linear", "cat", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune", "knots", "knots_ties", "knots_dare",
        "lego", "orthogonal" or "sequential".
    adapters: two or more, in an order that orthogonal and sequential mind.
    out: the directory to make; it appears when it is complete, and must not exist, unless `force`.
    weight: one number for all adapters, or one for each; None for 1.
    seed: of random draws; None for 0.
    dtype: of the factors, e.g. "bfloat16" or torch.float16; None for the first adapter's.
    progress: as for `ingot.merge`, but modules and whole tensors are counted, in `bytes_done` too.
    parameters: of the method: one of `rank`, `energy` (the share of Σσ² that is kept) and `norm_fraction` (the share of the spectral
        norm that may be left out), for svd, knots…, orthogonal; `density`, `majority`, `drop`, `clusters`, `start`, `reweight`. Of all
        methods `modules_to_save`: what becomes of tensors that adapters have whole, "refuse", "average", "first" or "omit".
    Other parameters as for `ingot.merge`. The result is the same for every number of threads on one machine.

    Raises InvalidArgumentError for a parameter that the method does not take, ShapeError for adapters that do not go together,
    UnsupportedError for DoRA, NotFoundError without OpenBLAS; nothing is written then.
    """
    with shared_engine(threads, memory, isa) as engine:
        return engine.merge_lora(
            method, adapters, out, weight=weight, seed=seed, dtype=dtype, force=force, sync=sync, progress=progress, **parameters
        )


def extract(
    base: Path,
    tuned: Path,
    out: Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    norm_fraction: float | None = None,
    max_rank: int | None = None,
    rules: Mapping[str, int | str] | None = None,
    skip: str | Sequence[str] | None = None,
    only: str | Sequence[str] | None = None,
    embeddings: Embeddings | None = None,
    others: Others | None = None,
    exact: bool = False,
    seed: int | None = None,
    dtype: Any = None,
    force: bool = False,
    sync: Sync = "all",
    progress: bool | Listener | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    isa: str | None = None,
) -> LoRAReport:
    """Writes the difference of a fine-tuned model and its base as an adapter.

    Weights of two axes become factors of the best approximation; what is equal in both models is left out.

    base, tuned: directories, files, names of the Hugging Face cache, each also with `+adapter`.
    rank, energy, norm_fraction: one of them is needed: the rank of every module, or the least that keeps this share of Σσ², 0 < share
        ≤ 1, or the least whose remainder has a spectral norm of at most this share of the whole's, 0 ≤ share < 1.
    max_rank: the most that energy and norm_fraction give; None for 128.
    rules: rules of their own by pattern, the first that matches counts: a rank, "energy:0.9", "fraction:0.1", "skip", "whole". Patterns,
        here and below, are globs of the module's whole name, or /regular expressions/.
    skip: patterns of modules that are left out.
    only: patterns of modules that are taken; others are left out.
    embeddings: embeddings and heads that differ are stored "whole" (None), factored ("lora"), or left out ("skip").
    others: norms, biases and other tensors that differ are stored "whole" (None), or left out ("skip").
    exact: decompose large weights exactly too, not by random projection.
    seed: of the projections; None for 0.
    dtype: of the factors; None for the fine-tuned model's.
    Other parameters as for `merge`, and errors too.
    """
    with shared_engine(threads, memory, isa) as engine:
        return engine.extract_lora(
            base,
            tuned,
            out,
            rank=rank,
            energy=energy,
            norm_fraction=norm_fraction,
            max_rank=max_rank,
            rules=rules,
            skip=skip,
            only=only,
            embeddings=embeddings,
            others=others,
            exact=exact,
            seed=seed,
            dtype=dtype,
            force=force,
            sync=sync,
            progress=progress,
        )


def resize(
    adapter: Path,
    out: Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    norm_fraction: float | None = None,
    dtype: Any = None,
    force: bool = False,
    sync: Sync = "all",
    progress: bool | Listener | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    isa: str | None = None,
) -> LoRAReport:
    """Writes an adapter at another rank: the best approximation of each module's change.

    A rank above a module's own leaves its change as it is. DoRA's magnitudes and whole tensors are carried over.

    rank, energy, norm_fraction: one of them is needed, as for `extract`.
    dtype: of the factors; None for the adapter's.
    Other parameters as for `merge`, and errors too.
    """
    with shared_engine(threads, memory, isa) as engine:
        return engine.resize_lora(
            adapter,
            out,
            rank=rank,
            energy=energy,
            norm_fraction=norm_fraction,
            dtype=dtype,
            force=force,
            sync=sync,
            progress=progress,
        )


def inspect(*adapters: Path, spectrum: bool = False) -> LoRAInspection:
    """Reads what adapters change, module by module, and of several how much the inputs that they use have in common.

    spectrum: also the singular values of every module's change.
    Raises NotFoundError without OpenBLAS.
    """
    names, count = encoded_paths(adapters)
    text = c_char_p()
    check(library.ingot_lora_inspect, as_parameters({"spectrum": spectrum or None}), names, count, byref(text))
    try:
        return LoRAInspection.from_json((text.value or b"").decode())
    finally:
        library.ingot_string_destroy(text)
