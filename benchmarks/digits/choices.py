"""What each method is given on the digits, beside its defaults, and which methods are left out.

Where a default would make the method trivial (a density of 1 trims nothing) a usual value of its paper's stands here. Nothing was
searched for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from catalog import Method, Value, missing
from experts import SIDES, TASKS

# λ of every method that has one, tried on the validation images.
LAMBDAS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0)

GIVEN: dict[str, dict[str, Value]] = {
    "ties": {"density": 0.2},
    "ties_sv": {"density": 0.2},
    "dare_linear": {"density": 0.2},
    "dare_ties": {"density": 0.2},
    "della": {"density": 0.4, "epsilon": 0.1},
    "della_linear": {"density": 0.4, "epsilon": 0.1},
    "breadcrumbs": {"density": 0.9},
    "breadcrumbs_ties": {"density": 0.9},
    "sce": {"select_topk": 0.1},
    "ota": {"density": 0.4},
    "mediator": {"weight": 0.25},
    "twin": {"weight": 0.25},
    "twin_svd": {"weight": 0.25},
}
# Rows of their own for another way of the method.
VARIANTS: dict[str, list[dict[str, Value]]] = {
    "ties": [{"scope": "model"}],
    "wudi": [{"solver": "closed_form"}],
    "optmerge": [{"solver": "closed_form"}],
    "varm": [{"granularity": "element"}],
    "regmean": [{"reduce_non_diagonal_ratio": 0.1}],
}
WITH_BASE = {"ota", "mats"}  # of the methods to which a base is optional
MEASURED = {"metrics_weighted": "loss", "lm_cocktail": "loss"}  # a parameter by model: what the model's loss on the validation images is
BY_TASK = (
    "consensus",
    "emr",
    "mediator",
    "twin",
    "twin_svd",
    "onebit",
)  # can rebuild the model of one task
AIM = ("task_arithmetic",)  # once more with activation-informed merging as the last step

EXCLUDED = {
    "evo_merging": "sparsifies the factors of adapters; on full models it is a weighted sum",
    "sparse_soup": "wants models that were pruned by one mask",
    "concrete": "wants masks that were learned on data",
    "custom_diffusion": "edits the cross-attention of image models by text features",
    "wise": "merges side memories that were edited in masked subspaces",
    "ema": "averages the checkpoints of one training, in order",
    "swa": "averages the checkpoints of one training; on experts it is `uniform_soup`",
    "lawa": "averages the checkpoints of one training; on experts it is `uniform_soup`",
    "wma": "averages the checkpoints of one training, in order",
}


@dataclass(frozen=True)
class Entry:
    """A row of the table."""

    method: Method
    given: Mapping[str, Value] = field(default_factory=dict)
    variant: Mapping[str, Value] = field(default_factory=dict)
    by_task: bool = False
    aim: bool = False

    @property
    def parameters(self) -> dict[str, Value]:
        return {**dict.fromkeys(self.method.required & {"weight"}, 1.0), **self.given, **self.variant}

    @property
    def is_tuned(self) -> bool:
        """Whether λ is chosen; where a task's own model is rebuilt it stays at its default."""
        return "lambda" in self.method.defaults and not self.by_task

    @property
    def key(self) -> str:
        """A name for files."""
        parts = [self.method.name, *map(str, self.variant.values())]
        return "-".join([*parts, *(["task"] if self.by_task else []), *(["aim"] if self.aim else [])])

    @property
    def label(self) -> str:
        return f"`{self.method.name}`" + (", each task's own" if self.by_task else ", `aim`" if self.aim else "")


def reason_against(method: Method) -> str | None:
    """Why the method has no row; None for one that has."""
    if method.name in EXCLUDED:
        return EXCLUDED[method.name]
    if method.most is not None and method.most < len(TASKS):
        taken = f"{method.most} models" if method.most > 1 else "one model"
        return f"merges {taken}" + (" into a base" if method.base == "required" else "")
    return None


def entries(methods: Mapping[str, Method], chosen: Sequence[str] | None = None) -> list[Entry]:
    """The rows of `chosen` methods, or of all. LookupError names one that neither has what it needs nor a reason to be left out."""
    rows: list[Entry] = []
    for name in methods if chosen is None else chosen:
        method = methods[name]
        if reason_against(method) is not None:
            continue
        given = GIVEN.get(name, {})
        row = Entry(method, given)
        lacking = missing(method, row.parameters, SIDES)
        if lacking:
            raise LookupError(f"{name}: benchmarks/digits/choices.py does not say {', '.join(lacking)}, nor why {name} is left out")
        rows.append(row)
        rows += [Entry(method, given, variant) for variant in VARIANTS.get(name, [])]
        if name in BY_TASK:
            # Which of the models' own parts is added says either `task` or their weights.
            rows.append(Entry(method, {key: value for key, value in given.items() if key != "weight"}, by_task=True))
        if name in AIM:
            rows.append(Entry(method, given, aim=True))
    return rows
