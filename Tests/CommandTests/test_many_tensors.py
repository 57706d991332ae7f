"""Plans of very many tensors stay small. The checkpoints are headers in front of holes: they take no space on the disk."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
from conftest import CONFIG

TENSORS, SHARDS = 100_000, 20
LIMIT_BYTES = 300 << 20


def write_headers(folder: Path) -> Path:
    """100,000 tensors of a mixture of experts in 20 shards: names as long as real ones."""
    folder.mkdir()
    share = TENSORS // SHARDS
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        entries: dict[str, object] = {}
        for number in range(shard * share, (shard + 1) * share):
            kind = ("gate", "up", "down", "gate_up")[number % 4]
            name = f"model.layers.{number // 1000}.mlp.experts.{number % 1000 // 4}.{kind}_proj.weight"
            start = (number - shard * share) * 128
            entries[name] = {"dtype": "BF16", "shape": [8, 8], "data_offsets": [start, start + 128]}
            weight_map[name] = file
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as output:
            output.write(struct.pack("<Q", len(text)) + text)
            output.truncate(8 + len(text) + share * 128)
    index = {"metadata": {"total_size": TENSORS * 128}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 100}), encoding="utf-8")
    return folder


def peak_bytes(arguments: list[str], output: Path) -> int:
    """Peak resident memory of one run of the command, whose standard output goes to a file."""
    command = os.environ.get("INGOT", "ingot")
    with output.open("wb") as file:
        process = os.posix_spawnp(command, [command, *arguments], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), 1)])
        _, status, usage = os.wait4(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return usage.ru_maxrss * 1024


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_headers(tmp_path_factory.mktemp("many") / "large")


@pytest.mark.parametrize("form", [["--json"], ["--rows", "5"], []], ids=["json", "short table", "table"])
def test_plan(large: Path, tmp_path: Path, form: list[str]) -> None:
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"merge_method: linear\nmodels: [{{model: {large}, parameters: {{weight: 1}}}}]\n", encoding="utf-8")
    peak = peak_bytes(["plan", str(recipe), *form], tmp_path / "plan")
    assert peak < LIMIT_BYTES, f"{peak >> 20} MiB"
    if form == ["--json"]:
        document = json.loads((tmp_path / "plan").read_text(encoding="utf-8"))
        assert len(document["tensors"]) == TENSORS


def test_inspect(large: Path, tmp_path: Path) -> None:
    peak = peak_bytes(["inspect", str(large), "--json"], tmp_path / "inspection")
    assert peak < LIMIT_BYTES, f"{peak >> 20} MiB"
    assert len(json.loads((tmp_path / "inspection").read_text(encoding="utf-8"))["tensors"]) == TENSORS
