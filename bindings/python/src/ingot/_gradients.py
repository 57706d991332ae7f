"""What `ingot.collect` takes of gradients: Fisher information, priors, samples, and an optimizer's second moments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from ._activations import gram_name, linear_modules, outputs_of, rows_of_input
from ._batches import Loss, call_loss, evaluating, import_torch, logits_of, mask_of, scalar, units, without_labels
from ._errors import InvalidArgumentError, NotFoundError
from ._sidefiles import Chooser, Output, SideFile

Labels = Literal["sampled", "empirical", "exact"]


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
    torch = import_torch()
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

        stack.enter_context(evaluating(model))
        stack.enter_context(_gradients(torch, model, parameters, add))
        count = 0
        for batch in units(torch, batches, per_example):
            count += 1
            if labels == "empirical":
                scalar(torch, call_loss(torch, model, batch, loss)).backward()
                continue
            scores, mask = logits_of(model, without_labels(torch, batch)), mask_of(torch, batch)
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
    torch = import_torch()
    parameters = _chosen(model, choose)
    with SideFile(torch, out, _shapes(parameters), force=force) as file, ExitStack() as stack:

        def add(name: str, gradient: Any) -> None:
            product = gradient.detach().to("cpu", torch.float32) * parameters[name].detach().to("cpu", torch.float32)
            file.tensor(name).add_(product.square_())

        stack.enter_context(evaluating(model))
        stack.enter_context(_gradients(torch, model, parameters, add))
        count = 0
        for batch in units(torch, batches, per_example):
            count += 1
            scalar(torch, call_loss(torch, model, batch, loss)).backward()
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
    torch = import_torch()
    parameters = _chosen(model, choose)
    directory = Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    with evaluating(model):
        for number, batch in enumerate(batches):
            place = directory / f"gradient-{number:05}.safetensors"
            with SideFile(torch, place, _shapes(parameters), force=force) as file:

                def add(name: str, gradient: Any, file: SideFile = file) -> None:
                    values = gradient.detach().to("cpu", torch.float32)
                    file.tensor(name).copy_(values.square() if squared else values)

                with _gradients(torch, model, parameters, add):
                    scalar(torch, call_loss(torch, model, batch, loss)).backward()
                paths.append(file.commit({"kind": "squared_gradients" if squared else "gradients", "samples": "1"}))
    if not paths:
        raise InvalidArgumentError("there are no batches, expected at least one", subject="batches")
    return paths


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

    Beside `gram_matrices` it is the other factor of K-FAC's Fisher information. Modules, names, padding and other parameters as there,
    labels and loss as for `fisher`.
    """
    torch = import_torch()
    if labels not in ("sampled", "empirical"):
        raise InvalidArgumentError(f'labels is {labels!r}, expected "sampled" or "empirical"', subject="labels")
    if loss is not None and labels != "empirical":
        raise InvalidArgumentError(f"a loss was given, and labels are {labels}", hint='ask for labels="empirical"', subject="loss")
    modules = {name: module for name, module in linear_modules(model).items() if name and (choose is None or choose(name))}
    names = {name: gram_name(name, module) for name, module in modules.items()}
    weights = {name + ".weight": module.weight for name, module in modules.items()}
    widths = {name: outputs_of(module) for name, module in modules.items()}
    shapes = {names[name]: (width, width) for name, width in widths.items()}
    generator = torch.Generator().manual_seed(seed)
    rows_of = dict.fromkeys(modules, 0)
    mask: Any = None
    with SideFile(torch, out, shapes, force=force) as file, ExitStack() as stack:

        def see(name: str, gradient: Any) -> None:
            rows = rows_of_input(gradient.detach(), mask, widths[name]).to(torch.float32)
            file.tensor(names[name]).add_((rows.T @ rows).cpu())
            rows_of[name] += len(rows)

        def hook(name: str) -> Callable[[Any, Any, Any], None]:
            def look(module: Any, arguments: Any, output: Any) -> None:
                if isinstance(output, torch.Tensor) and output.requires_grad:
                    output.register_hook(lambda gradient: see(name, gradient))

            return look

        stack.enter_context(evaluating(model))
        stack.enter_context(_gradients(torch, model, weights, lambda name, gradient: None))
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(hook(name)).remove)
        count = 0
        for batch in units(torch, batches, per_example):
            count += 1
            mask = mask_of(torch, batch)
            if labels == "empirical":
                scalar(torch, call_loss(torch, model, batch, loss)).backward()
            else:
                _drawn(torch, logits_of(model, without_labels(torch, batch)), mask, generator).backward()
        if count == 0:
            raise InvalidArgumentError("there are no batches, expected at least one", subject="batches")
        for name, rows in rows_of.items():
            if rows:
                file.tensor(names[name]).div_(rows)
        return file.commit({"kind": "output_gram", "labels": labels, "samples": str(count), "rows": str(max(rows_of.values(), default=0))})


def second_moments(
    model: Any, optimizer: Any, out: Output, *, sums: bool = False, choose: Chooser | None = None, force: bool = False
) -> Path:
    """Adam's second moments (`exp_avg_sq`) of a model's parameters, for `ota`.

    sums: of matrices only the sums of rows and columns, NAME.row_sums and NAME.column_sums, of which the method makes rank-one values.
    Raises NotFoundError for a parameter of which the optimizer has none: it was not trained, or the optimizer is no Adam.
    """
    torch = import_torch()
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


def _drawn(torch: Any, scores: Any, mask: Any, generator: Any) -> Any:
    """The log likelihood of labels that are drawn from the prediction itself, for each position that is no padding."""
    logs = torch.log_softmax(scores.float(), dim=-1)
    flat = logs.reshape(-1, logs.shape[-1])
    drawn = torch.multinomial(flat.detach().cpu().exp(), 1, generator=generator).to(flat.device)
    chosen = flat.gather(1, drawn)[:, 0]
    if mask is not None and mask.numel() == chosen.numel():
        chosen = chosen[mask.reshape(-1).to(chosen.device)]
    return chosen.sum()


def _finish(file: SideFile, count: int, metadata: Mapping[str, str]) -> Path:
    if count == 0:
        raise InvalidArgumentError("there are no batches, expected at least one", subject="batches")
    for name in file.shapes:
        file.tensor(name).div_(count)
    return file.commit({**metadata, "samples": str(count)})


def _chosen(model: Any, choose: Chooser | None) -> dict[str, Any]:
    """Parameters of floating point by name; of those that are tied, one."""
    return {name: value for name, value in model.named_parameters() if value.is_floating_point() and (choose is None or choose(name))}


def _shapes(parameters: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in parameters.items()}


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
