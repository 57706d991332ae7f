"""What the tests share: small models, files of them, and programs in interpreters of their own."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[3]

# A multiple of nothing: three blocks of 65,536 elements and a rest; one axis; three axes; no axis.
SHAPES: dict[str, tuple[int, ...]] = {
    "embed.weight": (811, 243),
    "norm.weight": (4099,),
    "conv.weight": (7, 11, 13),
    "scale": (),
}


def state(seed: int, dtype: str = "float32", scale: float = 1.0) -> dict[str, np.ndarray]:
    """A small model of normally distributed weights, and one tensor of integers."""
    generator = np.random.default_rng(seed)
    tensors = {name: np.asarray(generator.standard_normal(shape) * scale, dtype=dtype) for name, shape in SHAPES.items()}
    tensors["positions"] = np.arange(17, dtype="int64")
    return tensors


def near(base: dict[str, np.ndarray], seed: int, scale: float = 0.05) -> dict[str, np.ndarray]:
    """A fine-tune of `base`."""
    change = state(seed, scale=scale)
    return {name: (value + change[name]).astype(value.dtype) if value.dtype.kind == "f" else value.copy() for name, value in base.items()}


_NAMES = {"float32": "F32", "float64": "F64", "float16": "F16", "int64": "I64"}


_times = itertools.count(1_000_000_000)


def write(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Writes a safetensors file by hand. No two have one modification time, as files do that are written right after one another."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, value in tensors.items():
        header[name] = {"dtype": _NAMES[value.dtype.name], "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            file.write(value.tobytes())
    time = next(_times)
    os.utime(path, (time, time))
    return path


def save(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Writes a model directory: safetensors, and a config."""
    path.mkdir(parents=True)
    write(path / "model.safetensors", tensors)
    (path / "config.json").write_text(json.dumps({"model_type": "test", "architectures": ["Test"]}))
    return path


def load(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file of the types above."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    kinds = {value: key for key, value in _NAMES.items()}
    return {
        name: np.frombuffer(data[8 + size + entry["data_offsets"][0] : 8 + size + entry["data_offsets"][1]], kinds[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def run_python(code: str, *arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in an interpreter of its own, with this package."""
    spec = importlib.util.find_spec("ingot")
    assert spec is not None
    assert spec.origin is not None
    path = str(Path(spec.origin).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def output_of(code: str, *arguments: str, **environment: str) -> str:
    """Its stdout; what it said on stderr fails the test when it failed."""
    done = run_python(code, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
