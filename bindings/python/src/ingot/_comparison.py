"""What `ingot.diff` finds, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ._reports import Notice, notices


@dataclass(frozen=True)
class ValueDifference:
    """How the values of two tensors of one shape differ. Pairs with NaN or infinity count in `nonfinite_a` and `nonfinite_b` only."""

    largest_difference: float
    rms_difference: float
    cosine: float | None  # None where a norm is 0
    norm_a: float
    norm_b: float
    norm_ratio: float | None  # of b to a
    largest_ulps: int  # in units of the last place of ulp_dtype
    ulp_dtype: str
    nonfinite_a: int
    nonfinite_b: int


@dataclass(frozen=True)
class TaskVectorDifference:
    """How the differences of two tensors to the base's differ."""

    norm_a: float
    norm_b: float
    cosine: float | None
    changed_a: int  # elements that a changed
    changed_b: int
    changed_in_both: int
    sign_conflicts: int  # that a and b changed in opposite directions
    conflict_share: float | None  # of those that both changed


@dataclass(frozen=True)
class TensorDifference:
    """One tensor of both checkpoints. `values` are None where shapes differ or types have no arithmetic; elements are counted where
    they could be compared."""

    name: str
    equal: bool
    dtype_a: str
    dtype_b: str
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    differing_elements: int | None
    differing_share: float | None
    values: ValueDifference | None
    task_vectors: TaskVectorDifference | None


@dataclass(frozen=True)
class LoneTensor:
    """A tensor that one of the checkpoints lacks."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class FileDifference:
    """A configuration or tokenizer file that differs: kind is "only_a", "only_b" or "changed"; changes are (key, in a, in b), both as
    JSON text, None where the key is absent."""

    name: str
    kind: str
    changes: tuple[tuple[str, str | None, str | None], ...]


@dataclass(frozen=True)
class ComparisonSummary:
    """All tensors of both checkpoints as if they were one. Conflicts are None without a base."""

    tensors: int
    equal_tensors: int
    elements: int
    differing_elements: int
    largest_difference: float
    rms_difference: float
    largest_ulps: int
    sign_conflicts: int | None = None
    changed_in_both: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints side by side. Tensors stand in the order of their largest difference, those that cannot be compared first."""

    a: str
    b: str
    base: str | None
    equal: bool
    summary: ComparisonSummary
    tensors: Mapping[str, TensorDifference] = field(repr=False)
    only_a: tuple[LoneTensor, ...] = ()
    only_b: tuple[LoneTensor, ...] = ()
    files: tuple[FileDifference, ...] = ()
    notices: tuple[Notice, ...] = ()
    _fields: dict[str, Any] = field(repr=False, compare=False, default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All that the library found, as `ingot diff --json` prints it."""
        return json.loads(json.dumps(self._fields))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        fields = json.loads(text)
        return cls(
            fields["a"],
            fields["b"],
            fields["base"],
            fields["equal"],
            ComparisonSummary(**fields["summary"]),
            {item["name"]: _tensor(item) for item in fields["tensors"]},
            tuple(_lone(item) for item in fields["only_a"]),
            tuple(_lone(item) for item in fields["only_b"]),
            tuple(_file(item) for item in fields["files"]),
            notices(fields["notices"]),
            fields,
        )


def _tensor(item: dict[str, Any]) -> TensorDifference:
    values, vectors = item.get("values"), item.get("task_vectors")
    return TensorDifference(
        item["name"],
        item["equal"],
        item["dtype_a"],
        item["dtype_b"],
        tuple(item["shape_a"]),
        tuple(item["shape_b"]),
        item["differing_elements"],
        item["differing_share"],
        None if values is None else ValueDifference(**values),
        None if vectors is None else TaskVectorDifference(**vectors),
    )


def _lone(item: dict[str, Any]) -> LoneTensor:
    return LoneTensor(item["name"], item["dtype"], tuple(item["shape"]))


def _file(item: dict[str, Any]) -> FileDifference:
    return FileDifference(item["name"], item["kind"], tuple((change["key"], change["a"], change["b"]) for change in item["changes"]))
