"""The table of accuracies as a page of the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from choices import LAMBDAS, Entry
from experts import BASE_IMAGES, FISHER_EXAMPLES, TASKS, TEST, VALIDATION

Series = tuple[float, ...]  # one value for each repetition


@dataclass(frozen=True)
class Score:
    """Percent of the test images told right among all ten digits, and the mean over the tasks of the accuracy among the task's own
    digits as a share of its expert's."""

    all_ten: Series
    per_task: Series


@dataclass(frozen=True)
class Row:
    entry: Entry
    at_defaults: Score
    tuned: tuple[float, Score] | None


@dataclass(frozen=True)
class Comparison:
    """A reference merge: accuracies of both, and the largest difference between two of them."""

    name: str
    factor: float | None
    ours: Series
    reference: Series
    apart: float


HEAD = """\
# Handwritten digits

Written by `scripts/digits --update`, which trains, collects, merges and measures all of this in a few minutes.

What each method keeps of four experts, on scikit-learn's handwritten digits (1797 real images of 8 × 8 pixels). A residual network with six
weight matrices ({parameters} parameters) is trained a little on all ten digits, with {few} images. From this base an expert is trained for
each of four tasks, the digits {tasks}; it sees no others and soon forgets them. Ingot's Python package merges the experts.

* *All ten*: percent of {test} test images, which no training saw, told right among all ten digits.
* *By task*: the mean over the tasks of the accuracy among the task's own digits, as percent of its expert's, as where tasks have heads of
  their own.
* *λ*: the factor of the merged task vector, of {lambdas}, with the best accuracy on {validation} further images, which neither
  training nor test saw; then the test images again. Methods without a λ are measured once.
* Figures are means over {repetitions} repetitions, ± the standard deviation between them; each has its own split of the images, base and
  experts.
* Side inputs are made by `ingot.collect` on the experts' own training images: the diagonal Fisher information of {fisher} of them, Gram
  matrices, Adam's second moments; for `aim` the base's activation norms. The losses of
  `metrics_weighted` and `lm_cocktail` are those on the validation images.
* *Given* is what the recipe has beside defaults, chosen beforehand; a required `weight` is 1 for every model.
* *Each task's own*: where a method can rebuild one task's model (`task`), every image is shown to the model of its task; λ
  stays at its default.

One small network says how the methods behave, not which is best for large models: differences below the deviation mean nothing.
Training is deterministic on one machine; another processor rounds differently, and moves the figures by about as much.
"""


def _figure(values: Series) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _given(entry: Entry) -> str:
    values = {**entry.given, **entry.variant}
    return ", ".join(f"`{name}` {value}" for name, value in values.items())


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def table(models: Mapping[str, Score], rows: Sequence[Row]) -> str:
    lines = [
        _cells(["method", "given", "all ten", "by task", "λ", "all ten", "by task"]),
        _cells(["---"] * 7),
    ]
    for name, score in models.items():
        lines.append(_cells([name, "", _figure(score.all_ten), _figure(score.per_task), "", "", ""]))
    for row in rows:
        factor, tuned = row.tuned if row.tuned is not None else (None, None)
        lines.append(
            _cells(
                [
                    row.entry.label,
                    _given(row.entry),
                    _figure(row.at_defaults.all_ten),
                    _figure(row.at_defaults.per_task),
                    "" if factor is None else f"{factor:g}",
                    "" if tuned is None else _figure(tuned.all_ten),
                    "" if tuned is None else _figure(tuned.per_task),
                ]
            )
        )
    return "\n".join(lines) + "\n"


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    lines = [_cells(["merge", "λ", "Ingot", "numpy, float64", "largest difference"]), _cells(["---"] * 5)]
    for each in comparisons:
        factor = "" if each.factor is None else f"{each.factor:g}"
        lines.append(_cells([each.name, factor, f"{mean(each.ours):.2f}", f"{mean(each.reference):.2f}", f"{each.apart:.2f}"]))
    return "\n".join(lines) + "\n"


def page(
    models: Mapping[str, Score],
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    excluded: Mapping[str, str],
    repetitions: int,
    parameters: int,
    limit: float,
) -> str:
    groups = [", ".join(map(str, classes)) for classes in TASKS]
    head = HEAD.format(
        parameters=f"{parameters:,}",
        tasks="; ".join(groups[:-1]) + "; and " + groups[-1],
        few=BASE_IMAGES,
        test=TEST,
        validation=VALIDATION,
        lambdas=", ".join(f"{value:g}" for value in LAMBDAS),
        repetitions=repetitions,
        fisher=FISHER_EXAMPLES,
    )
    reasons = "".join(f"* `{name}` {reason}.\n" for name, reason in excluded.items())
    return (
        f"{head}\n## Accuracies\n\n{table(models, rows)}\n"
        f"## Against reference merges\n\n"
        f"The same merges written in numpy from the papers' formulas, in float64 (`benchmarks/digits/reference.py`), Gram matrices too.\n"
        f"Percent of all ten, means over the repetitions; the command fails where one repetition differs by more than {limit:g} points.\n\n"
        f"{comparison_table(comparisons)}\n"
        f"## Not here\n\n{reasons}"
        "* Rolling merges, merges of adapters and delta packs take or give something else than full models: [rolling.md](rolling.md),\n"
        "  [lora.md](lora.md), [packs.md](packs.md).\n"
    )
