"""A merge for every registered method, over the checkpoints of checkpoints.py: mergekit's methods as benchmarks/versus_mergekit runs them,
the others with what stands here beside their defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import recipes
from catalog import Merge, Method, Value, missing
from recipes import WEIGHTS, Recipe

GIVEN: dict[str, dict[str, Value]] = {
    "della_linear": {"density": 0.5, "epsilon": 0.1},
    "breadcrumbs": {"density": 0.5},
    "ties_sv": {"density": 0.5},
    "ota": {"density": 0.5},
    "evo_merging": {"density": 0.5},
    "mediator": {"weight": 0.3},
    "twin": {"weight": 0.3},
    "twin_svd": {"weight": 0.3},
    "sparse_soup": {"check": "warn"},
    # The iteration of the papers takes hours at this size; the minimum that it goes to is a solve.
    "wudi": {"solver": "closed_form"},
    "optmerge": {"solver": "closed_form"},
}
BY_MODEL: dict[str, dict[str, Sequence[Value]]] = {
    "metrics_weighted": {"loss": (2.0, 2.1, 2.2)},
    "lm_cocktail": {"loss": (2.0, 2.1, 2.2)},
}
WITH_BASE = {"ota", "mats"}  # of the methods to which a base is optional
EXCLUDED = {"custom_diffusion": "edits the cross-attention of image models, which these are not"}
FORMS = {"tensor": "tensor", "tensor_or_sums": "tensor", "optional_tensor": "tensor", "gram": "gram"}  # which side inputs serve which form
AIM = "task_arithmetic, aim"  # activation-informed merging as the last step of another method


def of_layers(layers: int) -> dict[str, Value]:
    """Layer swapping's cut for a model with so many layers: 5 and 2 of 22."""
    return {"bottom": layers // 4, "top": layers // 10}


@dataclass(frozen=True)
class Job:
    """What is measured under one name. `forms` are those of the side inputs that it reads."""

    name: str
    method: Method
    forms: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        given = GIVEN.get(self.name, {}) if self.method.works_on_matrices else {}
        return f"{self.name}" + "".join(f", {name} {value}" for name, value in given.items())


def jobs(methods: Mapping[str, Method]) -> dict[str, Job]:
    """One for each method, and one for `aim`. LookupError names a method that lacks something here."""
    found: dict[str, Job] = {}
    for name, method in methods.items():
        if name in EXCLUDED:
            continue
        sides = [side for side in method.sides if side.required or name == "rcp"]
        if name not in recipes.METHODS + recipes.FURTHER:
            given = {*GIVEN.get(name, {}), *BY_MODEL.get(name, {}), *(method.required & {"weight"})}
            lacking = missing(method, given, [side.name for side in sides if side.form in FORMS])
            if lacking:
                raise LookupError(f"{name}: benchmarks/methods/merges.py does not say {', '.join(lacking)}")
        forms = tuple(sorted({FORMS[side.form] for side in sides}))
        found[name] = Job(name, method, forms)
        if f"{name}, aim" == AIM:
            found[AIM] = Job(AIM, method, ("channels",))
    return found


def recipe(job: Job, models_root: Path, layers: int, side_folder: Callable[[str], Path]) -> Recipe:
    """The recipe, with the directories that it reads: models, then side inputs. `side_folder` gives that of a form."""
    method = job.method
    if method.name in recipes.METHODS + recipes.FURTHER and job.name != AIM:
        return recipes.recipe(method.name, models_root)
    tuned = [models_root / f"ft{number}" for number in (1, 2, 3)][: method.most]
    base = models_root / "base" if method.base == "required" or method.name in WITH_BASE else None
    by_model = dict(BY_MODEL.get(method.name, {}))
    given = dict(GIVEN.get(method.name, {}))
    if method.name == "layer_swap":
        given |= of_layers(layers)
    if "weight" in method.required and "weight" not in given:
        by_model["weight"] = WEIGHTS[: len(tuned)]
    sides = _sides(job, tuned, side_folder)
    shared = {side.name: side_folder(FORMS[side.form]) / "ft1" for side in method.sides if side.required and not side.per_model}
    aim = side_folder("channels") / "base" if job.name == AIM else None
    merge = Merge(method.name, tuned, base, given, by_model, sides, shared, aim, dtype="bfloat16")
    read = [*shared.values(), *([] if aim is None else [aim])]
    for each in sides.values():
        for files in each:
            read += [] if files is None else [files] if isinstance(files, Path) else files
    return Recipe(job.name, merge.recipe(), (*tuned, *([] if base is None else [base]), *read))


def _sides(job: Job, tuned: Sequence[Path], side_folder: Callable[[str], Path]) -> dict[str, Sequence[Path | Sequence[Path] | None]]:
    if job.method.name == "rcp":  # of the first model one, of the second one for each sample
        made = [side_folder("tensor") / name for name in ("ft1", "ft2", "ft3")]
        return {"prior": (made[0], None), "gradients": (None, made[1:])}
    found: dict[str, Sequence[Path | Sequence[Path] | None]] = {}
    for side in job.method.sides:
        if side.required and side.per_model:
            found[side.name] = [side_folder(FORMS[side.form]) / model.name for model in tuned]
    return found
