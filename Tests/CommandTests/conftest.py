"""Small checkpoints made by hand, byte by byte, and the command to try on them. INGOT names the command."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

Array = npt.NDArray[np.float32]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

LAYERS = 2
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (32, 8),
    **{f"model.layers.{layer}.mlp.up_proj.weight": (24, 8) for layer in range(LAYERS)},
    **{f"model.layers.{layer}.input_layernorm.weight": (8,) for layer in range(LAYERS)},
    "lm_head.weight": (32, 8),
}
CONFIG = {
    "architectures": ["TestForCausalLM"],
    "model_type": "test",
    "num_hidden_layers": LAYERS,
    "vocab_size": 32,
    "hidden_size": 8,
    "tie_word_embeddings": False,
}


def header_bytes(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def safetensors(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """A well-formed float32 file."""
    entries: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
    data = b""
    for name, value in tensors.items():
        raw = value.astype("<f4").tobytes()
        entries[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(entries)
    return header_bytes(text + " " * (-len(text) % 8)) + data


def read(directory: Path) -> dict[str, Array]:
    """The float32 tensors of a model directory."""
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                assert entry["dtype"] == "F32"
                begin, end = entry["data_offsets"]
                values = np.frombuffer(data[8 + length + begin : 8 + length + end], dtype="<f4")
                tensors[name] = values.reshape(entry["shape"])
    return tensors


def make_tensors(seed: int) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def write_model(directory: Path, tensors: Mapping[str, Array], **config: object) -> Path:
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(safetensors(tensors))
    (directory / "config.json").write_text(json.dumps({**CONFIG, **config}), encoding="utf-8")
    return directory


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """`base`, `a` and `b`, well-formed."""
    return {name: write_model(tmp_path / name, make_tensors(seed)) for seed, name in enumerate(("base", "a", "b"))}


@pytest.fixture
def ingot(tmp_path: Path) -> Run:
    """Runs the command in `tmp_path`; it must end by itself, and not by a signal."""
    command = os.environ.get("INGOT", "ingot")

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        words = [command, *map(str, arguments)]
        environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "NO_COLOR": "1"}
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode >= 0, f"ended by signal {-done.returncode}: {' '.join(words)}\n{done.stderr}"
        assert "Fatal error" not in done.stderr
        return done

    return run


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a recipe's text and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "recipe.yml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
