"""Cold merges: sources that are not in the page cache, read past it by io_uring and, for comparison, through it.

    python benchmarks/cold --ingot PREFIX/bin/ingot --folder DIRECTORY [--before OTHER/bin/ingot] [--rounds 7] [--json FILE]

Two models of `--gigabytes` (2) each are made once in `--folder`, which must be on a disk. Before each run they are synced and taken out
of the page cache (posix_fadvise DONTNEED). The ways are run in turn, round by round, and the table shows medians and ranges: `ahead` is
the default, `cached` is --cached-reads, `before` another build of ingot (for a change that is to be judged). Each writes into a directory
on the same disk; with `--null` it computes and discards. `--raw` reads the same files without a merge (benchmarks/cold/reads.c): what the
disk and the ways of reading give by themselves. `--verify` times `ingot verify` of a merge of 2 GB, cold and in the page cache, in turn
with reading its file alone. Seconds are wall clock; CPU is the command's own user and system time; the load average
says what else the machine did.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TENSOR = (2048, 5632)
METHODS = {
    "linear": "merge_method: linear\n",
    "slerp": "merge_method: slerp\nbase_model: {a}\nparameters: {{t: 0.4}}\n",
    "task_arithmetic": "merge_method: task_arithmetic\nbase_model: {a}\n",
    "passthrough": "merge_method: passthrough\n",
    "ties": "merge_method: ties\nbase_model: {a}\nparameters: {{density: 0.5}}\n",
}


def write_model(folder: Path, size: int, seed: int) -> None:
    """A bfloat16 model of about `size` bytes, of random finite values."""
    weights = folder / "model.safetensors"
    each = 2 * TENSOR[0] * TENSOR[1]
    count = max(size // each, 1)
    if weights.exists() and weights.stat().st_size >= count * each:
        return
    folder.mkdir(parents=True, exist_ok=True)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for number in range(count):
        header[f"model.layers.{number}.mlp.up_proj.weight"] = {
            "dtype": "BF16",
            "shape": TENSOR,
            "data_offsets": [number * each, (number + 1) * each],
        }
    text = json.dumps(header).encode()
    # Another stretch of one random block for each tensor; clearing a bit of the exponent keeps every value finite.
    block = bytearray(os.urandom(each + 2 * count + 2 * seed))
    block[1::2] = block[1::2].translate(bytes(byte & 0xBF for byte in range(256)))
    with weights.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number in range(count):
            file.write(block[2 * number : 2 * number + each])
        os.fsync(file.fileno())


def drop(files: Sequence[Path]) -> None:
    for path in files:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(command: Sequence[str]) -> dict[str, float]:
    """Seconds, processor seconds and peak megabytes of one command."""
    load = os.getloadavg()[0]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    output, talk = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"exit status {process.returncode} from {' '.join(command)}\n{talk.decode(errors='replace')}")
    report = json.loads(output or b"{}").get("run", {})
    return {
        "seconds": wall,
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "peak_mb": usage.ru_maxrss * 1024 / 1e6,
        "direct_mb": report.get("bytes_read_direct", 0) / 1e6,
        "load": load,
    }


def row(name: str, way: str, runs: Sequence[dict[str, float]]) -> str:
    def middle(key: str) -> float:
        return statistics.median(each[key] for each in runs)

    seconds = [each["seconds"] for each in runs]
    return (
        f"| {name} | {way} | {len(runs)} | {middle('seconds'):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | "
        f"{middle('user') + middle('system'):.2f} ({middle('user'):.2f} + {middle('system'):.2f}) | {middle('peak_mb'):.0f} | "
        f"{middle('direct_mb'):.0f} | {middle('load'):.1f} |"
    )


def merges(given: argparse.Namespace, models: Sequence[Path], files: Sequence[Path]) -> dict[str, list[dict[str, float]]]:
    results: dict[str, list[dict[str, float]]] = {}
    ways: dict[str, list[str]] = {"cached": [given.ingot, "--cached-reads"], "ahead": [given.ingot]}
    if given.before:
        ways["before"] = [given.before]
    out = given.folder / "out"
    for method in given.methods.split(","):
        recipe = given.folder / f"{method}.yml"
        text = METHODS[method].format(a=models[0])
        listed = models[:1] if method == "passthrough" else models
        weight = "" if method in ("slerp", "passthrough") else ", parameters: {weight: 0.5}"
        recipe.write_text(text + "models:\n" + "".join(f"  - {{model: {path}{weight}}}\n" for path in listed))
        for _ in range(given.rounds):
            for way, (binary, *options) in ways.items():
                for sink in ["null"] if given.null else ["directory"]:
                    drop(files)
                    shutil.rmtree(out, ignore_errors=True)
                    destination = ["--sink", "null"] if sink == "null" else [str(out), "--sync", "none"]
                    command = [binary, "merge", str(recipe), *destination, *options, "--threads", str(given.threads), "--json"]
                    results.setdefault(f"{method} {way}", []).append(run(command))
        for way in ways:
            print(row(method, way, results[f"{method} {way}"]), flush=True)
    shutil.rmtree(out, ignore_errors=True)
    return results


def reader(given: argparse.Namespace) -> Path:
    program: Path = given.folder / "reads"
    source = Path(__file__).with_name("reads.c")
    subprocess.run(["gcc", "-O2", "-pthread", str(source), "-o", str(program), "-l:liburing.a"], check=True)
    return program


def verify(given: argparse.Namespace, model: Path) -> dict[str, list[dict[str, float]]]:
    out = given.folder / "verified"
    shutil.rmtree(out, ignore_errors=True)
    recipe = given.folder / "verified.yml"
    recipe.write_text(METHODS["linear"] + f"models: [{{model: {model}, parameters: {{weight: 1}}}}]\n")
    run([given.ingot, "merge", str(recipe), str(out), "--json"])
    weights = sorted(out.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in weights)
    program = str(reader(given))
    check, read = [given.ingot, "verify", str(out), "--json"], [*map(str, weights)]
    ways = {
        "verify, cold": check,
        "reading alone, cold": [program, "cached", "4096", "1", "1", *read],
        "reading alone past the cache, 2 threads": [program, "direct", "1024", "1", "2", *read],
    }
    results: dict[str, list[dict[str, float]]] = {}
    for number in range(given.rounds):
        # In another order each time: what comes after another may find the disk in another mood.
        for name in sorted(ways, key=lambda name: (list(ways).index(name) + number) % len(ways)):
            drop(weights)
            results.setdefault(name, []).append(run(ways[name]))
        run(check)
        results.setdefault("verify, in the page cache", []).append(run(check))
    print("\n| what | runs | GB/s, median (range) | CPU s | load |\n|---|---|---|---|---|")
    for name, runs in results.items():
        rates = [size / each["seconds"] / 1e9 for each in runs]
        cpu, load = (statistics.median(each[key] for each in runs) for key in ("user", "load"))
        cpu += statistics.median(each["system"] for each in runs)
        print(f"| {name} | {len(runs)} | {statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f}) | {cpu:.2f} | {load:.1f} |")
    shutil.rmtree(out, ignore_errors=True)
    return results


def raw(given: argparse.Namespace, files: Sequence[Path]) -> None:
    program = reader(given)
    print("\n| way | piece KiB | under way for each thread | threads | GB/s, median (range) | CPU s |\n|---|---|---|---|---|---|")
    ways = [("cached", 128, 1, 2), ("cached", 1024, 1, 2), ("direct", 1024, 1, 1), ("direct", 1024, 1, 2), ("direct", 1024, 1, 4)]
    ways += [("ring", 1024, 2, 2), ("ring", 1024, 4, 2), ("ring", 1024, 8, 2), ("fixed", 1024, 4, 2)]
    found: dict[tuple[str, int, int, int], list[dict[str, float]]] = {}
    for _ in range(given.rounds):
        for way in ways:
            command = [str(program), *map(str, way), *map(str, files)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                found.setdefault(way, []).append(json.loads(done.stdout))
            else:
                print(done.stderr.strip(), file=sys.stderr)
    for way, runs in found.items():
        rates = [each["gigabytes_per_second"] for each in runs]
        cpu = statistics.median(each["cpu"] for each in runs)
        print(f"| {' | '.join(map(str, way))} | {statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f}) | {cpu:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ingot", required=True, help="the command under test")
    parser.add_argument("--before", help="another build of it")
    parser.add_argument("--folder", type=Path, required=True, help="on a disk; the models stay there")
    parser.add_argument("--gigabytes", type=float, default=2, help="of each model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", default="linear,slerp,passthrough,ties")
    parser.add_argument("--null", action="store_true", help="compute and discard")
    parser.add_argument("--raw", action="store_true", help="also read the files without a merge")
    parser.add_argument("--verify", action="store_true", help="also time ingot verify")
    parser.add_argument("--json", type=Path, help="write every run there")
    given = parser.parse_args()
    models = [given.folder / name for name in ("a", "b")]
    for seed, folder in enumerate(models):
        write_model(folder, int(given.gigabytes * 1e9), seed)
    files = [folder / "model.safetensors" for folder in models]
    print("| method | reads | runs | wall s, median (range) | CPU s (user + system) | peak RSS MB | read direct MB | load |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    results = merges(given, models, files) if given.methods else {}
    if given.verify:
        results |= verify(given, models[0])
    if given.raw:
        raw(given, files)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
