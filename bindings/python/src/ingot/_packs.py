"""What a delta pack holds, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ._reports import Notice, notices


@dataclass(frozen=True)
class PackTask:
    """One model of a pack. `relative_error` is ‖τ − unpacked τ‖ / ‖τ‖, measured while packing; `kept_elements` only compeft counts."""

    name: str
    relative_error: float
    kept_elements: int | None = None


@dataclass(frozen=True)
class PackForm:
    """How many tensors a pack has in one form: ternary, signs, whole, masked."""

    form: str
    tensors: int
    elements: int


@dataclass(frozen=True)
class Pack:
    """What a pack holds. `bytes` are the file's, `parts` say where they go."""

    path: str
    method: str
    base_name: str
    base_digest: str
    parameters: Mapping[str, Any]
    tasks: tuple[PackTask, ...]
    elements: int
    bytes: int
    coded_bytes_per_task: int
    forms: tuple[PackForm, ...]
    parts: Mapping[str, int]
    notices: tuple[Notice, ...] = ()
    _fields: dict[str, Any] = field(repr=False, compare=False, default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All that the library found, as `ingot delta inspect --json` prints it."""
        return json.loads(json.dumps(self._fields))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, text: str) -> Pack:
        fields = json.loads(text)
        return cls(
            fields["path"],
            fields["method"],
            fields["base_name"],
            fields["base_digest"],
            fields["parameters"],
            tuple(PackTask(**task) for task in fields["tasks"]),
            fields["elements"],
            fields["bytes"],
            fields["coded_bytes_per_task"],
            tuple(PackForm(**form) for form in fields["forms"]),
            fields["parts"],
            notices(fields["notices"]),
            fields,
        )
