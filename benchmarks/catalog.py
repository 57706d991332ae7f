"""The merge methods as Ingot lists them, and recipes made from what they say of themselves.

benchmarks/digits and benchmarks/methods run every registered method and take it from here, so that a new one is measured without a line of
theirs where its defaults will do.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Value = float | int | bool | str


@dataclass(frozen=True)
class Side:
    """A side input: `form` says what its tensors look like, as in docs/side-inputs.md."""

    name: str
    form: str
    required: bool
    per_model: bool
    is_list: bool


@dataclass(frozen=True)
class Method:
    """A registered method: what it takes."""

    name: str
    base: str  # required, optional, or none: a base would be one more input
    least: int  # models beside the base
    most: int | None
    defaults: Mapping[str, Value | None]  # by parameter; None where there is no default
    required: frozenset[str]  # parameters
    sides: tuple[Side, ...]

    @property
    def works_on_matrices(self) -> bool:
        """Whether whole matrices are factorised or solved for: time is arithmetic there, not passes over the data."""
        return any(side.form == "gram" for side in self.sides) or not {"embeddings", "rest"}.isdisjoint(self.defaults)


def methods(command: str | Path) -> dict[str, Method]:
    """Every method that `command` offers, in its order."""
    listed = json.loads(subprocess.run([str(command), "methods", "--json"], check=True, stdout=subprocess.PIPE).stdout)["methods"]
    return {entry["name"]: _method(entry) for entry in listed}


def of_package() -> dict[str, Method]:
    """The same of the Python package, whose library must be there."""
    import ingot

    return {
        name: Method(
            name=name,
            base=method.base,
            least=method.least_models,
            most=method.most_models,
            defaults={each.name: each.default for each in method.parameters.values()},
            required=frozenset(each.name for each in method.parameters.values() if each.required),
            sides=tuple(Side(each.name, each.form, each.required, each.per_model, each.list) for each in method.side_inputs.values()),
        )
        for name, method in ingot.methods().items()
    }


def _method(entry: Mapping[str, object]) -> Method:
    models, parameters, sides = entry["models"], entry["parameters"], entry["side_inputs"]
    assert isinstance(models, dict)
    assert isinstance(parameters, list)
    assert isinstance(sides, list)
    return Method(
        name=str(entry["name"]),
        base=str(entry["base"]),
        least=int(models["min"]),
        most=None if models["max"] is None else int(models["max"]),
        defaults={parameter["name"]: parameter["default"] for parameter in parameters},
        required=frozenset(parameter["name"] for parameter in parameters if parameter["required"]),
        sides=tuple(Side(side["name"], side["form"], side["required"], side["per_model"], side["list"]) for side in sides),
    )


@dataclass(frozen=True)
class Merge:
    """A merge of `models` in order: `by_model` and `sides` have one entry for each of them, `shared_sides` has what is for all."""

    method: str
    models: Sequence[Path]
    base: Path | None = None
    parameters: Mapping[str, Value] = field(default_factory=dict)
    by_model: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    sides: Mapping[str, Sequence[Path | Sequence[Path] | None]] = field(default_factory=dict)
    shared_sides: Mapping[str, Path | Sequence[Path]] = field(default_factory=dict)
    aim: Path | None = None
    dtype: str = "float32"

    def recipe(self) -> str:
        lines = [f"merge_method: {self.method}"]
        if self.base is not None:
            lines.append(f"base_model: {_flow(self.base)}")
        lines.append("models:")
        for index, model in enumerate(self.models):
            lines.append(f"  - model: {_flow(model)}")
            values = {name: each[index] for name, each in self.by_model.items()}
            if values:
                lines.append(f"    parameters: {_flow(values)}")
            files = {name: each[index] for name, each in self.sides.items() if each[index] is not None}
            if files:
                lines.append(f"    side: {_flow(files)}")
        if self.parameters:
            lines.append(f"parameters: {_flow(self.parameters)}")
        if self.shared_sides:
            lines.append(f"side: {_flow(self.shared_sides)}")
        if self.aim is not None:
            lines.append(f"aim: {_flow({'side': self.aim})}")
        return "\n".join([*lines, f"dtype: {self.dtype}"]) + "\n"


def _flow(value: object) -> str:
    """JSON, which YAML reads."""
    return json.dumps(value, default=lambda other: list(other) if isinstance(other, tuple) else str(other))


def missing(method: Method, given: Iterable[str], sides: Iterable[str]) -> list[str]:
    """What the method must be given and is not: parameters and side inputs."""
    lacking = sorted(method.required - set(given))
    return lacking + [f"side input {side.name}" for side in method.sides if side.required and side.name not in set(sides)]
