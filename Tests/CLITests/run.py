#!/usr/bin/env python3
"""Runs the command and compares what it prints, its exit code and what it leaves behind.

A case is a directory in cases/. Its files:

  cmd           a bash script; `ingot` is the command under test, $HELPERS this directory. It runs in a directory of its own, which
                has the models, recipes and the cache that fixtures.py makes
  exit          the exit code of the script; 0 without this file
  stdout        the exact standard output
  stdout.match  regular expressions, one a line, that are found in the standard output in this order
  stderr, stderr.match   the same for standard error
  present, absent        paths, one a line, that are or are not there in the end

Without its file a stream must stay empty; an empty .match file allows anything.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import fixtures

HERE = Path(__file__).resolve().parent
TIMEOUT_SECONDS = 300


def environment(binaries: Path, home: Path) -> dict[str, str]:
    """What a case sees of this process's variables: as little as possible."""
    return {
        "PATH": f"{binaries}:{os.environ.get('PATH', '/usr/bin:/bin')}",
        "HOME": str(home),
        "HELPERS": str(HERE),
        "ROOT": str(HERE.parent.parent),
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "COLUMNS": "100",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def lines_of(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line] if path.exists() else []


def check_stream(case: Path, name: str, found: str) -> list[str]:
    exact, patterns = case / name, case / f"{name}.match"
    if exact.exists():
        expected = exact.read_text(encoding="utf-8")
        return [] if found == expected else [f"{name} is not what the file says; expected:\n{expected}"]
    if patterns.exists():
        place = 0
        for pattern in lines_of(patterns):
            match = re.compile(pattern, re.M).search(found, place)
            if match is None:
                return [f"{name} lacks /{pattern}/" + (" after the patterns before it" if place else "")]
            place = match.end()
        return []
    return [f"{name} is not empty"] if found else []


def run_case(case: Path, shared: Path, scratch: Path, variables: dict[str, str]) -> list[str]:
    folder = scratch / case.name
    folder.mkdir()
    for name in ["models", "recipes", "hub"]:
        (folder / name).symlink_to(shared / name)
    try:
        result = subprocess.run(
            ["bash", str(case / "cmd")], cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return [f"still running after {TIMEOUT_SECONDS} seconds"]
    stdout = result.stdout.decode("utf-8", "backslashreplace")
    stderr = result.stderr.decode("utf-8", "backslashreplace")
    expected = int((case / "exit").read_text()) if (case / "exit").exists() else 0
    problems = [] if result.returncode == expected else [f"the exit code is {result.returncode}, expected {expected}"]
    problems += check_stream(case, "stdout", stdout) + check_stream(case, "stderr", stderr)
    problems += [f"{path} is not there" for path in lines_of(case / "present") if not os.path.lexists(folder / path)]
    problems += [f"{path} is there" for path in lines_of(case / "absent") if os.path.lexists(folder / path)]
    if problems:
        problems += [f"stdout:\n{stdout}", f"stderr:\n{stderr}"]
    shutil.rmtree(folder, ignore_errors=True)
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description="Tests of the ingot command.")
    parser.add_argument("--ingot", required=True, type=Path, help="the command under test")
    parser.add_argument("filters", nargs="*", help="run the cases whose names contain one of these")
    arguments = parser.parse_args()
    command = arguments.ingot.resolve()
    if not os.access(command, os.X_OK):
        parser.error(f"{command} is not there or not executable")
    cases = sorted(path.parent for path in (HERE / "cases").glob("*/cmd"))
    chosen = [case for case in cases if not arguments.filters or any(text in case.name for text in arguments.filters)]
    if not chosen:
        parser.error("no case has such a name")
    failed = []
    with tempfile.TemporaryDirectory(prefix="ingot-cli-") as temporary:
        root = Path(temporary)
        shared, scratch, binaries, home = (root / name for name in ["shared", "scratch", "bin", "home"])
        for folder in [shared, scratch, binaries, home]:
            folder.mkdir()
        (binaries / "ingot").symlink_to(command)
        fixtures.write_all(shared)
        variables = environment(binaries, home)
        for case in chosen:
            problems = run_case(case, shared, scratch, variables)
            if problems:
                failed.append(case.name)
                print(f"FAILED {case.name}")
                for problem in problems:
                    print("  " + problem.rstrip("\n").replace("\n", "\n  "))
    print(f"command: {len(chosen) - len(failed)} of {len(chosen)} cases passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
