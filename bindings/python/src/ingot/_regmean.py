"""RegMean++: RegMean whose Gram matrices are collected layer by layer behind what is merged already."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ._activations import add_gram, gram_name, linear_modules, rows_of_input, width_of
from ._batches import call_model, evaluating, import_torch, mask_of, without_labels
from ._engine import Engine
from ._engines import shared_engine
from ._errors import InvalidArgumentError
from ._lending import items


def regmean_plus_plus(
    models: Sequence[Any] | Mapping[str, Any],
    batches: Sequence[Iterable[Any]] | Mapping[str, Iterable[Any]],
    *,
    layers: str | Sequence[str] | None = None,
    weight: Any = 1.0,
    reduce_non_diagonal_ratio: float = 0.95,
    ridge: float = 1e-6,
    threads: int | None = None,
    memory: int | str | None = None,
    isa: str | None = None,
) -> Any:
    """Merges torch models of one architecture by RegMean++ (arXiv 2508.03121). Returns a new torch model.

    What is in no layer (embeddings, final norm, head) takes the weighted mean. Then, from the first layer to the last, each model's
    own batches run through the layers that are merged already, and their result through that model's layer, whose linear modules'
    inputs give its Gram matrices; with them the layer is merged by the method `regmean`. Parameters of a layer that are no weight
    of a linear module take the weighted mean; buffers are those of the first model.

    In memory are the models, the merged one, and the Gram matrices of one layer of every model. A batch runs through the merged
    model once for each layer, up to that layer. The models are used where they are, in evaluation mode, and left as they were found.

    models: a list, or a mapping whose keys may be used in `weight`.
    batches: for each model a list of batches of its own task, which is gone through once for each layer. A batch is what the model
        takes, as in `ingot.collect`; padding that an attention_mask marks is left out.
    layers: the name of a torch.nn.ModuleList or Sequential, or names of modules in the order in which the model runs them; None for
        the ModuleList with the most parameters.
    weight: factor of the model's Gram matrices and of its share of a mean: one value, a list, or a mapping from models' keys.
    reduce_non_diagonal_ratio, ridge: as of the method `regmean`.
    Raises InvalidArgumentError for models of different parameters, for batches that are missing, empty or can be gone through only
    once, and for layers that are not there or that a batch does not reach.
    """
    torch = import_torch()
    members: dict[Any, Any] = dict(items(models))
    own_batches: dict[Any, Iterable[Any]] = dict(items(batches))
    _check(members, own_batches)
    merged = copy.deepcopy(next(iter(members.values())))
    names = _layer_names(torch, merged, layers)
    settings = {"weight": weight, "reduce_non_diagonal_ratio": reduce_non_diagonal_ratio, "ridge": ridge}
    with shared_engine(threads, memory, isa) as engine, ExitStack() as stack, torch.no_grad():
        for model in (merged, *members.values()):
            stack.enter_context(evaluating(model))
        inside = tuple(f"{name}." for name in names)
        rest = [name for name, _ in merged.named_parameters() if not name.startswith(inside)]
        _merge(engine, merged, members, rest, {}, {"weight": weight})
        for name in names:
            grams = {key: _grams(torch, merged, model, name, own_batches[key]) for key, model in members.items()}
            own = [parameter for parameter, _ in merged.named_parameters() if parameter.startswith(f"{name}.")]
            _merge(engine, merged, members, own, grams, settings)
    return merged


def _check(models: Mapping[Any, Any], batches: Mapping[Any, Iterable[Any]]) -> None:
    if not models:
        raise InvalidArgumentError("there are no models, expected at least one", subject="models")
    if batches.keys() != models.keys():
        given = ", ".join(map(repr, batches)) or "no model"
        raise InvalidArgumentError(f"batches are given for {given}, expected {', '.join(map(repr, models))}", subject="batches")
    for key, own in batches.items():
        if isinstance(own, Iterator):
            raise InvalidArgumentError(f"the batches of model {key!r} can be gone through once only", hint="give a list", subject="batches")
    shapes = [{name: tuple(value.shape) for name, value in model.named_parameters()} for model in models.values()]
    for key, found in zip(models, shapes):
        for name in sorted(found.keys() | shapes[0].keys()):
            if found.get(name) != shapes[0].get(name):
                raise InvalidArgumentError(
                    f"the parameter has shape {found.get(name)} in model {key!r}, and {shapes[0].get(name)} in the first", subject=name
                )


def _layer_names(torch: Any, model: Any, layers: str | Sequence[str] | None) -> list[str]:
    modules = dict(model.named_modules())
    if layers is None:
        lists = {name: module for name, module in modules.items() if isinstance(module, torch.nn.ModuleList) and len(module) > 0}
        if not lists:
            raise InvalidArgumentError("the model has no ModuleList of layers", hint="name the layers: layers=[…]", subject="layers")
        # Of lists inside each other (experts of a layer) the outer one has more.
        layers = max(lists, key=lambda name: sum(value.numel() for value in lists[name].parameters()))
    if isinstance(layers, str):
        if not isinstance(modules.get(layers), torch.nn.ModuleList | torch.nn.Sequential):
            raise InvalidArgumentError(f"the model has no list of layers {layers!r}", subject="layers")
        layers = [f"{layers}.{number}" for number in range(len(modules[layers]))]
    for name in layers:
        if name not in modules or not name:
            raise InvalidArgumentError(f"the model has no layer {name!r}", subject="layers")
    for name in layers:
        outer = [other for other in layers if name.startswith(f"{other}.")]
        if outer or list(layers).count(name) > 1:
            raise InvalidArgumentError(f"the layer {name!r} is named twice, or inside {', '.join(outer)}", subject="layers")
    return list(layers)


class _Reached(Exception):
    """The layer that is looked at is about to run."""


def _grams(torch: Any, merged: Any, model: Any, name: str, batches: Iterable[Any]) -> dict[str, Any]:
    """XᵀX / N of the inputs of a layer's linear modules in `model`, given the inputs that the merged model has for that layer."""
    layer = model.get_submodule(name)
    modules = {f"{name}.{part}" if part else name: module for part, module in linear_modules(layer).items()}
    grams: dict[str, Any] = {}
    counts = dict.fromkeys(modules, 0)
    mask: Any = None
    reached: list[tuple[Any, Any]] = []

    def stop(_module: Any, arguments: Any, keywords: Any) -> None:
        reached.append((arguments, keywords))
        raise _Reached

    def watch(module_name: str, module: Any) -> Any:
        label, width = gram_name(module_name, module), width_of(module)
        grams[label] = torch.zeros(width, width)

        def look(_module: Any, arguments: Any) -> None:
            rows = rows_of_input(arguments[0].detach(), mask, width).to(torch.float32)
            add_gram(grams[label], rows)
            counts[module_name] += len(rows)

        return look

    hooks = [module.register_forward_pre_hook(watch(module_name, module)) for module_name, module in modules.items()]
    hooks.append(merged.get_submodule(name).register_forward_pre_hook(stop, with_kwargs=True))
    count = 0
    try:
        for batch in batches:
            count += 1
            mask = mask_of(torch, batch)
            try:
                call_model(merged, without_labels(torch, batch))
            except _Reached:
                arguments, keywords = reached.pop()
                layer(*arguments, **keywords)
                continue
            raise InvalidArgumentError(f"a batch does not reach the layer {name!r}", subject="layers")
    finally:
        for hook in hooks:
            hook.remove()
    if count == 0:
        raise InvalidArgumentError("there are no batches, expected at least one", subject="batches")
    for module_name, rows in counts.items():
        if rows:
            grams[gram_name(module_name, modules[module_name])].div_(rows)
    return grams


def _merge(
    engine: Engine,
    merged: Any,
    models: Mapping[Any, Any],
    names: Sequence[str],
    grams: Mapping[Any, Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> None:
    """Merges some parameters into the merged model: by regmean where there are Gram matrices, else their weighted mean."""
    if not names:
        return
    parameters = {key: dict(model.named_parameters()) for key, model in models.items()}
    # Integers cannot be averaged; they are those of the first model.
    wanted = [name for name in names if parameters[next(iter(models))][name].is_floating_point()]
    states = {key: {name: own[name].detach().cpu() for name in wanted} for key, own in parameters.items()}
    if any(grams.values()):
        result = engine.merge_state_dicts("regmean", states, side={"gram": dict(grams)}, **settings)
    else:
        result = engine.merge_state_dicts("linear", states, weight=settings["weight"])
    targets = dict(merged.named_parameters())
    for name, value in result.items():
        targets[name].copy_(value)
