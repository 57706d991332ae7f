"""Safetensors files of side tensors, filled in place: the file is the memory, so that sums over a model need none of their own."""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ._errors import ExistsError, InvalidArgumentError

Output = str | os.PathLike[str]
# By name, whether a parameter or a module is wanted.
Chooser = Callable[[str], bool]


class SideFile:
    """A file of float32 tensors that begin as zeros. It has its name only after `commit`; until then it is PATH.partial.

    `tensor(name)` is a torch tensor over the file's own bytes: adding to it changes the file.
    """

    def __init__(
        self, torch: Any, path: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]], *, force: bool, room: int = 1024
    ) -> None:
        """`room` is how many bytes the metadata may take."""
        self.path = Path(path)
        if self.path.exists() and not force:
            raise ExistsError("the file exists already", hint="give another name, or force=True to replace it", subject=str(self.path))
        if self.path.suffix != ".safetensors":
            raise InvalidArgumentError("the name does not end in .safetensors", subject=str(self.path))
        if not shapes:
            raise InvalidArgumentError("there is nothing to collect: no tensor of the model was chosen", subject=str(self.path))
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._torch = torch
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._offsets: dict[str, int] = {}
        self._size = 0
        for name, shape in self.shapes.items():
            self._offsets[name] = self._size
            self._size += 4 * math.prod(shape)
        # What is left over is spaces, which the format allows.
        self._room = len(self._header({})) + room
        self._room += -self._room % 8
        with open(self._partial, "wb") as file:
            file.truncate(8 + self._room + self._size)
        self._file = open(self._partial, "r+b")  # noqa: SIM115
        self._map = mmap.mmap(self._file.fileno(), 8 + self._room + self._size)

    def _header(self, metadata: Mapping[str, str]) -> bytes:
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        for name, shape in self.shapes.items():
            begin = self._offsets[name]
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, begin + 4 * math.prod(shape)]}
        return json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()

    def tensor(self, name: str) -> Any:
        """A view of a tensor's place; let go of it before `commit`."""
        shape = self.shapes[name]
        count = math.prod(shape)
        if count == 0:
            return self._torch.zeros(shape)
        place = 8 + self._room + self._offsets[name]
        return self._torch.frombuffer(self._map, dtype=self._torch.float32, count=count, offset=place).view(shape)

    def commit(self, metadata: Mapping[str, str]) -> Path:
        """Writes the header, puts the bytes on the disk and gives the file its name."""
        text = self._header(metadata)
        if len(text) > self._room:
            raise InvalidArgumentError(f"the metadata take {len(text)} bytes, there is room for {self._room}", subject=str(self.path))
        self._map[: 8 + self._room] = struct.pack("<Q", self._room) + text.ljust(self._room)
        self._map.flush()
        self._close()
        os.replace(self._partial, self.path)
        return self.path

    def _close(self) -> None:
        with contextlib.suppress(BufferError):  # somebody still holds a view; the memory goes with it
            self._map.close()
        self._file.close()

    def __enter__(self) -> SideFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._file.closed:
            self._close()
            self._partial.unlink(missing_ok=True)
