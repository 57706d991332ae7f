"""Batches of a torch model, and what it makes of them: examples, logits, losses."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ._errors import InvalidArgumentError, UnsupportedError

Loss = Callable[[Any, Any], Any]


def import_torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise UnsupportedError("collecting needs torch, which cannot be imported", hint="pip install torch") from error


def units(torch: Any, batches: Iterable[Any], per_example: bool) -> Iterator[Any]:
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


def without_labels(torch: Any, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key != "labels"}
    return batch[:-1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else batch


def mask_of(torch: Any, batch: Any) -> Any:
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    return mask.bool() if isinstance(mask, torch.Tensor) else None


def call_model(model: Any, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def scores_of(output: Any) -> Any:
    logits = getattr(output, "logits", None)
    if logits is not None:
        return logits
    return output[0] if isinstance(output, (tuple, list)) else output


def logits_of(model: Any, batch: Any) -> Any:
    return scores_of(call_model(model, batch))


def call_loss(torch: Any, model: Any, batch: Any, loss: Loss | None) -> Any:
    if loss is not None:
        return loss(model, batch)
    if isinstance(batch, Mapping):
        output = call_model(model, batch)
        own = getattr(output, "loss", None)
        if own is not None:
            return own
        labels = batch.get("labels")
    else:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            labels = None
        else:
            output, labels = call_model(model, batch[:-1]), batch[-1]
    if labels is None:
        raise InvalidArgumentError(
            "the batch has no labels, and the model gives no loss", hint="give loss=, a function of model and batch", subject="batches"
        )
    scores = scores_of(output)
    return torch.nn.functional.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels.reshape(-1), reduction="sum")


def scalar(torch: Any, loss: Any) -> Any:
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        raise InvalidArgumentError("the loss is not one number", subject="loss")
    return loss


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
