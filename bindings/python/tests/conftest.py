"""Fixtures. Needed: pytest, numpy. What needs torch, tqdm or the command skips without it and says so."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY, near, save, state


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture
def command() -> str:
    """The `ingot` command: INGOT, else PATH's, else a build's."""
    chosen = os.environ.get("INGOT") or shutil.which("ingot")
    built = REPOSITORY / ".build" / "release" / "ingot"
    if not chosen and built.exists():
        chosen = str(built)
    if not chosen:
        pytest.skip("there is no ingot command: set INGOT, or build it")
    return chosen


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """Three model directories: a base and two fine-tunes of it."""
    base = state(0)
    return {
        "base": save(tmp_path / "base", base),
        "a": save(tmp_path / "a", near(base, 1)),
        "b": save(tmp_path / "b", near(base, 2)),
    }
