"""Side inputs of the right shapes for the models of checkpoints.py: positive values for each element, Gram matrices, norms of channels.

`sides.py PRESET ROOT FORM` writes them into ROOT/PRESET/sides-FORM, a folder for each model, unless they are there, and prints that folder.
For a fine-tune they take as many bytes as its weights (tensor, in bfloat16) or nearly (gram, packed upper triangles in float32).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "versus_mergekit"))

import checkpoints
from checkpoints import PRESETS, Bits, Floats, Preset

OF = {"tensor": ("ft1", "ft2", "ft3"), "gram": ("ft1", "ft2", "ft3"), "channels": ("base",)}  # of which models, by form
SHARED_INPUT = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}  # modules that are given what another one is


def modules(preset: Preset) -> dict[str, int]:
    """Linear layers inside the model and the width of their inputs."""
    return {name.removesuffix(".weight"): shape[1] for name, shape in preset.tensors() if len(shape) == 2 and ".layers." in name}


def shared(module: str) -> str | None:
    """The module whose input this one is given too, where that has the Gram matrix of both."""
    block, _, kind = module.rpartition(".")
    return f"{block}.{SHARED_INPUT[kind]}" if kind in SHARED_INPUT else None


def positive(model: str, name: str, shape: tuple[int, ...]) -> Bits:
    """Squares of normal values about 1e-6 in size, as diagonal Fisher information and second moments are."""
    values = checkpoints.generator(2, model, name).standard_normal(shape, dtype=np.float32)
    values *= values
    values *= np.float32(1e-6)
    return checkpoints.to_bfloat16(values)


def packed_gram(model: str, width: int) -> Floats:
    """The upper triangle, row by row, of a well-conditioned matrix: most of what it holds is of rank 64."""
    activations = checkpoints.generator(2, model, f"gram-{width}").standard_normal((width, 64), dtype=np.float32)
    gram = activations @ activations.T
    gram /= np.float32(64)
    gram[np.arange(width), np.arange(width)] += np.float32(0.1)
    return np.concatenate([gram[row, row:] for row in range(width)])


def write_grams(directory: Path, model: str, preset: Preset) -> None:
    """One matrix for each width, under every module's name that shares no other's: what the solver does depends on sizes alone."""
    aliases = {name: other for name in modules(preset) if (other := shared(name)) is not None}
    own = {name: width for name, width in modules(preset).items() if name not in aliases}
    tensors = [(name, (width * (width + 1) // 2,)) for name, width in own.items()]
    grams = {width: packed_gram(model, width) for width in set(own.values())}
    directory.mkdir(parents=True)
    with open(directory / "gram.safetensors", "wb", buffering=0) as file:
        checkpoints.write_all(file.fileno(), checkpoints.header(tensors, "F32", kind="gram", aliases=json.dumps(aliases)))
        for width in own.values():
            checkpoints.write_all(file.fileno(), grams[width])


def write_norms(directory: Path, model: str, preset: Preset) -> None:
    tensors = [(name, (width,)) for name, width in modules(preset).items()]
    directory.mkdir(parents=True)
    with open(directory / "norms.safetensors", "wb", buffering=0) as file:
        checkpoints.write_all(file.fileno(), checkpoints.header(tensors, "F32", kind="activation_norm"))
        for name, (width,) in tensors:
            checkpoints.write_all(file.fileno(), np.abs(checkpoints.generator(2, model, name).standard_normal(width, dtype=np.float32)))


def size(preset: Preset, form: str) -> int:
    """Bytes of all models' files, without headers."""
    if form == "tensor":
        return len(OF[form]) * 2 * preset.parameters()
    if form == "channels":
        return len(OF[form]) * 4 * sum(modules(preset).values())
    own = [width for name, width in modules(preset).items() if shared(name) is None]
    return len(OF[form]) * 4 * sum(width * (width + 1) // 2 for width in own)


def make(side_root: Path, preset_name: str, form: str) -> Path:
    """Writes the side inputs of one form unless they are there, and returns their folder, which has one folder for each model."""
    directory, preset = side_root / preset_name / f"sides-{form}", PRESETS[preset_name]
    if (directory / "complete").exists():
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    needed, free = size(preset, form), shutil.disk_usage(directory).free
    if needed > free:
        have = f"methods: side inputs need {needed / 1e9:.1f} GB, {directory} has {free / 1e9:.1f} GB"
        sys.exit(f"{have}: give --sides another folder")
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for model in OF[form]:
            if form == "tensor":
                checkpoints.write_weights(directory / model, preset, partial(positive, model), pool)
            elif form == "gram":
                write_grams(directory / model, model, preset)
            else:
                write_norms(directory / model, model, preset)
    (directory / "complete").touch()
    return directory


def main() -> None:
    preset, side_root, form = sys.argv[1:4]
    print(make(Path(side_root).resolve(), preset, form))


if __name__ == "__main__":
    main()
