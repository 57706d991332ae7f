"""The command on architectures of the field. INGOT_COMMAND names it; else it is the one built in this repository."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent.parent
Shapes = dict[str, tuple[int, ...]]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def command() -> str:
    named = os.environ.get("INGOT_COMMAND")
    if named:
        return str(Path(named).resolve())
    for build in ["release", "debug"]:
        path = ROOT / ".build" / build / "ingot"
        if path.exists():
            return str(path)
    raise FileNotFoundError("no ingot command: build it, or set INGOT_COMMAND")


@pytest.fixture(scope="session")
def ingot() -> Run:
    path = command()

    def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, f"exit code {done.returncode}: {done.stderr}"
        return done

    return run


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)


def saved_shapes(model: transformers.PreTrainedModel) -> Shapes:
    """The state dict without what is tied to something else in it."""
    tied = set(model.all_tied_weights_keys)
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}


def write_headers(directory: Path, config: Mapping[str, Any], shapes: Shapes) -> Path:
    """A checkpoint whose header is real and whose numbers are a hole in the file."""
    directory.mkdir(parents=True)
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 2
        for extent in shape:
            size *= extent
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def planned_shapes(run: Run, recipe: Path) -> Shapes:
    plan = json.loads(run("plan", "--json", recipe).stdout)
    return {tensor["name"]: tuple(tensor["shape"]) for tensor in plan["tensors"]}
