"""download=True, with a stand-in for huggingface_hub: no test opens a connection."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import ingot
import pytest
from ingot import _hub
from support import load, save, state

SNAPSHOT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ModuleType):
    """Puts models into the cache as snapshot_download does."""

    def __init__(self, cache: Path) -> None:
        super().__init__("huggingface_hub")
        self.cache = cache
        self.fetched: list[tuple[str, Any]] = []

    def snapshot_download(self, name: str, *, revision: str | None = None, allow_patterns: list[str] | None = None) -> str:
        assert allow_patterns is not None
        self.fetched.append((name, revision))
        folder = self.cache / f"models--{name.replace('/', '--')}"
        target = folder / "snapshots" / SNAPSHOT
        if not target.exists():
            save(target, state(len(self.fetched)))
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / (revision or "main")).write_text(SNAPSHOT)
        return str(target)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    monkeypatch.chdir(tmp_path)
    return made


RECIPE = {
    "merge_method": "linear",
    "models": [{"model": "org/one", "parameters": {"weight": 1}}, {"model": "org/two@v2", "parameters": {"weight": 1}}],
}


def test_fetches_what_is_missing(hub: Hub, tmp_path: Path) -> None:
    hub.snapshot_download("org/one", allow_patterns=[])
    hub.fetched.clear()
    with pytest.raises(ingot.NotFoundError, match="org/two"):
        ingot.merge(RECIPE, tmp_path / "out")
    ingot.merge(RECIPE, tmp_path / "out", download=True)
    assert hub.fetched == [("org/two", "v2")]
    assert "norm.weight" in load(tmp_path / "out" / "model.safetensors")
    ingot.plan(RECIPE, download=True)
    assert len(hub.fetched) == 1


def test_does_not_fetch_what_is_no_hub_name(hub: Hub, tmp_path: Path) -> None:
    recipe = {"merge_method": "passthrough", "models": [{"model": str(tmp_path / "gone")}]}
    with pytest.raises(ingot.NotFoundError, match="gone"):
        ingot.plan(recipe, download=True)
    assert hub.fetched == []


def test_gives_up_on_what_stays_missing(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fetch_elsewhere(name: str, **_: Any) -> str:
        hub.fetched.append((name, None))
        return str(save(tmp_path / "elsewhere" / str(len(hub.fetched)), state(1)))

    monkeypatch.setattr(hub, "snapshot_download", fetch_elsewhere)
    with pytest.raises(ingot.NotFoundError, match="org/one"):
        ingot.plan(RECIPE, download=True)
    assert len(hub.fetched) == 1


def test_says_what_to_install(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ingot.NotFoundError) as caught:
        ingot.plan(RECIPE, download=True)
    assert "pip install huggingface_hub" in str(caught.value)
    assert "org/one" in str(caught.value)


@pytest.mark.parametrize(
    ("references", "found"),
    [
        (["org/name"], [("org/name", None)]),
        (["org/name@rev", "org/name@rev"], [("org/name", "rev")]),
        (["org/name+org/lora@r"], [("org/name", None), ("org/lora", "r")]),
        (["org/name+org/pack@r#2", "a/b#c"], [("org/name", None), ("org/pack", "r")]),
        (["./org/name", "/abs/path", "a/b/c", "", "../x", "org/na me"], []),
        (["gpt2"], [("gpt2", None)]),
    ],
)
def test_hub_names(references: list[str], found: list[tuple[str, str | None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _hub.hub_models(references) == found


def test_a_local_folder_is_no_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert _hub.hub_models(["org/name"]) == []
