"""LoRA adapters: what is in them, what became of one that was written, and how an engine writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from ctypes import byref
from dataclasses import dataclass, field
from typing import Any, Literal

from . import _ffi
from ._context import Context, Path, Sync, encoded_paths, synchronisation
from ._dtypes import output_dtype
from ._library import library
from ._progress import Listener
from ._recipes import as_parameters
from ._reports import Notice, notices

Embeddings = Literal["whole", "lora", "skip"]
Others = Literal["whole", "skip"]


@dataclass(frozen=True)
class LoRAModule:
    """A module of an adapter that was written. `relative_error` is ‖wanted − made‖ / ‖wanted‖ before rounding; None where wanted is 0."""

    name: str
    outputs: int
    inputs: int
    rank: int
    norm: float  # of the change B A, Frobenius
    relative_error: float | None


@dataclass(frozen=True)
class LoRAReport:
    """An adapter that was written. Bytes are of its weights, seconds wall time."""

    output: str
    bytes: int
    modules: Mapping[str, LoRAModule]
    whole_tensors: int  # that take the place of the model's
    seconds: float
    threads: int
    workspace_bytes: int  # the most matrix memory of one worker
    notices: tuple[Notice, ...]
    _fields: dict[str, Any] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """All that the library reported, as JSON has it."""
        return json.loads(json.dumps(self._fields))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, text: str) -> LoRAReport:
        fields = json.loads(text)
        run = fields["run"]
        return cls(
            fields["output"],
            fields["bytes"],
            {module["name"]: LoRAModule(**module) for module in fields["modules"]},
            fields["whole_tensors"],
            run["seconds"],
            run["threads"],
            run["workspace_bytes"],
            notices(fields["notices"]),
            fields,
        )


@dataclass(frozen=True)
class AdapterModule:
    """What an adapter changes of one module: ΔW = scale · B A, [outputs, inputs]."""

    name: str
    embedding: bool  # the factors are named as those of an embedding
    outputs: int
    inputs: int
    rank: int
    alpha: float
    scale: float  # alpha / rank, or alpha / √rank (rsLoRA)
    dtype: str  # as safetensors names it
    bias: bool
    norm: float  # of ΔW, Frobenius
    singular_values: tuple[float, ...] | None = None  # of ΔW, descending, where they were asked for


@dataclass(frozen=True)
class WholeTensor:
    """A tensor of an adapter that takes the place of the model's."""

    name: str
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Adapter:
    """What an adapter holds. Of DoRA, norms are those of the change before the magnitudes."""

    name: str  # as it was asked for
    path: str
    base: str | None  # as its config names it
    parameters: int
    norm: float  # over all modules
    use_dora: bool
    modules: Mapping[str, AdapterModule]
    whole_tensors: Mapping[str, WholeTensor]
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True)
class InputOverlap:
    """How much the inputs that two adapters use have in common: ‖Aᵢ Aⱼᵀ‖ / (‖Aᵢ‖ ‖Aⱼ‖), 0 for nothing, over modules that both change."""

    first: str
    second: str
    modules: int
    mean: float
    largest: float


@dataclass(frozen=True)
class LoRAInspection:
    """Adapters, in the order that they were asked for, and the overlap of each two that change a common module."""

    adapters: tuple[Adapter, ...]
    overlaps: tuple[InputOverlap, ...]
    _fields: dict[str, Any] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """All that the library found, as `ingot lora inspect --json` prints it."""
        return json.loads(json.dumps(self._fields))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, text: str) -> LoRAInspection:
        fields = json.loads(text)
        return cls(tuple(map(_adapter, fields["adapters"])), tuple(InputOverlap(**overlap) for overlap in fields["overlaps"]), fields)


def _adapter(fields: dict[str, Any]) -> Adapter:
    return Adapter(
        fields["name"],
        fields["path"],
        fields["base"],
        fields["parameters"],
        fields["norm"],
        fields["use_dora"],
        {module["name"]: _adapter_module(module) for module in fields["modules"]},
        {tensor["name"]: WholeTensor(tensor["name"], tensor["dtype"], tuple(tensor["shape"])) for tensor in fields["whole_tensors"]},
        notices(fields["notices"]),
    )


def _adapter_module(fields: dict[str, Any]) -> AdapterModule:
    values = fields.get("singular_values")
    return AdapterModule(**{**fields, "singular_values": None if values is None else tuple(values)})


class AdapterMerges(Context):
    """The part of an Engine that writes adapters."""

    def merge_lora(
        self,
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
        **parameters: Any,
    ) -> LoRAReport:
        """See `ingot.lora.merge`."""
        names, count = encoded_paths(adapters)
        return self._write_adapter(
            library.ingot_lora_merge,
            method.encode(),
            _parameters(dtype, {**parameters, "weight": weight, "seed": seed}),
            names,
            count,
            os.fsencode(out),
            force=force,
            sync=sync,
            progress=progress,
        )

    def extract_lora(
        self,
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
    ) -> LoRAReport:
        """See `ingot.lora.extract`."""
        parameters: dict[str, Any] = {
            "rank": rank,
            "energy": energy,
            "norm_fraction": norm_fraction,
            "max_rank": max_rank,
            "rules": rules,
            "skip": _patterns(skip),
            "only": _patterns(only),
            "embeddings": embeddings,
            "others": others,
            "exact": exact or None,
            "seed": seed,
        }
        return self._write_adapter(
            library.ingot_lora_extract,
            _parameters(dtype, parameters),
            os.fsencode(base),
            os.fsencode(tuned),
            os.fsencode(out),
            force=force,
            sync=sync,
            progress=progress,
        )

    def resize_lora(
        self,
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
    ) -> LoRAReport:
        """See `ingot.lora.resize`."""
        return self._write_adapter(
            library.ingot_lora_resize,
            _parameters(dtype, {"rank": rank, "energy": energy, "norm_fraction": norm_fraction}),
            os.fsencode(adapter),
            os.fsencode(out),
            force=force,
            sync=sync,
            progress=progress,
        )

    def _write_adapter(self, function: Any, *arguments: Any, force: bool, sync: Sync, progress: bool | Listener | None) -> LoRAReport:
        way = synchronisation(sync)
        flags = _ffi.INGOT_RUN_OVERWRITE if force else 0
        with self._report() as text, self._call(progress) as call:
            call.run(function, self._pointer, *arguments, byref(text), call.options(flags, way))
            return LoRAReport.from_json((text.value or b"").decode())


def _parameters(dtype: Any, given: Mapping[str, Any]) -> bytes:
    return as_parameters({**given, "dtype": None if dtype is None else output_dtype(dtype).torch})


def _patterns(given: str | Sequence[str] | None) -> list[str] | None:
    if given is None:
        return None
    return [given] if isinstance(given, str) else list(given)
