"""Tensors of the caller's: lent to the library as models, and made or taken for its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ._dtypes import OUTPUTS, DType, output_dtype
from ._errors import InvalidArgumentError
from ._plan import Model, Plan
from ._tensors import Loan, framework

Tensor = TypeVar("Tensor")
StateDict = Mapping[str, Tensor]


def items(given: Sequence[Any] | Mapping[Any, Any]) -> Any:
    return given.items() if isinstance(given, Mapping) else enumerate(given)


def lent(name: str, tensors: StateDict[Any], config: str | None = None) -> Model:
    if not isinstance(tensors, Mapping):
        raise TypeError(f"{name} is a {type(tensors).__name__}, expected a mapping from names to tensors")
    loan = Loan()
    for key, tensor in tensors.items():
        loan.borrow(key, tensor)
    return Model(name, loan, config)


def asked_dtype(asked: Any, outputs: Sequence[DType]) -> DType | None:
    """The type to ask the plan for: the caller's, else the one that all outputs have; None for the plan's own choice."""
    if asked is not None:
        return output_dtype(asked)
    found = {dtype for dtype in outputs if dtype in OUTPUTS}
    return found.pop() if len(found) == 1 else None


def prototype(key: str, order: Sequence[StateDict[Any]]) -> Any:
    """The caller's tensor that an output takes after."""
    for tensors in order:
        if key in tensors:
            return tensors[key]
    return next(iter(order[0].values()))


def allocate(plan: Plan, order: Sequence[StateDict[Any]], outputs: Loan) -> dict[str, Any]:
    """New tensors for what the plan gives, in the order of the first model."""
    wanted = {name: (dtype, shape) for name, dtype, shape in plan.outputs()}
    keys = [key for key in order[0] if key in wanted]
    keys += [key for key in wanted if key not in order[0]]
    result: dict[str, Any] = {}
    for key in keys:
        dtype, shape = wanted[key]
        like = prototype(key, order)
        result[key] = framework(like).empty(dtype, shape, like)
        outputs.borrow(key, result[key], output=True)
    return result


def given(plan: Plan, out: StateDict[Any]) -> dict[str, Any]:
    """The caller's outputs, none of which may be left as it is; the library checks the rest."""
    names = {name for name, _, _ in plan.outputs()}
    extra = [key for key in out if key not in names]
    if extra:
        raise InvalidArgumentError(f"out has {len(extra)} tensor{'s' * (len(extra) > 1)} that the merge does not give", subject=extra[0])
    return dict(out)
