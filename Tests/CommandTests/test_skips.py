"""A skipped test fails where INGOT_MAY_SKIP does not have its reason (Tests/skips.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
FILES = {
    "test_functions.py": """
import pytest

def test_passes(): pass

def test_known(): pytest.skip("the moon is not full")

@pytest.mark.skipif(True, reason="no time")
def test_unknown(): pass
""",
    "test_module.py": "import pytest\npytest.importorskip('moon', reason='moon is not installed')\n",
}


@pytest.mark.parametrize(
    ("allowed", "said", "code"),
    [
        (None, "1 passed, 3 skipped", 0),
        ("moon|no time", "1 passed, 3 skipped", 0),
        ("moon", "1 passed, 2 skipped, 1 error", 1),
        ("not full|no time", "1 error", 2),
        ("", "1 error", 2),
    ],
)
def test_skips(tmp_path: Path, allowed: str | None, said: str, code: int) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ("INGOT_MAY_SKIP", "PYTEST_ADDOPTS")}
    environment["PYTHONPATH"] = str(TESTS)
    if allowed is not None:
        environment["INGOT_MAY_SKIP"] = allowed
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "skips", "-p", "no:cacheprovider", "-q", "-rs", tmp_path],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert said in done.stdout
