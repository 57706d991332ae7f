"""Examples in docstrings and in README.md run."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from support import near, save, state


@pytest.mark.parametrize("name", ["ingot", "ingot._api", "ingot._reports"])
def test_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_every_public_thing_says_what_it_is() -> None:
    for name in ingot.__all__:
        if not name.startswith("__"):
            assert (getattr(ingot, name).__doc__ or "").strip(), name


class Live:
    """What the example needs of a torch module."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors = tensors

    def state_dict(self) -> dict[str, np.ndarray]:
        return self.tensors

    def load_state_dict(self, tensors: dict[str, np.ndarray]) -> None:
        assert set(tensors) == set(self.tensors)


def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    readme = Path(__file__).resolve().parents[1] / "README.md"
    (code,) = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    base = {"lm_head.weight": np.ones((7, 5), "f"), **state(0)}
    tunes = [{**base, **near(state(0), seed)} for seed in (1, 2)]
    save(tmp_path / "a", tunes[0])
    save(tmp_path / "b", tunes[1])
    (tmp_path / "recipe.yml").write_text(
        "merge_method: linear\nmodels:\n- model: a\n  parameters: {weight: 1}\n- model: b\n  parameters: {weight: 1}\n"
    )
    names: dict[str, Any] = {
        "a": np.ones(3, "f"),
        "b": np.arange(3, dtype="f"),
        "math": Live(tunes[0]),
        "code": Live(tunes[1]),
        "base": Live(base),
        "model": Live(base),
    }
    exec(compile(code, str(readme), "exec"), names)
    assert names["report"].bytes_written > 0
    assert "lm_head.weight" in capsys.readouterr().out
