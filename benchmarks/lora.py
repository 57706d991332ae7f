#!/usr/bin/env python3
"""Times `ingot lora merge` on adapters over the layers of a 1.1B-parameter Llama (22 layers, hidden 2048, intermediate 5632).

    benchmarks/lora.py [--ingot PATH] [--adapters 4] [--rank 16] [--folder DIRECTORY] [METHOD...]

Prints, for each method, the seconds of the whole command (best of 3), what the engine says of them, and the matrix memory of a worker.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HIDDEN, INTERMEDIATE, KEYS, LAYERS = 2048, 5632, 256, 22
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KEYS, HIDDEN), "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INTERMEDIATE, HIDDEN), "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}  # fmt: skip
METHODS = ["linear", "cat", "svd", "knots", "knots_ties", "knots_dare", "lego", "ties", "dare_ties", "orthogonal"]


def write_adapter(folder: Path, seed: int, rank: int) -> Path:
    draw = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for name, (outputs, inputs) in SHAPES.items():
            stem = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{stem}.lora_A.weight"] = draw.standard_normal((rank, inputs), np.float32)
            tensors[f"{stem}.lora_B.weight"] = 0.02 * draw.standard_normal((outputs, rank), np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": sorted({name.split(".")[1] for name in SHAPES})}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ingot", default="ingot")
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("methods", nargs="*", default=METHODS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        adapters = [str(write_adapter(folder / f"lora{seed}", seed, options.rank)) for seed in range(options.adapters)]
        for method in options.methods:
            command = [
                options.ingot,
                "lora",
                "merge",
                "-m",
                method,
                *adapters,
                "-o",
                str(folder / "out"),
                "--force",
                "--sync",
                "none",
                "--json",
            ]
            best, report = float("inf"), {}
            for _ in range(options.repeats):
                start = time.perf_counter()
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                best = min(best, time.perf_counter() - start)
                report = json.loads(done.stdout)
            ranks = {module["rank"] for module in report["modules"]}
            print(
                f"{method:16} {best:7.2f} s, {len(report['modules'])} modules of rank {max(ranks)}, {report['run']['threads']} threads, "
                f"{report['run']['workspace_bytes'] / 2**20:.1f} MiB of matrices in one worker"
            )


if __name__ == "__main__":
    main()
