#!/usr/bin/env python3
"""Runs a command with a terminal of 100 columns as its standard error, and may interrupt it. Exits as the command did.

  terminal.py [--signal NAME --journal PATH [--ignored]] COMMAND...

What the command wrote to the terminal goes to standard error, with escape sequences spelled out and one state of a redrawn line
on each line. With --signal the command gets it once the journal at PATH has five lines (two and one for each finished
tensor): while it runs, on any machine. With --ignored it is
started with the signal ignored, as nohup does.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path


def drain(terminal: int, into: list[bytes]) -> None:
    try:
        while part := os.read(terminal, 65536):
            into.append(part)
    except OSError:
        pass  # Linux says EIO when the other side is closed.


def wait_for_journal(process: subprocess.Popen[bytes], path: Path) -> bool:
    """False when the command ended first."""
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= 5:
            return True
        time.sleep(0.002)
    return False


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--signal")
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--ignored", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    terminal, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    number = getattr(signal, "SIG" + arguments.signal) if arguments.signal else 0
    if number not in (0, signal.SIGKILL):
        # However this was started itself: a signal that is ignored now would stay so for the command.
        signal.signal(number, signal.SIG_IGN if arguments.ignored else signal.SIG_DFL)
    process = subprocess.Popen(arguments.command, stderr=inner)
    os.close(inner)
    written: list[bytes] = []
    reader = threading.Thread(target=drain, args=(terminal, written))
    reader.start()
    if number:
        if wait_for_journal(process, arguments.journal):
            process.send_signal(number)
        else:
            print("the command ended before it could be interrupted", file=sys.stderr)
    status = process.wait()
    reader.join()
    text = b"".join(written).decode("utf-8", "backslashreplace")
    sys.stderr.write(text.replace("\r\n", "\n").replace("\r", "\n").replace("\x1b", "<ESC>"))
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
