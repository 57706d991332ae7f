"""scripts/digits in short: one repetition, the reference merges, a method with each kind of side input; and its page names every method."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ingot
import pytest
from support import REPOSITORY

DIGITS = REPOSITORY / "benchmarks" / "digits"


@pytest.fixture
def run(torch: Any, tmp_path: Path) -> Any:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        source = Path(ingot.__file__).parent.parent
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(source), "INGOT_LIBRARY": str(ingot.library_path())}
        words = [sys.executable, str(DIGITS), "--out", str(tmp_path / "digits"), *arguments]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=170)

    return call


def test_accuracies_and_references(run: Any, tmp_path: Path) -> None:
    done = run("--repetitions", "1", "--methods", "uniform_soup,task_arithmetic,fisher,ota,emr")
    assert done.returncode == 0, done.stdout + done.stderr
    accuracies = {name: float(value) for name, value in re.findall(r"^  (\S+) +([0-9.]+)", done.stdout, re.M)}
    assert set(accuracies) == {"uniform_soup", "task_arithmetic", "task_arithmetic-aim", "fisher", "ota", "emr", "emr-task"}
    # Four experts that know two or three digits each: no one of them gets a third of all ten right, and their mean does.
    assert accuracies["uniform_soup"] > 60
    assert accuracies["emr-task"] > accuracies["emr"]
    compared = re.findall(r"^\| ([\w -]+?) \| ([0-9.]*) \| ([0-9.]+) \| ([0-9.]+) \| ([0-9.]+) \|$", done.stdout, re.M)
    assert {name for name, *_ in compared} == {"simple average", "task arithmetic", "TIES", "Iso-C", "TSV-M", "RegMean", "OPCM"}
    assert all(float(apart) <= 0.2 for *_, apart in compared), done.stdout
    recipe = (tmp_path / "digits" / "repetition-0" / "merges" / "fisher.yml").read_text(encoding="utf-8")
    assert "merge_method: fisher" in recipe
    assert recipe.count("side:") == 4


def test_a_method_that_is_not_there(run: Any) -> None:
    done = run("--methods", "ties,tyes")
    assert done.returncode == 2
    assert "tyes" in done.stderr
    assert "training" not in done.stdout


def test_a_difference_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A merge that is not the reference's: the command says which and fails."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.syspath_prepend(str(DIGITS))
    monkeypatch.syspath_prepend(str(DIGITS.parent))
    specification = importlib.util.spec_from_file_location("digits_main", DIGITS / "__main__.py")
    assert specification is not None
    assert specification.loader is not None
    main = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(main)
    same = main.Comparison("simple average", None, (90.0,), (90.2,), 0.19)
    other = main.Comparison("TIES", 1.0, (90.0,), (89.6,), 0.4)
    unknown = main.Comparison("OPCM", None, (float("nan"),), (89.6,), float("nan"))
    assert main.differing([same]) == []
    assert main.differing([same, other, unknown]) == ["TIES", "OPCM"]


def test_the_page_has_every_method() -> None:
    """docs/digits.md is written by scripts/digits --update: a row for each method, or why there is none."""
    text = (REPOSITORY / "docs" / "digits.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.M))
    excluded = set(re.findall(r"^\* `(\w+)` ", text, re.M))
    assert set(ingot.methods()) == rows | excluded, "run scripts/digits --update"
    assert not rows & excluded


def test_the_methods_page_has_the_accuracies(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/methods.md has the figures of docs/digits.md, under every method that is measured there."""
    monkeypatch.syspath_prepend(str(DIGITS))
    weave = importlib.import_module("weave")
    figures = weave.figures((REPOSITORY / "docs" / "digits.md").read_text(encoding="utf-8"))
    text = (REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8")
    assert len(figures) > 40
    assert figures["task_arithmetic"][0].count(" % ") == 2
    assert "; with λ " in figures["task_arithmetic"][0]
    assert text == weave.weave(text, figures), "run scripts/methods-page"
    for name, lines in figures.items():
        section = text.split(f" `{name}`\n\n")[1].split("\n## ")[0]
        assert all(line in section.splitlines() for line in lines), name
    # Another figure shows, and an old one goes.
    figures["ties"] = [weave.MARK + ": 1 %"]
    changed = weave.weave(text, figures)
    assert changed != text
    assert changed.count(weave.MARK) == sum(map(len, figures.values()))
