"""Accuracies of every merge method on four experts for handwritten digits.

scripts/digits builds what is needed and calls it; with --update it writes docs/digits.md, and the accuracies into docs/methods.md. The last
table compares Ingot with merges written in numpy; the command fails where accuracies differ by more than 0.2 points.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import ingot
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import page
import reference
import weave
from catalog import Merge, Method, Value, of_package
from choices import LAMBDAS, MEASURED, WITH_BASE, Entry, entries, reason_against
from classifier import Weights, accuracy, load
from experts import NORMS, SIDES, TASKS, Images, Repetition, loss, prepare, task_accuracy
from page import Comparison, Row, Score

LIMIT = 0.2  # points between an accuracy of Ingot's and the reference's


class Bench:
    """The repetitions, and the engine that merges them."""

    def __init__(self, folder: Path, repetitions: int, sides: Collection[str]) -> None:
        self.engine = ingot.Engine(threads=1)
        self.repetitions = [prepare(folder / f"repetition-{seed}", seed, sides) for seed in range(repetitions)]
        self.expert_accuracies = [
            [task_accuracy(weights, made.test, classes) for weights, classes in zip(made.experts, TASKS)] for made in self.repetitions
        ]
        self.losses = [[loss(weights, made.validation) for weights in made.experts] for made in self.repetitions]

    # Merging

    def recipe(self, entry: Entry, index: int, parameters: dict[str, Value]) -> Merge:
        made, method = self.repetitions[index], entry.method
        has_base = method.base == "required" or (method.base == "optional" and method.name in WITH_BASE)
        measured = {MEASURED[method.name]: self.losses[index]} if method.name in MEASURED else {}
        wanted = [side.name for side in method.sides if side.name in SIDES]
        return Merge(
            method=method.name,
            models=made.expert_paths,
            base=made.base_path if has_base else None,
            parameters={**entry.parameters, **parameters},
            by_model=measured,
            sides={name: made.side_paths(name) for name in wanted},
            aim=made.norms_path if entry.aim else None,
        )

    def merged(self, entry: Entry, index: int, parameters: dict[str, Value], keep: str = "") -> Weights:
        """The merge of one repetition's experts; recipe and model stay where `keep` gives them a name."""
        folder = self.repetitions[index].folder / "merges"
        folder.mkdir(exist_ok=True)
        name = keep or "last"
        recipe, out = folder / f"{name}.yml", folder / name
        recipe.write_text(self.recipe(entry, index, parameters).recipe(), encoding="utf-8")
        self.engine.merge(recipe, out, sync="none", force=True)
        weights = load(out)
        if not keep:
            shutil.rmtree(out)
            recipe.unlink()
        return weights

    def check(self, entry: Entry) -> None:
        """Plans the merge of the first repetition, so that a recipe that is refused is known before minutes of merging."""
        path = self.repetitions[0].folder / "merges" / f"{entry.key}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(self.recipe(entry, 0, {"task": 1} if entry.by_task else {}).recipe(), encoding="utf-8")
        self.engine.plan(path)

    # Measuring

    def score(self, models: Callable[[int], Sequence[Weights]]) -> Score:
        """`models` gives those of a repetition: one, or one for each task."""
        all_ten, per_task = [], []
        for index, made in enumerate(self.repetitions):
            chosen = models(index)
            own = list(chosen) * len(TASKS) if len(chosen) == 1 else list(chosen)
            all_ten.append(_all_ten(own, made.test))
            shares = [task_accuracy(weights, made.test, classes) for weights, classes in zip(own, TASKS)]
            per_task.append(float(np.mean([100 * share / most for share, most in zip(shares, self.expert_accuracies[index])])))
        return Score(tuple(all_ten), tuple(per_task))

    def models_of(self, entry: Entry, index: int, parameters: dict[str, Value], keep: str = "") -> list[Weights]:
        if not entry.by_task:
            return [self.merged(entry, index, parameters, keep)]
        return [self.merged(entry, index, {**parameters, "task": task + 1}, keep and f"{keep}-{task + 1}") for task in range(len(TASKS))]

    def row(self, entry: Entry) -> Row:
        at_defaults = self.score(lambda index: self.models_of(entry, index, {}, entry.key))
        found = Row(entry, at_defaults, self.tuned(entry) if entry.is_tuned else None)
        print(f"  {entry.key:28} {np.mean(at_defaults.all_ten):6.1f}", end="", flush=True)
        print("" if found.tuned is None else f"   λ {found.tuned[0]:g}: {np.mean(found.tuned[1].all_ten):6.1f}", flush=True)
        return found

    def tuned(self, entry: Entry) -> tuple[float, Score]:
        """The λ with the best mean accuracy on the validation images, the smallest of equals, and the test images with it."""

        def validated(factor: float) -> float:
            values = []
            for index, made in enumerate(self.repetitions):
                values.append(accuracy(self.merged(entry, index, {"lambda": factor}), made.validation.pixels, made.validation.labels))
            return float(np.mean(values))

        best = max(LAMBDAS, key=validated)
        return best, self.score(lambda index: [self.merged(entry, index, {"lambda": best}, f"{entry.key}-tuned")])

    def models(self) -> dict[str, Score]:
        """The models that are not merged, for comparison."""

        def alone(task: int) -> Score:
            return self.score(lambda index: [self.repetitions[index].experts[task]])

        def mean(series: Sequence[page.Series]) -> page.Series:
            return tuple(float(value) for value in np.mean(series, axis=0))

        each = [alone(task) for task in range(len(TASKS))]
        return {
            "*base*": self.score(lambda index: [self.repetitions[index].base]),
            "*an expert, mean of four*": Score(mean([score.all_ten for score in each]), mean([score.per_task for score in each])),
            "*experts, each task's own*": self.score(lambda index: self.repetitions[index].experts),
            "*trained on all tasks*": self.score(lambda index: [self.repetitions[index].joint]),
        }


def _all_ten(own: Sequence[Weights], images: Images) -> float:
    """Percent told right among all ten digits, each image by the model of its task."""
    right = 0.0
    for weights, classes in zip(own, TASKS):
        part = images.of(classes)
        right += accuracy(weights, part.pixels, part.labels) * len(part.labels)
    return right / len(images.labels)


def references(bench: Bench, offered: dict[str, Method], rows: Sequence[Row]) -> list[Comparison]:
    """Every reference merge at the default λ and at the one that was chosen."""

    def inputs(made: Repetition) -> list[reference.Inputs]:
        return [reference.inputs_of(weights, made.training.of(classes).pixels) for weights, classes in zip(made.experts, TASKS)]

    merges: dict[str, tuple[str, Callable[[Repetition, float], reference.Doubles]]] = {
        "simple average": ("uniform_soup", lambda made, _: reference.simple_average(made.experts)),
        "task arithmetic": ("task_arithmetic", lambda made, factor: reference.task_arithmetic(made.base, made.experts, factor)),
        "TIES": ("ties", lambda made, factor: reference.ties(made.base, made.experts, factor, density=0.2)),
        "Iso-C": ("iso_c", lambda made, factor: reference.iso_c(made.base, made.experts, factor)),
        "TSV-M": ("tsv_m", lambda made, factor: reference.tsv_m(made.base, made.experts, factor)),
        "RegMean": ("regmean", lambda made, _: reference.regmean(made.experts, inputs(made))),
        "OPCM": ("opcm", lambda made, _: reference.opcm(made.base, made.experts)),
    }
    found = []
    for name, (method, merge) in merges.items():
        entry = entries(offered, [method])[0]
        tuned = next((row.tuned[0] for row in rows if row.tuned is not None and row.entry == entry), None)
        factors: list[float | None] = [None]
        if entry.is_tuned:
            factors = [1.0] if tuned in (None, 1.0) else [1.0, tuned]
        for factor in factors:
            ours, theirs = [], []
            for index, made in enumerate(bench.repetitions):
                parameters: dict[str, Value] = {} if factor is None else {"lambda": factor}
                ours.append(accuracy(bench.merged(entry, index, parameters), made.test.pixels, made.test.labels))
                exact = {key: value.astype(np.float32) for key, value in merge(made, 1.0 if factor is None else factor).items()}
                theirs.append(accuracy(exact, made.test.pixels, made.test.labels))
            apart = max(abs(a - b) for a, b in zip(ours, theirs))
            found.append(Comparison(name, factor, tuple(ours), tuple(theirs), apart))
    return found


def differing(compared: Sequence[Comparison]) -> list[str]:
    """The merges that are not the reference's; NaN is none."""
    return [each.name for each in compared if not each.apart <= LIMIT]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(prog="digits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / ".build" / "digits", help="a folder for models, recipes and merges; made anew")
    parser.add_argument("--methods", default="", help="only these, comma-separated, and no page")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--page", type=Path, help="write the page to this file too")
    parser.add_argument("--methods-page", type=Path, help="put each method's accuracies into this page of the methods")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    chosen = options.methods.split(",") if options.methods else None
    offered = of_package()
    unknown = sorted(set(chosen or ()) - set(offered))
    if unknown:
        print(f"error: there is no method {', '.join(unknown)}", file=sys.stderr)
        return 2
    wanted = entries(offered, chosen)  # before the training: a method that cannot be run is told at once
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    print(f"training {options.repetitions} times a base, {len(TASKS)} experts and one of all; collecting side inputs", flush=True)
    sides = {"gram"} | {side.name for entry in wanted for side in entry.method.sides} | {NORMS for entry in wanted if entry.aim}
    bench = Bench(options.out.resolve(), options.repetitions, sides)
    for entry in wanted:
        bench.check(entry)
    print("merging: accuracy on the test images, then with the best λ", flush=True)
    rows = [bench.row(entry) for entry in wanted]
    compared = references(bench, offered, rows)
    print("\n" + page.comparison_table(compared), flush=True)
    if chosen is None:
        excluded = {name: reason for name, method in offered.items() if (reason := reason_against(method)) is not None}
        size = sum(value.size for value in bench.repetitions[0].base.values())
        text = page.page(bench.models(), rows, compared, excluded, options.repetitions, size, LIMIT)
        for path in filter(None, (options.out / "digits.md", options.page)):
            path.write_text(text, encoding="utf-8")
            print(f"wrote {os.path.relpath(path)}")
        if options.methods_page:
            woven = weave.weave(options.methods_page.read_text(encoding="utf-8"), weave.figures(text))
            options.methods_page.write_text(woven, encoding="utf-8")
            print(f"wrote {os.path.relpath(options.methods_page)}")
    names = differing(compared)
    if names:
        print(f"error: accuracies differ from the reference merge's by more than {LIMIT} points: {', '.join(names)}", file=sys.stderr)
    return int(bool(names))


if __name__ == "__main__":
    sys.exit(main())
