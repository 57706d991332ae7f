"""Compares `ingot merge` with mergekit and with the plain bound, on the same recipes and the same checkpoints.

    scripts/setup bench
    scripts/install /tmp/ingot
    .venv-bench/bin/python benchmarks/versus_mergekit --ingot /tmp/ingot/bin/ingot --json results.json

Inputs lie on tmpfs for every program and are read once right before each timed run; every output goes to the same
directory on disk and is deleted before the next run. The runs of the programs are interleaved, round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import measure
import recipes
import report
from measure import Run
from recipes import Recipe

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Program:
    """A way to do the work: `command` may hold the words RECIPE and OUT; `plain` programs get their files appended."""

    name: str
    command: tuple[str, ...]
    repeats: int
    plain: bool = False

    def arguments(self, recipe_file: Path, out: Path, recipe: Recipe, output_bytes: int) -> list[str]:
        if self.plain:
            return [*self.command, str(out), str(output_bytes), *map(str, recipe.inputs())]
        return [{"RECIPE": str(recipe_file), "OUT": str(out)}.get(word, word) for word in self.command]


def parse() -> argparse.Namespace:
    root = HERE.parent.parent
    parser = argparse.ArgumentParser(prog="versus_mergekit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="large", choices=("tiny", "small", "large"), help="sizes of the models (large: 1.1B)")
    parser.add_argument("--root", type=Path, default=Path("/dev/shm/ingot-bench"), help="where the checkpoints lie: a tmpfs")
    parser.add_argument("--work", type=Path, default=root / ".build" / "bench", help="where outputs go: a disk")
    parser.add_argument("--methods", default=",".join(recipes.METHODS), help="comma-separated")
    parser.add_argument("--ingot", default=shutil.which("ingot"), help="the command to measure")
    parser.add_argument("--mergekit", default=str(Path(sys.executable).parent / "mergekit-yaml"), help="the peer's command")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7, help="interleaved runs of ours and of the plain bound")
    parser.add_argument("--peer-repeats", type=int, default=7, help="runs of the peer; fewer is marked in the table")
    parser.add_argument("--peer-once", action="store_const", const=1, dest="peer_repeats", help="the same as --peer-repeats 1")
    parser.add_argument("--no-peer", action="store_const", const=0, dest="peer_repeats", help="only ours and the plain bound")
    parser.add_argument("--peer-best", action="store_true", help="also the peer with 500 MB shards and asynchronous writing")
    parser.add_argument("--no-ours", action="store_true", help="only the peer and the plain bound")
    parser.add_argument("--isa", default="", help="also ours with these instruction sets forced, comma-separated")
    parser.add_argument("--memory", default="", help="also ours with these budgets, comma-separated, e.g. 64MiB")
    parser.add_argument("--check", action="store_true", help="compare output bytes of our variants, and values with the peer's")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file as well")
    return parser.parse_args()


def ours(options: argparse.Namespace) -> list[Program]:
    merge = (options.ingot, "merge", "RECIPE", "OUT", "--threads", str(options.threads))
    programs = [
        Program("ingot", (*merge, "--sync", "none"), options.repeats),
        Program("ingot, sync all", merge, options.repeats),
    ]
    for isa in filter(None, options.isa.split(",")):
        programs.append(Program(f"ingot, {isa}", (*merge, "--sync", "none", "--isa", isa), options.repeats))
    for memory in filter(None, options.memory.split(",")):
        programs.append(Program(f"ingot, {memory}", (*merge, "--sync", "none", "--memory", memory), options.repeats))
    return programs


def programs(options: argparse.Namespace, bound: Path) -> list[Program]:
    chosen = [
        Program("plain", (str(bound),), options.repeats, plain=True),
        Program("plain, synced", (str(bound), "--fsync"), options.repeats, plain=True),
    ]
    if not options.no_ours:
        if not options.ingot:
            sys.exit("versus_mergekit: no `ingot` on PATH; give --ingot PATH, or --no-ours for the peer alone")
        chosen += ours(options)
    if options.peer_repeats:
        if not Path(options.mergekit).exists():
            sys.exit(f"versus_mergekit: {options.mergekit} is not there; run scripts/setup bench, or give --no-peer")
        peer = (options.mergekit, "RECIPE", "OUT")
        chosen.append(Program("mergekit", peer, options.peer_repeats))
        if options.peer_best:
            best = ("--out-shard-size", "500M", "--async-write", "--write-threads", "2")
            chosen.append(Program("mergekit, best setting", (*peer, *best), options.peer_repeats))
    return chosen


def run_method(recipe: Recipe, chosen: list[Program], work: Path, output_bytes: int, check: bool) -> dict[str, list[Run]]:
    recipe_file = work / f"{recipe.method}.yml"
    recipe_file.write_text(recipe.text, encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    results: dict[str, list[Run]] = {program.name: [] for program in chosen}
    kept: dict[str, Path] = {}
    for round_number in range(max(program.repeats for program in chosen)):
        for program in (program for program in chosen if round_number < program.repeats):
            out = work / f"out-{program.name.replace(', ', '-').replace(' ', '-')}"
            measure.clear(out)
            os.sync()  # what the last run left to write back must not be this run's burden
            measure.warm(recipe.inputs())
            command = program.arguments(recipe_file, out, recipe, output_bytes)
            interval = 0.05 if program.name.startswith("mergekit") else 0.005
            run = measure.run(command, environment, work / "last.log", interval)
            results[program.name].append(run)
            print(
                f"{recipe.method:16} {program.name:24} {run.wall:8.2f} s wall {run.cpu:8.2f} s CPU "
                f"{run.peak_rss / 1e6:7.0f} MB RSS {run.peak_anonymous / 1e6:7.0f} MB anonymous "
                f"{run.other_cpu:6.1f} s CPU of others",
                file=sys.stderr,
                flush=True,
            )
            if check and round_number == 0 and not program.plain:
                kept[program.name] = work / f"kept-{out.name}"
                measure.clear(kept[program.name])  # of a comparison that was stopped
                out.rename(kept[program.name])
            measure.clear(out)
    if kept:
        compare(recipe, kept)
        for directory in kept.values():
            measure.clear(directory)
    return results


def compare(recipe: Recipe, kept: dict[str, Path]) -> None:
    command = [sys.executable, str(HERE / "compare.py"), *(["--bytes-only"] if recipe.random else [])]
    subprocess.run(command + [f"{name}={path}" for name, path in kept.items()], check=True)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = parse()
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    bound = work / "plain_bound"
    subprocess.run(["cc", "-O2", "-o", str(bound), str(HERE.parent / "plain_bound.c")], check=True)
    # In a process of its own: the peak of this one would be inherited by every program it starts.
    make = [sys.executable, str(HERE / "checkpoints.py"), str(options.root), options.preset]
    models_root, output_bytes = json.loads(subprocess.run(make, check=True, stdout=subprocess.PIPE).stdout)
    chosen = programs(options, bound)
    results: dict[str, dict[str, list[Run]]] = {}
    for method in options.methods.split(","):
        results[method] = run_method(recipes.recipe(method, Path(models_root)), chosen, work, output_bytes, options.check)
        if options.json:  # after every method: a long comparison that is stopped keeps what it has
            settings = {name: str(value) for name, value in vars(options).items()}
            options.json.write_text(json.dumps(report.document(results, settings), indent=1) + "\n", encoding="utf-8")
    table = report.markdown(results)
    print(table, end="")
    if options.markdown:
        options.markdown.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
