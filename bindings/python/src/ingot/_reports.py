"""What the library says of methods, checkpoints and runs, as plain values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ._errors import Position
from ._library import library


@dataclass(frozen=True)
class Parameter:
    """One parameter of a merge method. Bounds are None where there are none."""

    name: str
    summary: str
    type: str  # number, integer, boolean, choice
    default: float | int | bool | str | None
    required: bool
    per_model: bool
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    unit: str | None = None
    minimum_excluded: bool = False
    maximum_excluded: bool = False

    def __str__(self) -> str:
        traits = [" | ".join(self.choices) or self.type]
        if self.minimum_excluded or self.maximum_excluded:
            low = "" if self.minimum is None else f" {'>' if self.minimum_excluded else '>='} {self.minimum:g}"
            high = "" if self.maximum is None else f" {'<' if self.maximum_excluded else '<='} {self.maximum:g}"
            traits[0] += " and".join(filter(None, (low, high)))
        elif self.minimum is not None or self.maximum is not None:
            low = "" if self.minimum is None else f"from {self.minimum:g} "
            traits[0] += f" {low}to {self.maximum:g}" if self.maximum is not None else f" {low}on"
        if self.required:
            traits.append("required")
        elif self.default is not None:
            traits.append(f"default {json.dumps(self.default)}")
        if self.per_model:
            traits.append("per model")
        return f"{self.name} ({', '.join(traits)}): {self.summary}"


@dataclass(frozen=True)
class SideInput:
    """Tensors that a merge method reads besides the models': a file that recipes give under `side`."""

    name: str
    summary: str
    form: str  # tensor, optional_tensor, tensor_or_sums, channels, gram
    required: bool
    per_model: bool
    list: bool  # several files are taken

    def __str__(self) -> str:
        traits = [self.form, "required" if self.required else "optional"] + ["per model"] * self.per_model + ["a list"] * self.list
        return f"{self.name} ({', '.join(traits)}): {self.summary}"


@dataclass(frozen=True)
class Method:
    """A merge method: what it does, where it was published, what it takes."""

    name: str
    title: str
    summary: str
    reference: str | None
    url: str | None
    base: str  # none: a base model is one more input; optional; required
    least_models: int
    most_models: int | None  # beside the base
    scopes: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    notes: tuple[str, ...] = ()
    side_inputs: Mapping[str, SideInput] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.summary}"]
        if self.reference:
            lines.append(f"  {self.reference}" + (f", {self.url}" if self.url else ""))
        lines += [f"  {parameter}" for parameter in self.parameters.values()]
        lines += [f"  side: {side}" for side in self.side_inputs.values()]
        return "\n".join(lines + [f"  - {note}" for note in self.notes])


def _parameter(fields: dict[str, Any]) -> Parameter:
    return Parameter(
        fields["name"],
        fields["summary"],
        fields["type"],
        fields.get("default"),
        fields["required"],
        fields["per_model"],
        fields.get("min"),
        fields.get("max"),
        tuple(fields.get("choices", ())),
        fields.get("unit"),
        fields.get("min_excluded", False),
        fields.get("max_excluded", False),
    )


def _method(fields: dict[str, Any]) -> Method:
    reference = fields["reference"] or {}
    return Method(
        fields["name"],
        fields["title"],
        fields["summary"],
        reference.get("text"),
        reference.get("url"),
        fields["base"],
        fields["models"]["min"],
        fields["models"]["max"],
        tuple(fields["scopes"]),
        {parameter["name"]: _parameter(parameter) for parameter in fields["parameters"]},
        tuple(fields["notes"]),
        {side["name"]: SideInput(**side) for side in fields["side_inputs"]},
    )


_methods: dict[str, Method] | None = None


def methods() -> dict[str, Method]:
    """Every merge method by its name in recipes.

    >>> "ties" in methods()
    True
    >>> methods()["ties"].parameters["density"].default
    1
    """
    global _methods
    if _methods is None:
        _methods = {fields["name"]: _method(fields) for fields in json.loads(library.ingot_methods_json())}
    return dict(_methods)


@dataclass(frozen=True)
class Notice:
    """Something a person should know although the work went on."""

    severity: str  # info, warning
    message: str
    subject: str | None = None
    position: Position | None = None

    def __str__(self) -> str:
        return f"{self.position}: {self.message}" if self.position else self.message


def notices(items: Iterable[dict[str, Any]]) -> tuple[Notice, ...]:
    found = []
    for item in items:
        place = item.get("position")
        position = Position(place["origin"], place["line"], place["column"]) if isinstance(place, dict) else None
        found.append(Notice(item["severity"], item["message"], item.get("subject"), position))
    return tuple(found)


@dataclass(frozen=True)
class Finding:
    """A number that a method measured on a tensor."""

    tensor: str
    name: str
    value: float
    model: int | None  # the model's place in the recipe, where it is of one


@dataclass(frozen=True)
class Report:
    """What a finished run did. Bytes are bytes, seconds wall time."""

    bytes_read: int
    bytes_read_direct: int  # of those, past the page cache
    reading: str  # how the sources' bytes came, in words
    bytes_written: int
    bytes_decoded: int  # of inputs that were widened to numbers; copies leave it at 0
    seconds: float
    threads: int
    team: str
    isa: str
    blas_core: str | None  # whose kernels OpenBLAS ran; None without matrix methods
    blas_hint: str | None  # what would make matrix methods faster
    peak_memory_bytes: int  # of the budget, at once
    resumed_tensors: int  # that an earlier run had finished
    notices: tuple[Notice, ...]
    findings: tuple[Finding, ...]
    _fields: dict[str, Any] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """All that the library reported, as JSON has it."""
        return json.loads(json.dumps(self._fields))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, text: str) -> Report:
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Report:
        findings = tuple(Finding(f["tensor"], f["name"], f["value"], f.get("model")) for f in fields["findings"])
        plain = {
            name: fields[name]
            for name in (
                "bytes_read",
                "bytes_read_direct",
                "reading",
                "bytes_written",
                "bytes_decoded",
                "seconds",
                "threads",
                "team",
                "isa",
                "blas_core",
                "blas_hint",
                "peak_memory_bytes",
                "resumed_tensors",
            )
        }
        return cls(**plain, notices=notices(fields["notices"]), findings=findings, _fields=fields)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file, or one that a plan will write."""

    name: str
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    bytes: int
    file: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What the headers of a checkpoint say."""

    path: str
    parameters: int
    bytes: int
    files: tuple[str, ...]
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    notices: tuple[Notice, ...] = ()
    _fields: dict[str, Any] = field(repr=False, compare=False, default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All that the library found, as JSON has it."""
        return json.loads(json.dumps(self._fields))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, text: str) -> Checkpoint:
        fields = json.loads(text)
        return cls(
            fields["path"],
            fields["parameters"],
            fields["bytes"],
            tuple(file["name"] for file in fields["files"]),
            {item["name"]: tensor_info(item) for item in fields["tensors"]},
            notices(fields.get("notices", ())),
            fields,
        )


def tensor_info(item: dict[str, Any]) -> TensorInfo:
    return TensorInfo(item["name"], item["dtype"], tuple(item["shape"]), item["bytes"], item.get("file"))


@dataclass(frozen=True)
class Verification:
    """A directory whose tensors all have the digests in its ingot.json."""

    directory: str
    tensors: int
    bytes: int

    @classmethod
    def from_json(cls, text: str) -> Verification:
        fields = json.loads(text)
        return cls(fields["directory"], fields["tensors"], fields["bytes"])
