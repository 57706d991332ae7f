"""Side files of a torch model, for the merge methods that want more than weights.

    >>> from ingot import collect
    >>> collect.fisher(model, batches, "french_fisher.safetensors")  # doctest: +SKIP
    >>> collect.activation_norms(base, batches, "norms.safetensors")  # doctest: +SKIP

Each function runs the model over batches and writes one safetensors file (or several) for `side` or `aim` of a recipe. Sums are
kept in the file itself, which is mapped into memory: beside the model, its activations and the gradient of one parameter at a time
nothing is held. A batch is what the model takes: a mapping (of keyword arguments), a sequence whose last part is the labels, or one
tensor. The model is used where it is, in evaluation mode, and left as it was found. torch is imported when a function is called.
"""

from __future__ import annotations

import importlib
import json
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from ._errors import InvalidArgumentError, NotFoundError, UnsupportedError
from ._sidefiles import SideFile

Labels = Literal["sampled", "empirical", "exact"]
Loss = Callable[[Any, Any], Any]
Chooser = Callable[[str], bool]
Output = str | os.PathLike[str]

__all__ = ["activation_norms", "fisher", "gradients", "gram_matrices", "output_gram_matrices", "prior", "second_moments"]


def fisher(
    model: Any,
    batches: Iterable[Any],
    out: Output,
    *,
    labels: Labels = "sampled",
    loss: Loss | None = None,
    per_example: bool = True,
    choose: Chooser | None = None,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """The diagonal Fisher information of every parameter: the mean over examples of squared gradients of the log likelihood.

    labels: "sampled" draws labels from the model's own prediction, for each position of a sequence; "exact" takes the expectation over all
        classes (a backward pass for each; logits of shape (examples, classes)); "empirical" uses the labels of the batches.
    loss: with empirical labels, a function of model and batch in place of the model's own loss or the cross entropy.
    per_example: split batches into examples, whose gradients are squared one by one; False squares the gradient of each batch, which
        is faster and no longer the Fisher information.
    choose: by name, which parameters; None for all of floating point.
    seed: of the draws of labels.
    force: replace the file.
    Raises InvalidArgumentError when there are no batches, the model has gradients already or the logits do not fit.
    """
    torch = _torch()
    if labels not in ("sampled", "empirical", "exact"):
        raise InvalidArgumentError(f'labels is {labels!r}, expected "sampled", "empirical" or "exact"', subject="labels")
    if loss is not None and labels != "empirical":
        raise InvalidArgumentError(f"a loss was given, and labels are {labels}", hint='ask for labels="empirical"', subject="loss")
    parameters = _chosen(model, choose)
    generator = torch.Generator().manual_seed(seed)
    factor = 1.0

    with SideFile(torch, out, _shapes(parameters), force=force) as file, ExitStack() as stack:

        def add(name: str, gradient: Any) -> None:
            file.tensor(name).add_(gradient.detach().to("cpu", torch.float32).square(), alpha=factor)

        stack.enter_context(_evaluating(model))
        stack.enter_context(_gradients(torch, model, parameters, add))
        count = 0
        for batch in _units(torch, batches, per_example):
            count += 1
            if labels == "empirical":
                _scalar(torch, _loss(torch, model, batch, loss)).backward()
                continue
            scores, mask = _logits(model, _without_labels(torch, batch)), _mask(torch, batch)
            if labels == "exact":
                logs = torch.log_softmax(scores.float(), dim=-1)
                if logs.dim() != 2 or logs.shape[0] != 1:
                    raise InvalidArgumentError(
                        f"the logits have shape {tuple(scores.shape)}, expected one example of some classes",
                        hint='exact labels are for classifiers, one example at a time; use labels="sampled"',
                        subject="labels",
                    )
                for label in range(logs.shape[1]):
                    factor = float(logs[0, label].detach().exp())
                    logs[0, label].backward(retain_graph=label + 1 < logs.shape[1])
                continue
            _drawn(torch, scores, mask, generator).backward()
        return _finish(file, count, {"kind": "fisher", "labels": labels})


def prior(
    model: Any,
    batches: Iterable[Any],
    out: Output,
    *,
    loss: Loss | None = None,
    per_example: bool = True,
    choose: Chooser | None = None,
    force: bool = False,
) -> Path:
    """The prior of RCP-Merging (arXiv 2508.03140): the mean over examples of (gradient of the loss times weight)².

    Parameters as for `fisher` with empirical labels.
    """
    torch = _torch()
    parameters = _chosen(model, choose)
    with SideFile(torch, out, _shapes(parameters), force=force) as file, ExitStack() as stack:

        def add(name: str, gradient: Any) -> None:
            product = gradient.detach().to("cpu", torch.float32) * parameters[name].detach().to("cpu", torch.float32)
            file.tensor(name).add_(product.square_())

        stack.enter_context(_evaluating(model))
        stack.enter_context(_gradients(torch, model, parameters, add))
        count = 0
        for batch in _units(torch, batches, per_example):
            count += 1
            _scalar(torch, _loss(torch, model, batch, loss)).backward()
        return _finish(file, count, {"kind": "prior"})


def gradients(
    model: Any,
    batches: Iterable[Any],
    out: Output,
    *,
    loss: Loss | None = None,
    squared: bool = False,
    choose: Chooser | None = None,
    force: bool = False,
) -> list[Path]:
    """The gradient of the loss on each batch, or its square: one file for each, out/gradient-00000.safetensors and so on.

    RCP-Merging's samples: give it batches of one. out: a directory, made if it is not there. Other parameters as for `fisher`.
    """
    torch = _torch()
    parameters = _chosen(model, choose)
    directory = Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    with _evaluating(model):
        for number, batch in enumerate(batches):
            place = directory / f"gradient-{number:05}.safetensors"
            with SideFile(torch, place, _shapes(parameters), force=force) as file:

                def add(name: str, gradient: Any, file: SideFile = file) -> None:
                    values = gradient.detach().to("cpu", torch.float32)
                    file.tensor(name).copy_(values.square() if squared else values)

                with _gradients(torch, model, parameters, add):
                    _scalar(torch, _loss(torch, model, batch, loss)).backward()
                paths.append(file.commit({"kind": "squared_gradients" if squared else "gradients", "samples": "1"}))
    if not paths:
        raise InvalidArgumentError("there are no batches, expected at least one", subject="batches")
    return paths


def activation_norms(model: Any, batches: Iterable[Any], out: Output, *, choose: Chooser | None = None, force: bool = False) -> Path:
    """How active each input channel of each module is, for `aim` (activation-informed merging, arXiv 2502.02421): the sum over
    batches of the mean of |x| over tokens, in a tensor named as the module.

    Modules are those with `in_features` (linear layers) and those whose weight has one axis (norms). Padding that an attention_mask of the
    batch marks is left out. choose: by name, which modules; None for all. force: replace the file.
    """
    torch = _torch()
    modules = _modules(model, choose, norms=True)
    sums = {name: torch.zeros(_width(module), dtype=torch.float64) for name, module in modules.items()}

    def see(name: str, rows: Any) -> None:
        if len(rows):
            sums[name] += rows.abs().to(torch.float32).mean(dim=0).to("cpu", torch.float64)

    count = _watch(torch, model, modules, batches, see)
    with SideFile(torch, out, {name: tuple(values.shape) for name, values in sums.items()}, force=force) as file:
        for name, values in sums.items():
            file.tensor(name).copy_(values)
        return file.commit({"kind": "activation_norm", "samples": str(count)})


def gram_matrices(model: Any, batches: Iterable[Any], out: Output, *, choose: Chooser | None = None, force: bool = False) -> Path:
    """The Gram matrix XᵀX / N of the N rows of input of each linear layer, in a tensor named as the module.

    Layers that are given one and the same tensor in the first batch (query, key and value) share a matrix: the file's metadata
    `aliases` say whose stands for whom, and later batches must agree. Modules, padding and other parameters as for
    `activation_norms`, without norms.
    """
    torch = _torch()
    modules = _modules(model, choose, norms=False)
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise InvalidArgumentError("there are no batches, expected at least one", subject="batches")
    aliases = _shared_inputs(torch, model, modules, first)
    own = {name: module for name, module in modules.items() if name not in aliases}
    table = json.dumps(aliases, separators=(",", ":"))
    shapes = {name: (_width(module),) * 2 for name, module in own.items()}
    # Twice, since quotation marks are written with a backslash.
    with SideFile(torch, out, shapes, force=force, room=1024 + 2 * len(table)) as file:
        rows_of = dict.fromkeys(own, 0)

        def see(name: str, rows: Any) -> None:
            rows = rows.to(torch.float32)
            file.tensor(name).add_((rows.T @ rows).cpu())
            rows_of[name] += len(rows)

        def chain() -> Iterator[Any]:
            yield first
            yield from iterator

        count = _watch(torch, model, own, chain(), see, shared=(modules, aliases))
        for name, rows in rows_of.items():
            if rows:
                file.tensor(name).div_(rows)
        metadata = {"kind": "gram", "samples": str(count), "rows": str(max(rows_of.values(), default=0))}
        if aliases:
            metadata["aliases"] = table
        return file.commit(metadata)


def output_gram_matrices(
    model: Any,
    batches: Iterable[Any],
    out: Output,
    *,
    labels: Literal["sampled", "empirical"] = "sampled",
    loss: Loss | None = None,
    per_example: bool = True,
    choose: Chooser | None = None,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """The mean of g gᵀ over the gradients g of the log likelihood at the N rows of output of each linear layer, for `mats`.

    Beside `gram_matrices` it is the other factor of K-FAC's Fisher information. Modules, padding and other parameters as there,
    labels and loss as for `fisher`.
    """
    torch = _torch()
    if labels not in ("sampled", "empirical"):
        raise InvalidArgumentError(f'labels is {labels!r}, expected "sampled" or "empirical"', subject="labels")
    if loss is not None and labels != "empirical":
        raise InvalidArgumentError(f"a loss was given, and labels are {labels}", hint='ask for labels="empirical"', subject="loss")
    modules = _modules(model, choose, norms=False)
    weights = {name + ".weight": module.weight for name, module in modules.items()}
    shapes = {name: (int(module.weight.shape[0]),) * 2 for name, module in modules.items()}
    generator = torch.Generator().manual_seed(seed)
    rows_of = dict.fromkeys(modules, 0)
    mask: Any = None
    with SideFile(torch, out, shapes, force=force) as file, ExitStack() as stack:

        def see(name: str, gradient: Any) -> None:
            rows = _rows(gradient.detach(), mask, shapes[name][0]).to(torch.float32)
            file.tensor(name).add_((rows.T @ rows).cpu())
            rows_of[name] += len(rows)

        def hook(name: str) -> Callable[[Any, Any, Any], None]:
            def look(module: Any, arguments: Any, output: Any) -> None:
                if isinstance(output, torch.Tensor) and output.requires_grad:
                    output.register_hook(lambda gradient: see(name, gradient))

            return look

        stack.enter_context(_evaluating(model))
        stack.enter_context(_gradients(torch, model, weights, lambda name, gradient: None))
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(hook(name)).remove)
        count = 0
        for batch in _units(torch, batches, per_example):
            count += 1
            mask = _mask(torch, batch)
            if labels == "empirical":
                _scalar(torch, _loss(torch, model, batch, loss)).backward()
            else:
                _drawn(torch, _logits(model, _without_labels(torch, batch)), mask, generator).backward()
        if count == 0:
            raise InvalidArgumentError("there are no batches, expected at least one", subject="batches")
        for name, rows in rows_of.items():
            if rows:
                file.tensor(name).div_(rows)
        return file.commit({"kind": "output_gram", "labels": labels, "samples": str(count), "rows": str(max(rows_of.values(), default=0))})


def second_moments(
    model: Any, optimizer: Any, out: Output, *, sums: bool = False, choose: Chooser | None = None, force: bool = False
) -> Path:
    """Adam's second moments (`exp_avg_sq`) of a model's parameters, for `ota`.

    sums: of matrices only the sums of rows and columns, NAME.row_sums and NAME.column_sums, of which the method makes rank-one values.
    Raises NotFoundError for a parameter of which the optimizer has none: it was not trained, or the optimizer is no Adam.
    """
    torch = _torch()
    shapes: dict[str, tuple[int, ...]] = {}
    moments: dict[str, Any] = {}
    for name, parameter in _chosen(model, choose).items():
        moment = optimizer.state.get(parameter, {}).get("exp_avg_sq")
        if moment is None:
            raise NotFoundError(
                "the optimizer has no exp_avg_sq of this parameter", hint="leave it out with choose=, or train it with Adam", subject=name
            )
        moments[name] = moment
        if sums and moment.dim() == 2:
            shapes[name + ".row_sums"], shapes[name + ".column_sums"] = (moment.shape[0],), (moment.shape[1],)
        else:
            shapes[name] = tuple(moment.shape)
    with SideFile(torch, out, shapes, force=force) as file:
        for name, moment in moments.items():
            values = moment.detach()
            if name in shapes:
                file.tensor(name).copy_(values)
                continue
            for axis, part in ((1, ".row_sums"), (0, ".column_sums")):
                file.tensor(name + part).copy_(values.sum(dim=axis, dtype=torch.float64))
        return file.commit({"kind": "second_moment"})


# Batches


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise UnsupportedError("collecting needs torch, which cannot be imported", hint="pip install torch") from error


def _units(torch: Any, batches: Iterable[Any], per_example: bool) -> Iterator[Any]:
    for batch in batches:
        if not per_example:
            yield batch
            continue
        parts = list(batch.values()) if isinstance(batch, Mapping) else list(batch) if isinstance(batch, (tuple, list)) else [batch]
        sizes = {len(part) for part in parts if isinstance(part, torch.Tensor) and part.dim() > 0}
        if len(sizes) != 1:
            raise InvalidArgumentError(
                f"the tensors of a batch have {len(sizes)} different lengths, expected one: the number of its examples",
                hint="give per_example=False, or batches of one example each",
                subject="batches",
            )
        for index in range(sizes.pop()):
            yield _slice(torch, batch, index)


def _slice(torch: Any, batch: Any, index: int) -> Any:
    def part(value: Any) -> Any:
        return value[index : index + 1] if isinstance(value, torch.Tensor) and value.dim() > 0 else value

    if isinstance(batch, Mapping):
        return {key: part(value) for key, value in batch.items()}
    return [part(value) for value in batch] if isinstance(batch, (tuple, list)) else part(batch)


def _without_labels(torch: Any, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key != "labels"}
    return batch[:-1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else batch


def _mask(torch: Any, batch: Any) -> Any:
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    return mask.bool() if isinstance(mask, torch.Tensor) else None


def _call(model: Any, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def _scores(output: Any) -> Any:
    logits = getattr(output, "logits", None)
    if logits is not None:
        return logits
    return output[0] if isinstance(output, (tuple, list)) else output


def _logits(model: Any, batch: Any) -> Any:
    return _scores(_call(model, batch))


def _drawn(torch: Any, scores: Any, mask: Any, generator: Any) -> Any:
    """The log likelihood of labels that are drawn from the prediction itself, for each position that is no padding."""
    logs = torch.log_softmax(scores.float(), dim=-1)
    flat = logs.reshape(-1, logs.shape[-1])
    drawn = torch.multinomial(flat.detach().cpu().exp(), 1, generator=generator).to(flat.device)
    chosen = flat.gather(1, drawn)[:, 0]
    if mask is not None and mask.numel() == chosen.numel():
        chosen = chosen[mask.reshape(-1).to(chosen.device)]
    return chosen.sum()


def _loss(torch: Any, model: Any, batch: Any, loss: Loss | None) -> Any:
    if loss is not None:
        return loss(model, batch)
    if isinstance(batch, Mapping):
        output = _call(model, batch)
        own = getattr(output, "loss", None)
        if own is not None:
            return own
        labels = batch.get("labels")
    else:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            labels = None
        else:
            output, labels = _call(model, batch[:-1]), batch[-1]
    if labels is None:
        raise InvalidArgumentError(
            "the batch has no labels, and the model gives no loss", hint="give loss=, a function of model and batch", subject="batches"
        )
    scores = _scores(output)
    return torch.nn.functional.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels.reshape(-1), reduction="sum")


def _scalar(torch: Any, loss: Any) -> Any:
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        raise InvalidArgumentError("the loss is not one number", subject="loss")
    return loss


def _finish(file: SideFile, count: int, metadata: Mapping[str, str]) -> Path:
    if count == 0:
        raise InvalidArgumentError("there are no batches, expected at least one", subject="batches")
    for name in file.shapes:
        file.tensor(name).div_(count)
    return file.commit({**metadata, "samples": str(count)})


# Gradients


def _chosen(model: Any, choose: Chooser | None) -> dict[str, Any]:
    """Parameters of floating point by name; of those that are tied, one."""
    return {name: value for name, value in model.named_parameters() if value.is_floating_point() and (choose is None or choose(name))}


def _shapes(parameters: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in parameters.items()}


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _gradients(torch: Any, model: Any, parameters: Mapping[str, Any], add: Callable[[str, Any], None]) -> Iterator[None]:
    """Hands every gradient to `add` as soon as it is there, and drops it."""
    if any(value.grad is not None for value in model.parameters()):
        raise InvalidArgumentError("the model has gradients already", hint="call model.zero_grad(set_to_none=True)", subject="model")
    needed = {value: value.requires_grad for value in model.parameters()}
    chosen = {id(value): name for name, value in parameters.items()}
    hooks: list[Any] = []

    def take(value: Any) -> None:
        with torch.no_grad():
            add(chosen[id(value)], value.grad)
        value.grad = None

    try:
        for value in needed:
            value.requires_grad_(id(value) in chosen)
        hooks = [value.register_post_accumulate_grad_hook(take) for value in parameters.values()]
        with torch.enable_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for value, flag in needed.items():
            value.grad = None
            value.requires_grad_(flag)


# Activations


def _modules(model: Any, choose: Chooser | None, *, norms: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        dims = getattr(weight, "dim", None)
        if not name or dims is None or (choose is not None and not choose(name)):
            continue
        is_linear = dims() == 2 and getattr(module, "in_features", None) == weight.shape[1]
        if is_linear or (norms and dims() == 1):
            found[name] = module
    return found


def _width(module: Any) -> int:
    return int(module.weight.shape[-1])


def _rows(value: Any, mask: Any, width: int) -> Any:
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
                see(name, _rows(value.detach(), mask, width))

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

    hooks = [module.register_forward_pre_hook(hook(name, _width(module))) for name, module in modules.items()]
    if shared is not None:
        hooks += [shared[0][name].register_forward_pre_hook(agree(name, other)) for name, other in shared[1].items()]
    count = 0
    try:
        with _evaluating(model), torch.no_grad():
            for batch in batches:
                mask = _mask(torch, batch)
                _call(model, _without_labels(torch, batch))
                count += 1
    finally:
        for handle in hooks:
            handle.remove()
    if count == 0:
        raise InvalidArgumentError("there are no batches, expected at least one", subject="batches")
    return count


def _shared_inputs(torch: Any, model: Any, modules: Mapping[str, Any], batch: Any) -> dict[str, str]:
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
        with _evaluating(model), torch.no_grad():
            _call(model, _without_labels(torch, batch))
    finally:
        for handle in hooks:
            handle.remove()
    return aliases
