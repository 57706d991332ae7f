"""benchmarks/methods at its smallest: every registered method has a merge there, and the table has what its columns say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(ROOT / "benchmarks" / "methods"), "--ingot", os.environ.get("INGOT", "ingot"), "--preset", "tiny"]
    words += ["--root", str(folder / "models"), "--work", str(folder / "work"), "--json", str(folder / "methods.json"), *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def test_a_row_for_each_method(tmp_path: Path) -> None:
    """`run` refuses before it measures when a registered method has no merge."""
    done = run(tmp_path, "--methods", "linear,ties,task_arithmetic,rcp,regmean,fisher", "--repeats", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "methods.json").read_text(encoding="utf-8"))
    names = {"linear", "ties", "task_arithmetic", "task_arithmetic, aim", "rcp", "regmean", "fisher"}
    assert set(found["methods"]) == set(found["passes"]) == names
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ") and not line.startswith("| method")]
    assert {row.split(" | ")[0].removeprefix("| ") for row in rows} == names
    passes = {name: each["passes"] for name, each in found["passes"].items()}
    assert passes["linear"] == 1
    assert passes["ties"] > 1
    for name, each in found["passes"].items():
        (plain,) = found["methods"][name]["plain"]["runs"]
        (ours,) = found["methods"][name]["ingot"]["runs"]
        assert each["read_bytes"] > 0
        assert min(plain["wall"], ours["wall"]) > 0
    left = [path.name for path in (tmp_path / "models" / "tiny").iterdir() if path.name.startswith("sides")]
    assert left == []


def test_the_bound_reads_as_often_as_it_is_told(tmp_path: Path) -> None:
    program = tmp_path / "plain_bound"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", str(program), str(ROOT / "benchmarks" / "plain_bound.c")], check=True)
    inputs = [tmp_path / "a", tmp_path / "b"]
    for path in inputs:
        path.write_bytes(bytes(1000))
    for wanted, read in (([], 2000), (["--read", "700"], 700), (["--read", "2000"], 2000), (["--read", "6100"], 6100)):
        words = [str(program), "--piece", "64", *wanted, str(tmp_path / "out"), "100", *map(str, inputs)]
        done = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        assert (done["read_bytes"], done["written_bytes"]) == (read, 100)


def test_a_method_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path, "--methods", "tyes")
    assert done.returncode != 0
    assert "'tyes' is no method of this command" in done.stderr
    assert not (tmp_path / "models").exists()
