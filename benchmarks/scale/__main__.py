"""Scale without the disks: sparse checkpoints of 100,000 tensors and up to 1.3 TB each, planned, and merged into the null sink.

    python benchmarks/scale --ingot .build/release/ingot [--minutes 20] [--folder DIRECTORY] [--json FILE]

Holes take no blocks and read as zeros at the speed of memory, so what is measured is Ingot: that its memory is the budget and the plan,
whatever the model's size, and that its throughput does not fall. A merge that the minutes do not hold is interrupted, and its throughput is
that of the time it had. Where others use the machine, the throughput per second of processor time says more; the load is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

TENSORS = 100_000
# Bytes of a model: from one gigabyte to 1.3 TB, the size of 650 billion parameters in 16 bits.
SIZES = [1_000_000_000, 10_000_000_000, 100_000_000_000, 1_300_000_000_000]
ROW = 2048


@dataclass
class Result:
    bytes_per_model: int
    tensors: int
    plan_seconds: float
    plan_anonymous_mib: float
    merge_seconds: float
    merge_cpu_seconds: float
    merge_anonymous_mib: float
    gigabytes_read: float
    gigabytes_per_second: float
    gigabytes_per_cpu_second: float
    finished: bool


def write_model(folder: Path, size: int) -> Path:
    """A bfloat16 model in Llama's names, one sparse file."""
    folder.mkdir(parents=True)
    rows = max(size // TENSORS // 2 // ROW, 1)
    count = TENSORS * rows * ROW * 2
    kinds = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj"]
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for index in range(TENSORS):
        layer, kind = divmod(index, len(kinds))
        begin = index * rows * ROW * 2
        entries[f"model.layers.{layer}.{kinds[kind]}.weight"] = {
            "dtype": "BF16",
            "shape": [rows, ROW],
            "data_offsets": [begin, begin + rows * ROW * 2],
        }
    header = json.dumps(entries, separators=(",", ":")).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + count)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": TENSORS // len(kinds)}), encoding="utf-8")
    return folder


def field(path: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+)", path.read_text(), re.M)
    return int(found.group(1)) if found else 0


def cpu_seconds() -> float:
    """Of all commands that came to their end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(command: list[str], seconds: float) -> tuple[float, float, int, int, bool]:
    """Seconds, CPU seconds, most bytes of anonymous memory, bytes read, and whether the command came to its end in time."""
    start = time.monotonic()
    used = cpu_seconds()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    folder = Path(f"/proc/{process.pid}")
    anonymous = read = 0
    interrupted = False
    while process.poll() is None:
        try:
            anonymous = max(anonymous, field(folder / "status", "RssAnon") * 1024)
            read = max(read, field(folder / "io", "rchar"))
        except (FileNotFoundError, ProcessLookupError):
            break
        if not interrupted and time.monotonic() - start > seconds:
            process.send_signal(signal.SIGINT)
            interrupted = True
        time.sleep(0.02)
    _, errors = process.communicate()
    if process.returncode not in (0, 130):
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}\n{errors}")
    return time.monotonic() - start, cpu_seconds() - used, anonymous, read, process.returncode == 0


def measure(ingot: str, size: int, folder: Path, seconds: float, settings: list[str]) -> Result:
    models = [write_model(folder / name, size) for name in ("base", "a")]
    quick = ["-m", "task_arithmetic", "-b", str(models[0]), str(models[1])]
    plan_seconds, _, plan_anonymous, _, _ = run([ingot, "plan", *quick, "--rows", "1"], seconds)
    # What io_uring reads past the page cache the system does not count for a process.
    command = [ingot, "merge", *quick, "--sink", "null", "--cached-reads", *settings]
    merge_seconds, merge_cpu, merge_anonymous, read, finished = run(command, seconds)
    return Result(
        bytes_per_model=size,
        tensors=TENSORS,
        plan_seconds=round(plan_seconds, 2),
        plan_anonymous_mib=round(plan_anonymous / 2**20, 1),
        merge_seconds=round(merge_seconds, 2),
        merge_cpu_seconds=round(merge_cpu, 2),
        merge_anonymous_mib=round(merge_anonymous / 2**20, 1),
        gigabytes_read=round(read / 1e9, 1),
        gigabytes_per_second=round(read / 1e9 / merge_seconds, 2),
        gigabytes_per_cpu_second=round(read / 1e9 / merge_cpu, 2),
        finished=finished,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ingot", required=True, help="the command under test")
    parser.add_argument("--minutes", type=float, default=20, help="for all merges together; the largest gets what is left")
    parser.add_argument("--folder", type=Path, help="where the sparse files go: a file system with holes (default: the temporary folder)")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("settings", nargs="*", help="further options of ingot merge, behind --")
    given = parser.parse_args()
    end = time.monotonic() + given.minutes * 60
    results = []
    print(
        f"{'per model':>10} {'plan':>8} {'memory':>9} {'merge':>9} {'CPU':>9} {'memory':>9} {'read':>9} {'speed':>10} {'per CPU s':>10} "
        f"{'load':>5}"
    )
    for size in SIZES:
        with tempfile.TemporaryDirectory(prefix="ingot-scale-", dir=given.folder) as name:
            left = max(end - time.monotonic(), 10)
            result = measure(given.ingot, size, Path(name), left, given.settings)
        results.append(result)
        print(
            f"{size / 1e9:>7.0f} GB {result.plan_seconds:>6.1f} s {result.plan_anonymous_mib:>5.0f} MiB {result.merge_seconds:>7.1f} s "
            f"{result.merge_cpu_seconds:>7.1f} s {result.merge_anonymous_mib:>5.0f} MiB {result.gigabytes_read:>6.0f} GB "
            f"{result.gigabytes_per_second:>5.2f} GB/s {result.gigabytes_per_cpu_second:>7.2f} GB {os.getloadavg()[0]:>5.1f}"
            f"{'' if result.finished else ' (interrupted)'}",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
