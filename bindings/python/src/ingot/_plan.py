"""Plans: all that a merge will do, settled before it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref
from typing import Any

from . import _ffi
from ._dtypes import BY_CODE, DType
from ._errors import check
from ._handles import Handle
from ._library import library
from ._reports import Notice, TensorInfo, notices, tensor_info
from ._tensors import Loan


class Model:
    """A model made of tensors in memory. Its loan must outlive every plan that is made with it."""

    def __init__(self, name: str, tensors: Loan, config: str | None = None) -> None:
        options = _ffi.ingot_model_options(config_json=None if config is None else config.encode())
        pointer = POINTER(_ffi.ingot_model)()
        check(
            library.ingot_model_create,
            name.encode(),
            tensors.array(),
            len(tensors),
            byref(pointer),
            byref(options),
        )
        self.handle = Handle(pointer, library.ingot_model_destroy)
        self.loan = tensors


class Plan:
    """What a merge will do: which tensors, from where, to where. `repr` is a table; `ingot.merge(plan, out)` runs it.

    A plan made of tensors in memory keeps them alive, and reads them when it runs.
    """

    def __init__(self, pointer: Any, models: Sequence[Model]) -> None:
        self._handle = Handle(pointer, library.ingot_plan_destroy)
        self._models = tuple(models)
        self._fields: dict[str, Any] | None = None

    @property
    def pointer(self) -> Any:
        return self._handle.pointer

    @property
    def digest(self) -> str:
        """32 hexadecimal digits, equal for equal work: paths, threads, memory and instruction set do not count."""
        return str(library.ingot_plan_digest(self.pointer).decode())

    @property
    def method(self) -> str:
        """The merge method's name."""
        return str(self._json()["method"])

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensors it gives, by name."""
        return {item["name"]: tensor_info(item) for item in self._json()["tensors"]}

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What a person should know before it runs."""
        return notices(self._json()["notices"])

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return json.loads(library.ingot_plan_json(self.pointer))  # type: ignore[no-any-return]

    def _json(self) -> dict[str, Any]:
        if self._fields is None:
            self._fields = self.to_dict()
        return self._fields

    def __repr__(self) -> str:
        return str(library.ingot_plan_table(self.pointer).decode())

    def outputs(self) -> list[tuple[str, DType, tuple[int, ...]]]:
        """Name, type and shape of every tensor it gives, without the detour through JSON."""
        found = []
        view = _ffi.ingot_tensor_view()
        for index in range(library.ingot_plan_tensor_count(self.pointer)):
            check(library.ingot_plan_tensor, self.pointer, index, byref(view))
            name = view.name.decode("utf-8", "surrogateescape")
            found.append((name, BY_CODE[view.dtype], tuple(view.shape[: view.rank])))
        return found
