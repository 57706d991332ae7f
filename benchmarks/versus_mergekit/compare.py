"""Compares merged checkpoints: `compare.py [--bytes-only] NAME=DIR...`, where our names begin with "ingot".

Outputs of ours must hold the same bytes under every setting. Against the peer's the values are compared: it rounds
to bfloat16 after every step and we round once, so neighbours are expected. More than that is seen where terms cancel (a step is
tiny near zero) and, with ties, where rounded differences lie at the threshold.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

Tensors = dict[str, npt.NDArray[np.uint16]]


def load(directory: Path) -> Tensors:
    """Every tensor of a bfloat16 checkpoint as its bits, mapped."""
    tensors: Tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        data = np.memmap(path, dtype=np.uint8, mode="r")
        length = int(data[:8].view("<u8")[0])
        for name, entry in json.loads(bytes(data[8 : 8 + length])).items():
            if name == "__metadata__":
                continue
            if entry["dtype"] != "BF16":
                sys.exit(f"{path}: tensor '{name}' is {entry['dtype']}, not BF16")
            begin, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(data, dtype="<u2", count=(end - begin) // 2, offset=8 + length + begin)
    return tensors


def steps_apart(a: npt.NDArray[np.uint16], b: npt.NDArray[np.uint16]) -> npt.NDArray[np.int32]:
    """How many representable bfloat16 numbers lie between the two."""

    def ordered(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.int32]:
        wide = bits.astype(np.int32)
        return np.where(wide & 0x8000, -(wide & 0x7FFF), wide)

    apart: npt.NDArray[np.int32] = np.abs(ordered(a) - ordered(b))
    return apart


def main() -> int:
    arguments = [argument for argument in sys.argv[1:] if argument != "--bytes-only"]
    outputs = {name: load(Path(path)) for name, path in (argument.split("=", 1) for argument in arguments)}
    names = [name for name in outputs if name.startswith("ingot")]
    failed = False
    for name in names[1:]:
        same = outputs[name].keys() == outputs[names[0]].keys() and all(
            np.array_equal(values, outputs[name][tensor]) for tensor, values in outputs[names[0]].items()
        )
        print(f"{name} and {names[0]}: {'the same bytes' if same else 'DIFFERENT BYTES'}")
        failed |= not same
    if names and "mergekit" in outputs and "--bytes-only" not in sys.argv:
        peer = outputs["mergekit"]
        if peer.keys() != outputs[names[0]].keys():
            print(f"mergekit and {names[0]}: different tensors: {sorted(peer.keys() ^ outputs[names[0]].keys())[:5]}")
            return 1
        counts = np.zeros(4, dtype=np.int64)
        for tensor, values in outputs[names[0]].items():
            steps = np.minimum(steps_apart(values, peer[tensor]), 3)
            counts += np.bincount(steps, minlength=4)
        share = 100 * counts / counts.sum()
        print(
            f"mergekit and {names[0]}: equal {share[0]:.2f} %, one bfloat16 step apart {share[1]:.2f} %, "
            f"two {share[2]:.2f} %, more {share[3]:.2f} %"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
