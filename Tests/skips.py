"""Nothing that should be tested is passed over in silence.

`python Tests/skips.py` finds out what this machine cannot do, says it, and prints a regular expression of the reasons for which tests may
then be skipped: what scripts/test puts into INGOT_MAY_SKIP. `pytest -p skips` fails every test and module that is skipped for another
reason; the Swift tests read the variable themselves. Without the variable, tests are skipped as they like.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from importlib.util import find_spec
from pathlib import Path

import pytest

ALLOWED = os.environ.get("INGOT_MAY_SKIP")


# The plugin


def _judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    if ALLOWED is None or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if ALLOWED and re.search(ALLOWED, reason):
        return
    report.outcome = "failed"
    report.longrepr = f"{reason}\nThis machine can do what the test needs, so it may not be skipped (Tests/skips.py)."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _judge(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _judge(report)
    return report


# The machine


def _runs(*words: str) -> bool:
    try:
        return subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def _mounts(folder: Path) -> bool:
    return _runs("unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(folder))


def _mounts_as_root(folder: Path) -> bool:
    return _runs("unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(folder))


def _has_large_files(folder: Path) -> bool:
    try:
        with (folder / "large").open("wb") as file:
            file.truncate(9 << 40)
    except OSError:
        return False
    return True


def _reads_past_the_cache(folder: Path) -> bool:
    """O_DIRECT of the file system, io_uring of the kernel (system call 425 on every architecture), and a page cache that lets go."""
    path = folder / "direct"
    path.write_bytes(bytes(4096))
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    ring = ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(256))
    if ring < 0:
        return False
    os.close(ring)
    return _runs("sh", "-c", 'test "$(stat -f -c %T "$1")" != tmpfs', "sh", str(folder))


def _has_torch(_: Path) -> bool:
    return all(find_spec(name) for name in ("torch", "transformers", "peft", "tokenizers"))


# What a machine may lack, how that shows, and the words of the tests that need it.
LIMITS: list[tuple[str, Callable[[Path], bool], str]] = [
    (
        "torch, transformers or peft",
        _has_torch,
        r"(torch|transformers|tokenizers|peft) is not installed|could not import '(torch|transformers|peft|tokenizers|safetensors\.torch)",
    ),
    ("file systems that a test mounts for itself", _mounts, "does not let a test mount a file system"),
    ("file systems that root mounts", _mounts_as_root, "mounting a file system wants root"),
    ("files of 8 TiB", _has_large_files, "has no files of that size"),
    ("reads past the page cache", _reads_past_the_cache, "no reads past the page cache"),
]
# Asked for by hand, with more runs than continuous integration has time for.
ALWAYS = ["asked of a hundred kills"]


def main() -> int:
    reasons = list(ALWAYS)
    for name, test, words in LIMITS:
        with tempfile.TemporaryDirectory() as folder:
            has = test(Path(folder))
        if not has:
            print(f"skips: this machine has no {name}; tests that need it may be skipped", file=sys.stderr)
            reasons.append(words)
    print("|".join(reasons))
    return 0


if __name__ == "__main__":
    sys.exit(main())
