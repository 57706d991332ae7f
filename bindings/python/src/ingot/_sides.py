"""Side inputs in memory: what a recipe says of them, and the models that it names so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._errors import InvalidArgumentError
from ._recipes import BASE
from ._reports import Method, SideInput

AIM = "activation norms"

# What a side input of a single tensor may be a mapping of.
_PARTS = {"tensor_or_sums": ("row_sums", "column_sums"), "gram": ("transposed",), "output_gram": ("transposed",)}

# Forms whose tensors are called as a module: its weight's name without .weight.
_OF_MODULES = ("channels", "gram", "output_gram", "rows")

# Makes a state dict of what the caller gave for a side input of this form.
Wrapper = Callable[[str, Any], Mapping[str, Any]]


@dataclass
class Sides:
    """The side inputs of a merge, by the models' names and for the whole merge, and the state dicts by what the recipe calls them."""

    by_model: dict[str, dict[str, Any]] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    aim: dict[str, Any] | None = None
    models: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def plain(_form: str, value: Any) -> Mapping[str, Any]:
    """State dicts are what they are."""
    found: Mapping[str, Any] = value
    return found


def single(weight: str) -> Wrapper:
    """Side inputs of one tensor that is called `weight`."""

    def wrap(form: str, value: Any) -> Mapping[str, Any]:
        owned = weight.removesuffix(".weight") if form in _OF_MODULES else weight
        if not isinstance(value, Mapping):
            return {owned: value}
        parts = _PARTS.get(form, ())
        for key in value:
            if key not in parts:
                raise InvalidArgumentError(
                    f"a side input has {key!r}, expected a tensor{''.join(f' or {part}' for part in parts)}", subject="side"
                )
        return {f"{owned}.{key}": part for key, part in value.items()}

    return wrap


def weight_name(name: str | None, method: Method, side: Mapping[str, Any] | None, aim: Mapping[str, Any] | None) -> str:
    """What a single tensor is called: channels and Gram matrices belong to modules, whose weight it is then."""
    forms = [method.side_inputs[key].form for key in side or {} if key in method.side_inputs]
    needs_module = aim is not None or any(form in _OF_MODULES for form in forms)
    if name is None:
        return "tensor.weight" if needs_module else "tensor"
    if needs_module and not name.endswith(".weight"):
        raise InvalidArgumentError(
            f"the tensor is called {name}, and channels belong to the weight of a module",
            hint="call it NAME.weight, or give no name",
            subject="name",
        )
    return name


def side_inputs(
    method: Method,
    side: Mapping[str, Any] | None,
    aim: Mapping[str, Any] | None,
    keys: Sequence[Any],
    names: Sequence[str],
    *,
    base: bool,
    wrap: Wrapper,
) -> Sides:
    """Side inputs as callers give them: each a list with one for each model, or a mapping from models' keys; where the method takes
    several files, each may be a list. `keys` are the caller's keys of the models, `names` what the recipe calls them.
    """
    sides = Sides()
    by_key = dict(zip(keys, names)) | ({BASE: BASE} if base and method.base == "none" else {})
    for name, given in (side or {}).items():
        described = method.side_inputs.get(name)
        if described is None:
            takes = ", ".join(method.side_inputs)
            raise InvalidArgumentError(
                f"{method.name} has no side input {name}", hint=f"it takes {takes}" if takes else None, subject="side"
            )
        if not described.per_model:
            sides.shared[name] = _labels(sides, described, given, "the merge", wrap)
            continue
        if not isinstance(given, Mapping) and len(given) != len(names):
            raise InvalidArgumentError(
                f"side input {name} has {len(given)} entries, expected one for each of the {len(names)} models", subject="side"
            )
        for key, value in given.items() if isinstance(given, Mapping) else zip(keys, given):
            if key not in by_key:
                raise InvalidArgumentError(
                    f"side input {name} is given for {key!r}, expected one of {', '.join(map(repr, by_key))}", subject="side"
                )
            sides.by_model.setdefault(by_key[key], {})[name] = _labels(sides, described, value, by_key[key], wrap)
    if aim is not None:
        sides.aim = _aim(sides, aim, wrap)
    return sides


def _labels(sides: Sides, described: SideInput, value: Any, owner: str, wrap: Wrapper) -> Any:
    files = list(value) if isinstance(value, list | tuple) else [value]
    labels = [f"{described.name} {number} of {owner}" for number in range(len(files))]
    sides.models.update((label, wrap(described.form, one)) for label, one in zip(labels, files))
    return labels if len(labels) != 1 else labels[0]


def _aim(sides: Sides, aim: Mapping[str, Any], wrap: Wrapper) -> dict[str, Any]:
    unknown = [key for key in aim if key not in ("side", "omega", "base")]
    if unknown or "side" not in aim:
        found = f"has {unknown[0]!r}" if unknown else "has no 'side'"
        raise InvalidArgumentError(f"aim {found}, expected side, and perhaps omega and base", subject="aim")
    sides.models[AIM] = wrap("channels", aim["side"])
    made: dict[str, Any] = {"side": AIM}
    if aim.get("omega") is not None:
        made["omega"] = aim["omega"]
    if aim.get("base") is not None:
        made["base_model"] = "base of aim"
        sides.models[made["base_model"]] = wrap("tensor", aim["base"])
    return made
