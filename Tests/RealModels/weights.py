"""Weight files byte by byte. The tests compare what is in the files, so no library stands between them and the bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]


class Tensor(NamedTuple):
    """One tensor of a file: a view of the file's bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: Bytes

    @property
    def floats(self) -> Floats:
        """The values of a float32 tensor."""
        assert self.dtype == "F32", self.dtype
        return self.data.view("<f4").reshape(self.shape)


def files_of(model: Path) -> list[Path]:
    return [model] if model.is_file() else sorted(model.glob("*.safetensors"))


def read_file(path: Path, writable: bool = False) -> dict[str, Tensor]:
    """The tensors of one file, in the file's order; with `writable` a change of a tensor changes the file."""
    content: Bytes = np.memmap(path, dtype=np.uint8, mode="r+" if writable else "r")
    length = int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0])):
        begin, end = entry["data_offsets"]
        tensors[name] = Tensor(entry["dtype"], tuple(entry["shape"]), content[8 + length + begin : 8 + length + end])
    return tensors


def read(model: Path) -> dict[str, Tensor]:
    """The tensors of a model directory, or of one file."""
    tensors: dict[str, Tensor] = {}
    for path in files_of(model):
        for name, tensor in read_file(path).items():
            assert name not in tensors, f"{name} is in two files of {model}"
            tensors[name] = tensor
    return tensors


def header_bytes(tensors: Mapping[str, tuple[str, Iterable[int], int]]) -> bytes:
    """The header of a file of these tensors: dtype, shape and bytes of each."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, count) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + count]}
        end += count
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_model(folder: Path, tensors: Mapping[str, Floats], config: Mapping[str, object]) -> Path:
    """A model directory with one float32 file."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header_bytes({name: ("F32", value.shape, value.nbytes) for name, value in tensors.items()}))
        for value in tensors.values():
            file.write(value.astype("<f4").tobytes())
    return folder


def copy_model(model: Path, folder: Path) -> Path:
    """A copy with plain, writable files."""
    shutil.copytree(model, folder, copy_function=shutil.copyfile)
    return folder


def perturbed(model: Path, folder: Path, share: float, seed: int) -> Path:
    """A copy in which every float tensor has noise added whose norm is `share` of the tensor's own."""
    copy_model(model, folder)
    generator = np.random.default_rng(seed)
    for path in files_of(folder):
        for tensor in read_file(path, writable=True).values():
            if tensor.dtype != "F32":
                continue
            values = tensor.floats
            noise = generator.standard_normal(values.shape, dtype=np.float32)
            length = float(np.linalg.norm(noise))
            if length > 0:
                noise *= share * float(np.linalg.norm(values)) / length
                values += noise
    return folder


def output_files(folder: Path) -> dict[str, bytes]:
    """Every file of an output with its bytes, but for ingot.json: it tells of the run, and may differ between equal merges."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "ingot.json":
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found
