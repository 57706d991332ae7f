"""Variables of the environment and numbers on the command line that nobody means."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run

Models = dict[str, Path]
Write = Callable[[str], Path]

HUGE = ["", " ", "0", "-1", "0x10", "8E", "2147483647", "9223372036854775807", "99999999999999999999", "true", "{", ","]
# LLVM's OpenMP runtime ends the process over some value of each.
FATAL = [
    *[("OMP_NUM_THREADS", value) for value in HUGE],
    *[("OMP_STACKSIZE", value) for value in ["2147483647", "999999G", "99999999999999999999", ""]],
    *[("KMP_STACKSIZE", value) for value in ["8E", "999999G"]],
    ("KMP_STACKOFFSET", "9223372036854775807"),
    ("KMP_AFFINITY", "9223372036854775807"),
    ("KMP_CPUINFO_FILE", "/nowhere"),
    ("KMP_FORKJOIN_BARRIER", ""),
    ("KMP_FORCE_REDUCTION", "x"),
    ("KMP_GTID_MODE", "0"),
    ("KMP_SPIN_BACKOFF_PARAMS", ""),
    ("OMP_PLACES", "9223372036854775807"),
    ("OMP_PROC_BIND", "9223372036854775807"),
]


@pytest.fixture
def linear(recipe: Write, models: Models) -> Path:
    return recipe(f"merge_method: linear\nmodels: [{{model: {models['a']}}}, {{model: {models['b']}}}]\nparameters: {{weight: 1}}\n")


@pytest.mark.parametrize(("name", "value"), FATAL)
def test_no_variable_ends_the_process(ingot: Run, linear: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    done = ingot("merge", linear, "--threads", "3", "--sink", "null")
    assert done.returncode == 0, done.stderr
    assert "OMP" not in done.stderr
    said = json.loads(ingot("doctor", "--json").stdout)
    assert name in said["team"]["reason"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("OMP_NUM_THREADS", "2"), ("OMP_NUM_THREADS", " 3 , 2"), ("OMP_STACKSIZE", "1M"), ("OMP_STACKSIZE", " 512 "), ("KMP_BLOCKTIME", "1")],
)
def test_ordinary_variables_leave_openmp(ingot: Run, linear: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    done = ingot("merge", linear, "--threads", "3", "--sink", "null", "--team", "openmp")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", ["ro", "size=4k,nr_inodes=1"])
def test_no_shared_memory_ends_the_process(linear: Path, tmp_path: Path, options: str) -> None:
    """A container without a /dev/shm that can be written to."""
    script = f'mount -t tmpfs -o {options} tmpfs /dev/shm && "$@"'
    words = ["unshare", "-rm", "sh", "-c", script, "sh"]
    if subprocess.run([*words, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system does not let a test mount a file system of its own")
    words += [os.environ.get("INGOT", "ingot"), "merge", str(linear), "--threads", "3", "--sink", "null"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "OMP" not in done.stderr


def test_no_layout_of_a_machine_takes_for_ever(ingot: Run, linear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWLOC_SYNTHETIC", "numa:2 core:500000000 pu:1")
    # It goes on without a layout, and doctor says why.
    assert ingot("merge", linear, "--sink", "null").returncode == 0
    said = ingot("doctor")
    assert "HWLOC_SYNTHETIC" in said.stdout
    monkeypatch.setenv("HWLOC_SYNTHETIC", "numa:2 core:2 pu:1")
    assert ingot("merge", linear, "--sink", "null").returncode == 0
    assert "2 nodes" in ingot("doctor").stdout


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("option", ["--memory", "--threads", "--shard-size", "--seed", "--part"])
def test_no_number_ends_the_process(ingot: Run, linear: Path, tmp_path: Path, option: str, value: str) -> None:
    done = ingot("merge", linear, "out", option, value)
    if done.returncode:
        assert done.stderr.strip()
        assert not (tmp_path / "out").exists()
