"""progress=True: tqdm's bar where it is installed, a line where not, on a terminal only, never on stdout."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import ingot
import numpy as np
import pytest
from support import run_python

CODE = """
import sys
if sys.argv[1] == "without":
    sys.modules["tqdm"] = sys.modules["tqdm.auto"] = None
import numpy, ingot
a = numpy.ones((1024, 1024), "f")
ingot.merge_state_dicts("linear", [{"some.weight": a}, {"some.weight": a}], progress=True)
"""


def on_a_terminal(*arguments: str) -> tuple[str, str]:
    """stdout, and what a terminal showed as stderr."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    try:
        done = subprocess.run(
            [sys.executable, "-c", CODE, *arguments],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=slave,
            env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(ingot.__file__))},
            timeout=60,
            check=False,
        )
        os.close(slave)
        slave = -1
        shown = b""
        try:
            while piece := os.read(master, 65536):
                shown += piece
        except OSError:  # how a terminal without a program ends
            pass
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)
    assert done.returncode == 0, shown.decode()
    return done.stdout.decode(), shown.decode()


def test_with_tqdm() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    out, shown = on_a_terminal("with")
    assert out == ""
    assert "4.00M/4.00M" in shown


def test_without_tqdm() -> None:
    out, shown = on_a_terminal("without")
    assert out == ""
    assert "100 %" in shown
    assert "1/1 tensors" in shown


@pytest.mark.parametrize("which", ["with", "without"])
def test_silent_without_a_terminal(which: str) -> None:
    done = run_python(CODE, which)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_standard_error() -> None:
    done = run_python("import sys; sys.stderr = None\n" + CODE, "without")
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_no_progress() -> None:
    with pytest.raises(TypeError, match="progress"):
        ingot.merge_tensors("linear", [np.ones(2, "f")], progress=3)  # type: ignore[arg-type]
