"""Compiles preload.c and runs the command behind it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("preload.c")
CHANGING = {"openat", "write", "pwrite", "ftruncate", "fallocate", "fsync", "mkdirat", "unlinkat", "renameat", "renameat2"}
# Imports that would change files as well: used for other things (eventfds, temporary names, shared memory that OpenMP must be
# able to write), or by parts of Foundation that are not run.
NOT_COUNTED = {"open", "fopen", "fwrite", "eventfd_write", "mkdir", "posix_fallocate", "rename", "unlink", "rmdir", "sync_file_range"}


class Preload:
    def __init__(self, library: Path, folder: Path) -> None:
        self.library = library
        self.folder = folder

    def environment(self, stop_at: int | None = None) -> dict[str, str]:
        """Variables for a run; with `stop_at` it dies in place of that change of the file system."""
        variables = {"LD_PRELOAD": str(self.library), "COUNT_FILE": str(self.folder / "counts.json")}
        return variables if stop_at is None else {**variables, "STOP_AT": str(stop_at)}

    def counts(self) -> dict[str, int]:
        """What the run before counted."""
        path = self.folder / "counts.json"
        found: dict[str, int] = json.loads(path.read_text())
        path.unlink()
        return found


def build(folder: Path) -> Preload:
    library = folder / "preload.so"
    command = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", str(SOURCE), "-o", str(library), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(f"preload.c does not compile:\n{done.stderr}", pytrace=False)
    return Preload(library, folder)
