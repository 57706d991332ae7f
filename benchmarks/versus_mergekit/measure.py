"""Runs one program once and measures it: wall clock, processor time, peak memory, and what else the machine did."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Run:
    """One run. Memory in bytes, times in seconds.

    `peak_rss` is the kernel's own high-water mark and counts mapped file pages; `peak_anonymous` and `peak_private`
    (anonymous plus shared memory, the latter holding mapped tmpfs files) are the largest of samples, so a spike
    shorter than the sampling interval may be missed. `other_cpu` is processor time that other processes took.
    """

    wall: float
    cpu: float
    peak_rss: int
    peak_anonymous: int
    peak_private: int
    other_cpu: float
    output: str = ""

    def as_dict(self) -> dict[str, float | int]:
        values = asdict(self)
        del values["output"]
        return values


class _Memory(threading.Thread):
    """Reads /proc/PID/status at an interval and keeps the largest values."""

    def __init__(self, pid: int, interval: float) -> None:
        super().__init__(daemon=True)
        self._path = f"/proc/{pid}/status"
        self._interval = interval
        self._stop_now = threading.Event()
        self.anonymous = 0
        self.private = 0

    def run(self) -> None:
        while not self._stop_now.wait(self._interval):
            try:
                with open(self._path, encoding="ascii") as file:
                    fields = dict(line.split(":", 1) for line in file if line.startswith("Rss"))
            except (OSError, ValueError):
                return
            sizes = {name: int(value.split()[0]) * 1024 for name, value in fields.items()}
            anonymous = sizes.get("RssAnon", 0)
            self.anonymous = max(self.anonymous, anonymous)
            self.private = max(self.private, anonymous + sizes.get("RssShmem", 0))

    def stop(self) -> None:
        self._stop_now.set()
        self.join()


def _busy_seconds() -> float:
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) for field in file.readline().split()[1:]]
    user, nice, system, _, _, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / TICKS


def run(command: Sequence[str], environment: Mapping[str, str], log: Path, interval: float) -> Run:
    """Runs `command` with its talk going to `log`; a failing command raises RuntimeError with the end of the log."""
    busy = _busy_seconds()
    with open(log, "wb") as talk:
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=talk, env=dict(environment))
        memory = _Memory(process.pid, interval)
        memory.start()
        assert process.stdout is not None
        try:
            output = process.stdout.read()
        except BaseException:  # an interrupted measurement must not leave a merge running
            process.kill()
            raise
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
    memory.stop()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"exit status {process.returncode} from {' '.join(command)}\n{tail}")
    cpu = usage.ru_utime + usage.ru_stime
    return Run(
        wall=wall,
        cpu=cpu,
        peak_rss=usage.ru_maxrss * 1024,
        peak_anonymous=memory.anonymous,
        peak_private=memory.private,
        other_cpu=max(0.0, _busy_seconds() - busy - cpu),
        output=output.decode("utf-8", errors="replace"),
    )


def clear(out: Path) -> None:
    """Removes an output of any kind, and what an interrupted merge left of it."""
    for path in (out, out.with_name(out.name + ".partial")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def warm(files: Sequence[Path]) -> None:
    """Reads the files once: memory that nothing touched for a while is slow at its next touch, for whoever is first."""
    buffer = bytearray(8 << 20)
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
