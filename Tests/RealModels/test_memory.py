"""Memory is a setting: what a merge holds does not grow with the model, and the setting does not change its bytes."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import synthetic
from conftest import Command
from weights import Bytes

MEBIBYTE = 1 << 20
LAYERS = 7
SHAPES: synthetic.Shapes = {
    "model.embed_tokens.weight": (32_000, 1024),
    **synthetic.layered(
        LAYERS,
        {
            **{f"self_attn.{name}_proj.weight": (1024, 1024) for name in "qkvo"},
            **{f"mlp.{name}_proj.weight": (2816, 1024) for name in ("gate", "up")},
            "mlp.down_proj.weight": (1024, 2816),
            "input_layernorm.weight": (1024,),
        },
    ),
    "model.norm.weight": (1024,),
    "lm_head.weight": (32_000, 1024),
}
# What a merge may hold beside its budget: code and runtime, the plan, stacks, and what it allocates once for each tensor.
ROOM = {"64MiB": 64 + 60, "": 300}


@pytest.fixture(scope="module")
def models(session_folder: Path) -> list[Path]:
    return [synthetic.large(session_folder / f"large-{name}", SHAPES, LAYERS, seed) for seed, name in enumerate(["base", "a", "b"])]


def peak_anonymous(process: subprocess.Popen[str]) -> int:
    """The most anonymous memory seen while the process runs, in bytes."""
    peak = 0
    pattern = re.compile(rb"^RssAnon:\s*(\d+) kB", re.M)
    with Path(f"/proc/{process.pid}/status").open("rb", buffering=0) as status:
        while process.poll() is None:
            status.seek(0)
            try:
                text = status.read()
            except ProcessLookupError:
                break
            if match := pattern.search(text):
                peak = max(peak, int(match.group(1)) * 1024)
            time.sleep(0.002)
    return peak


def test_the_model_is_larger_than_any_budget(models: list[Path]) -> None:
    assert all((model / "model.safetensors").stat().st_size > 300e6 for model in models)


def peak_of_merge(ingot: Command, *arguments: object) -> int:
    process = ingot.start("merge", *arguments, "--sync", "none")
    peak = peak_anonymous(process)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    print(f"{peak / MEBIBYTE:.0f} MiB: {' '.join(map(str, arguments))}")
    # A process that was not seen at work would have held nothing.
    assert peak > 2 * MEBIBYTE
    return peak


def weights_of(out: Path) -> Bytes:
    return np.memmap(out / "model.safetensors", dtype=np.uint8, mode="r")


def test_every_method_is_measured(ingot: Command) -> None:
    listed = {method["name"] for method in json.loads(ingot("methods", "--json").stdout)["methods"]}
    assert listed == {words[1] for words in synthetic.METHODS.values()} | synthetic.OTHERS


@pytest.mark.parametrize("method", synthetic.METHODS)
def test_peak_memory(ingot: Command, models: list[Path], folder: Path, method: str) -> None:
    outputs = []
    for budget, most in ROOM.items():
        out = folder / f"out{budget}"
        options = ["-o", out, *(["--memory", budget] if budget else [])]
        peak = peak_of_merge(ingot, *synthetic.arguments(method, models), *options)
        assert peak <= most * MEBIBYTE, f"{peak / MEBIBYTE:.1f} MiB with {budget or 'the default budget'}, expected at most {most}"
        outputs.append(weights_of(out))
    assert np.array_equal(*outputs)


def test_many_workers_share_the_budget(ingot: Command, models: list[Path], folder: Path) -> None:
    """More workers and more models than the budget has tables for: they take turns, and the result is the same."""
    base, *others = models
    links = [folder / f"model-{number}" for number in range(8)]
    for number, link in enumerate(links):
        link.symlink_to(others[number % len(others)])
    merge = ["-m", "ties", "-b", base, *(f"{link}=0.2" for link in links), "-p", "density=0.4"]
    for name, options in (("few", ["--threads", "2"]), ("many", ["--threads", "32", "--memory", "64MiB"])):
        peak = peak_of_merge(ingot, *merge, "-o", folder / name, *options)
    assert peak <= ROOM["64MiB"] * MEBIBYTE, f"{peak / MEBIBYTE:.1f} MiB"
    assert np.array_equal(weights_of(folder / "few"), weights_of(folder / "many"))
