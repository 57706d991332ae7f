"""What `ingot.collect` takes of activations: norms and Gram matrices of the inputs of modules."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ._batches import call_model, evaluating, import_torch, mask_of, without_labels
from ._errors import InvalidArgumentError, UnsupportedError
from ._sidefiles import Chooser, Output, SideFile


def activation_norms(model: Any, batches: Iterable[Any], out: Output, *, choose: Chooser | None = None, force: bool = False) -> Path:
    """How active each input channel of each module is, for `aim` (activation-informed merging, arXiv 2502.02421): the sum over
    batches of the mean of |x| over tokens, in a tensor named as the module.

    Modules are those with `in_features` (linear layers) and those whose weight has one axis (norms). Padding that an attention_mask of the
    batch marks is left out. choose: by name, which modules; None for all. force: replace the file.
    """
    torch = import_torch()
    modules = _modules(model, choose, norms=True)
    sums = {name: torch.zeros(width_of(module), dtype=torch.float64) for name, module in modules.items()}

    def see(name: str, rows: Any) -> None:
        if len(rows):
            sums[name] += rows.abs().to(torch.float32).mean(dim=0).to("cpu", torch.float64)

    count = _watch(torch, model, modules, batches, see)
    with SideFile(torch, out, {name: tuple(values.shape) for name, values in sums.items()}, force=force) as file:
        for name, values in sums.items():
            file.tensor(name).copy_(values)
        return file.commit({"kind": "activation_norm", "samples": str(count)})


def gram_matrices(
    model: Any, batches: Iterable[Any], out: Output, *, packed: bool = False, choose: Chooser | None = None, force: bool = False
) -> Path:
    """The Gram matrix XᵀX / N of the N rows of input of each linear layer, in a tensor named as the module.

    Layers that are given one and the same tensor in the first batch (query, key and value) share a matrix: the file's metadata
    `aliases` say whose stands for whom, and later batches must agree. Of transformers' Conv1D, whose weight is stored as
    [in, out], the tensor is named MODULE.transposed. Beside the file a few rows of one matrix are in memory.

    packed: only the upper triangle, n (n + 1) / 2 values by rows, which halves the file.
    Modules, padding and other parameters as for `activation_norms`, without norms.
    """
    torch = import_torch()
    modules = _modules(model, choose, norms=False)
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise InvalidArgumentError("there are no batches, expected at least one", subject="batches")
    aliases = shared_inputs(torch, model, modules, first)
    own = {name: module for name, module in modules.items() if name not in aliases}
    names = {name: gram_name(name, module) for name, module in modules.items()}
    table = json.dumps({names[name]: names[leader] for name, leader in aliases.items()}, separators=(",", ":"))
    shapes = {names[name]: _gram_shape(width_of(module), packed) for name, module in own.items()}
    # Twice, since quotation marks are written with a backslash.
    with SideFile(torch, out, shapes, force=force, room=1024 + 2 * len(table)) as file:
        rows_of = dict.fromkeys(own, 0)

        def see(name: str, rows: Any) -> None:
            add_gram(file.tensor(names[name]), rows.to(torch.float32), packed=packed)
            rows_of[name] += len(rows)

        def chain() -> Iterator[Any]:
            yield first
            yield from iterator

        count = _watch(torch, model, own, chain(), see, shared=(modules, aliases))
        for name, rows in rows_of.items():
            if rows:
                file.tensor(names[name]).div_(rows)
        metadata = {"kind": "gram", "samples": str(count), "rows": str(max(rows_of.values(), default=0))}
        if aliases:
            metadata["aliases"] = table
        return file.commit(metadata)


def gram_name(name: str, module: Any) -> str:
    """What a module's Gram matrix is called."""
    return name + ".transposed" if is_turned(module) else name


def _gram_shape(width: int, packed: bool) -> tuple[int, ...]:
    return (width * (width + 1) // 2,) if packed else (width, width)


# Rows of a Gram matrix that are computed at once.
_PANEL = 256


def add_gram(gram: Any, rows: Any, *, packed: bool = False) -> None:
    """Adds rowsᵀ rows to a Gram matrix, whole or its packed upper triangle, a panel at a time."""
    width = rows.shape[-1]
    place = 0
    for start in range(0, width, _PANEL):
        stop = min(start + _PANEL, width)
        panel = (rows[:, start:stop].T @ (rows[:, start:] if packed else rows)).to(gram.device)
        if not packed:
            gram[start:stop].add_(panel)
            continue
        for index in range(stop - start):
            length = width - start - index
            gram[place : place + length].add_(panel[index, index:])
            place += length


def _modules(model: Any, choose: Chooser | None, *, norms: bool) -> dict[str, Any]:
    """Modules by name: linear layers, and with `norms` also those whose weight has one axis, but not those with turned weights."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        if not name or not hasattr(weight, "dim") or (choose is not None and not choose(name)):
            continue
        if _is_linear(module) or (weight.dim() == 1 if norms else is_turned(module)):
            found[name] = module
    return found


def linear_modules(model: Any) -> dict[str, Any]:
    """The modules that a Gram matrix can be taken of, by name; the model itself, where it is one, is called ""."""
    return {name: module for name, module in model.named_modules() if _is_linear(module) or is_turned(module)}


def _is_linear(module: Any) -> bool:
    weight: Any = getattr(module, "weight", None)
    return bool(hasattr(weight, "dim") and weight.dim() == 2 and getattr(module, "in_features", None) == weight.shape[1])


def is_turned(module: Any) -> bool:
    """True of transformers' Conv1D (GPT-2), a linear layer whose weight is [in, out]."""
    weight: Any = getattr(module, "weight", None)
    is_conv = type(module).__name__ == "Conv1D" and hasattr(weight, "dim") and weight.dim() == 2
    return bool(is_conv and getattr(module, "nf", None) == weight.shape[1])


def width_of(module: Any) -> int:
    """Input channels."""
    return int(module.weight.shape[0 if is_turned(module) else -1])


def outputs_of(module: Any) -> int:
    """Output channels of a linear layer."""
    return int(module.weight.shape[1 if is_turned(module) else 0])


def rows_of_input(value: Any, mask: Any, width: int) -> Any:
    """A module's input as rows of channels, without padding."""
    if mask is not None and tuple(value.shape[:-1]) == tuple(mask.shape):
        return value[mask.to(value.device)]
    return value.reshape(-1, width)


def _watch(
    torch: Any,
    model: Any,
    modules: Mapping[str, Any],
    batches: Iterable[Any],
    see: Callable[[str, Any], None],
    shared: tuple[Mapping[str, Any], Mapping[str, str]] | None = None,
) -> int:
    """Runs the model over the batches and shows `see` the inputs of modules. Returns the number of batches."""
    mask: Any = None
    latest: dict[str, Any] = {}

    def hook(name: str, width: int) -> Callable[[Any, Any], None]:
        def look(module: Any, arguments: Any) -> None:
            value = arguments[0] if arguments else None
            if isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[-1] == width:
                if shared is not None:
                    latest[name] = weakref.ref(value)
                see(name, rows_of_input(value.detach(), mask, width))

        return look

    def agree(name: str, other: str) -> Callable[[Any, Any], None]:
        def look(module: Any, arguments: Any) -> None:
            reference = latest.get(other)
            if not arguments or reference is None or reference() is not arguments[0]:
                raise UnsupportedError(
                    f"{name} and {other} had one input in the first batch, and have two now",
                    hint="leave one out with choose=",
                    subject=name,
                )

        return look

    hooks = [module.register_forward_pre_hook(hook(name, width_of(module))) for name, module in modules.items()]
    if shared is not None:
        hooks += [shared[0][name].register_forward_pre_hook(agree(name, other)) for name, other in shared[1].items()]
    count = 0
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                mask = mask_of(torch, batch)
                call_model(model, without_labels(torch, batch))
                count += 1
    finally:
        for handle in hooks:
            handle.remove()
    if count == 0:
        raise InvalidArgumentError("there are no batches, expected at least one", subject="batches")
    return count


def shared_inputs(torch: Any, model: Any, modules: Mapping[str, Any], batch: Any) -> dict[str, str]:
    """Of modules that are given the same tensor, the one that comes first stands for the others."""
    aliases: dict[str, str] = {}
    recent: list[tuple[Any, str]] = []

    def hook(name: str) -> Callable[[Any, Any], None]:
        def look(module: Any, arguments: Any) -> None:
            if not arguments:
                return
            recent[:] = [entry for entry in recent if entry[0]() is not None]
            for reference, leader in recent:
                if reference() is arguments[0] and leader != name:
                    aliases.setdefault(name, leader)
                    return
            recent.append((weakref.ref(arguments[0]), name))

        return look

    hooks = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        with evaluating(model), torch.no_grad():
            call_model(model, without_labels(torch, batch))
    finally:
        for handle in hooks:
            handle.remove()
    return aliases
