"""A row for every merge method on a set of checkpoints: time, memory, and the time of its passes over the data at the plain bound's rate.

    scripts/setup bench
    scripts/install /tmp/ingot
    .venv-bench/bin/python benchmarks/methods --ingot /tmp/ingot/bin/ingot --json methods.json --markdown methods.md

Models, tmpfs, warm-up and measuring are those of benchmarks/versus_mergekit. In each round a merge runs, then the plain bound reads as
many bytes as the merge has just read (its report says how many), from the same files over and over, and writes the output once.
`--methods` takes names, `elementwise` (the default), `matrix` (minutes each) or `all`. Side inputs are made when a method needs them and
removed when the next ones do not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "versus_mergekit"))

import catalog
import measure
import merges
import report
from measure import Run
from merges import Job
from recipes import Recipe

HERE = Path(__file__).resolve().parent


@dataclass
class Measured:
    """A method's runs; bytes read by one pass over its inputs, and by a whole run."""

    job: Job
    ours: list[Run]
    plain: list[Run]
    pass_bytes: int
    read_bytes: int

    @property
    def passes(self) -> float:
        return self.read_bytes / self.pass_bytes

    def ratio(self) -> tuple[float, float]:
        """Of median times, and of best times."""
        ours, plain = [run.wall for run in self.ours], [run.wall for run in self.plain]
        return median(ours) / median(plain), min(ours) / min(plain)


def parse() -> argparse.Namespace:
    root = HERE.parent.parent
    parser = argparse.ArgumentParser(prog="methods", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="large", choices=("tiny", "small", "large"), help="sizes of the models (large: 1.1B)")
    parser.add_argument("--root", type=Path, default=Path("/dev/shm/ingot-bench"), help="where the checkpoints lie: a tmpfs")
    parser.add_argument("--sides", type=Path, help="where side inputs are made, up to 7 GB; else the same")
    parser.add_argument("--work", type=Path, default=root / ".build" / "bench", help="where outputs go: a disk")
    parser.add_argument("--methods", default="elementwise", help="names, elementwise, matrix, all; comma-separated")
    parser.add_argument("--ingot", default=shutil.which("ingot"), help="the command to measure")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="256MiB", help="the budget of methods that work element by element")
    parser.add_argument("--matrix-memory", default="3GiB", help="that of methods that work on whole matrices")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--matrix-repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file as well")
    return parser.parse_args()


def select(names: str, offered: dict[str, Job]) -> list[Job]:
    """The jobs that are asked for, in the order of the registry."""
    groups: dict[str, Callable[[Job], bool]] = {
        "all": lambda _: True,
        "matrix": lambda job: job.method.works_on_matrices,
        "elementwise": lambda job: not job.method.works_on_matrices,
    }
    chosen: set[str] = set()
    for name in names.split(","):
        if name in groups:
            chosen |= {job.name for job in offered.values() if groups[name](job)}
        elif name in offered:
            chosen |= {name, *([merges.AIM] if merges.AIM.split(",")[0] == name else [])}
        else:
            sys.exit(f"methods: '{name}' is no method of this command and no group; there are {', '.join([*groups, *offered])}")
    return [job for job in offered.values() if job.name in chosen]


class SideFolders:
    """Makes the side inputs of a form in a process of its own, and keeps one form at a time: they are large."""

    def __init__(self, root: Path, preset: str) -> None:
        self._root = root
        self._preset = preset
        self._made: dict[str, Path] = {}

    def folder(self, form: str) -> Path:
        if form not in self._made:
            print(f"making side inputs: {form}", file=sys.stderr, flush=True)
            command = [sys.executable, str(HERE / "sides.py"), self._preset, str(self._root), form]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            self._made[form] = Path(done.stdout.strip())
        return self._made[form]

    def keep(self, forms: Sequence[str]) -> None:
        for form in [form for form in self._made if form not in forms]:
            shutil.rmtree(self._made.pop(form))


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.bound = self.work / "plain_bound"
        subprocess.run(["cc", "-O2", "-o", str(self.bound), str(HERE.parent / "plain_bound.c")], check=True)
        # In a process of its own: the peak of this one would be inherited by every program it starts.
        make = [sys.executable, str(HERE.parent / "versus_mergekit" / "checkpoints.py"), str(options.root), options.preset]
        root, self.output_bytes = json.loads(subprocess.run(make, check=True, stdout=subprocess.PIPE).stdout)
        self.models = Path(root)
        self.layers: int = json.loads((self.models / "base" / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
        self.sides = SideFolders(options.sides or options.root, options.preset)

    def run(self, job: Job) -> Measured:
        self.sides.keep(job.forms)
        recipe = merges.recipe(job, self.models, self.layers, self.sides.folder)
        file = self.work / "method.yml"
        file.write_text(recipe.text, encoding="utf-8")
        memory = self.options.matrix_memory if job.method.works_on_matrices else self.options.memory
        plan = [self.options.ingot, "plan", str(file), "--json"]
        planned = subprocess.run(plan, capture_output=True, text=True)
        if planned.returncode != 0:
            raise RuntimeError(f"{job.name}: {planned.stderr or planned.stdout}")
        measured = Measured(job, [], [], pass_bytes=json.loads(planned.stdout)["bytes_read"], read_bytes=0)
        merge = [self.options.ingot, "merge", str(file), "OUT", "--memory", memory]
        merge += ["--threads", str(self.options.threads), "--sync", "none", "--json"]
        for _ in range(self.options.matrix_repeats if job.method.works_on_matrices else self.options.repeats):
            ours = self.once(job, "ingot", recipe, merge)
            measured.ours.append(ours)
            measured.read_bytes = json.loads(ours.output)["run"]["bytes_read"]
            plain = [str(self.bound), "--read", str(measured.read_bytes), "OUT", str(self.output_bytes)]
            measured.plain.append(self.once(job, "plain", recipe, [*plain, *map(str, recipe.inputs())]))
        return measured

    def once(self, job: Job, program: str, recipe: Recipe, command: Sequence[str]) -> Run:
        out = self.work / f"out-{program}"
        measure.clear(out)
        os.sync()  # what the last run left to write back must not be this run's burden
        measure.warm(recipe.inputs())
        words = [str(out) if word == "OUT" else word for word in command]
        run = measure.run(words, os.environ, self.work / "last.log", 0.005)
        print(
            f"{job.name:20} {program:6} {run.wall:8.2f} s wall {run.cpu:8.2f} s CPU {run.peak_anonymous / 1e6:7.0f} MB anonymous "
            f"{run.other_cpu:6.1f} s CPU of others",
            file=sys.stderr,
            flush=True,
        )
        measure.clear(out)
        return run


def table(rows: Sequence[Measured]) -> str:
    lines = [
        "| method | runs | wall s, median (best) | CPU s | peak RSS MB | anonymous MB | read GB | passes | plain bound, s, median (best) "
        "| ÷ plain, medians (best) | others' CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, plain = report.summary(row.ours), report.summary(row.plain)
        of_medians, of_bests = row.ratio()
        cells = [
            row.job.label,
            str(len(row.ours)),
            f"{ours['wall_median_s']:.2f} ({ours['wall_best_s']:.2f})",
            f"{ours['cpu_median_s']:.2f}",
            f"{ours['peak_rss_bytes'] / 1e6:.0f}",
            f"{ours['peak_anonymous_bytes'] / 1e6:.0f}",
            f"{row.read_bytes / 1e9:.2f}",
            f"{row.passes:.2f}",
            f"{plain['wall_median_s']:.2f} ({plain['wall_best_s']:.2f})",
            f"{of_medians:.2f} ({of_bests:.2f})",
            f"{ours['other_cpu_median_s']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def tables(rows: Sequence[Measured]) -> str:
    """Element-wise methods, whose measure is the plain bound, and apart from them those whose time is arithmetic."""
    groups = [[row for row in rows if row.job.method.works_on_matrices == matrices] for matrices in (False, True)]
    return "\n".join(table(group) for group in groups if group)


def document(rows: Sequence[Measured], options: argparse.Namespace) -> dict[str, object]:
    """Everything measured, for a JSON file."""
    runs = report.document(
        {row.job.name: {"ingot": row.ours, "plain": row.plain} for row in rows}, {name: str(value) for name, value in vars(options).items()}
    )
    passes = {row.job.name: {"pass_bytes": row.pass_bytes, "read_bytes": row.read_bytes, "passes": row.passes} for row in rows}
    return {**runs, "passes": passes}


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = parse()
    if not options.ingot:
        sys.exit("methods: no `ingot` on PATH; give --ingot PATH")
    chosen = select(options.methods, merges.jobs(catalog.methods(options.ingot)))
    bench = Bench(options)
    rows: list[Measured] = []
    try:
        for job in chosen:
            rows.append(bench.run(job))
            # After every method: a long measurement that is stopped keeps what it has.
            if options.json:
                options.json.write_text(json.dumps(document(rows, options), indent=1) + "\n", encoding="utf-8")
            if options.markdown:
                options.markdown.write_text(tables(rows), encoding="utf-8")
    finally:
        bench.sides.keep(())
    print(tables(rows), end="")


if __name__ == "__main__":
    main()
