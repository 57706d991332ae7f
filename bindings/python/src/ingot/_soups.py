"""Greedy soups: which models to average is found out by a score."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ._api import merge
from ._errors import ExistsError, InvalidArgumentError
from ._reports import Report

Accept = Literal["gt", "ge"]


@dataclass(frozen=True)
class SoupTrial:
    """One evaluation of a greedy soup."""

    candidate: str
    members: tuple[str, ...]  # what was averaged, the candidate last
    score: float
    accepted: bool


@dataclass(frozen=True)
class Soup:
    """What a greedy soup became: its members in the order in which they were taken, and every evaluation."""

    members: tuple[str, ...]
    score: float
    scores: dict[str, float]  # of each model alone
    history: tuple[SoupTrial, ...]
    report: Report  # of the merge into the directory


def greedy_soup(
    models: Sequence[str | os.PathLike[str]],
    score: Callable[[str], float],
    out: str | os.PathLike[str],
    *,
    accept: Accept = "gt",
    scores: Sequence[float] | None = None,
    scratch: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    force: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Soup:
    """Averages those of the models that make the average better, the best first (Model soups, arXiv 2203.05482).

    The models are scored alone and tried in descending order, equal ones as they were given. A candidate stays when the plain mean of the
    members and itself scores higher than the members did. Every trial is one merge of the models themselves, so nothing is rounded
    between trials. N models take 2 N - 1 evaluations.

    models: paths, or names of the local Hugging Face cache; each once.
    score: a function of a model's path (for single models what was given) that says how good it is on held-out data, higher is better. An
        exception that it raises comes out as itself.
    out: the directory to make of the members.
    accept: "gt" takes a candidate that makes the score higher, "ge" also one that leaves it as it is.
    scores: those of the single models, where they are known.
    scratch: where the trials are written and removed again; None for the directory that `out` is to be in.
    dtype: of the trials and the result; None for that of the models.
    force: replace `out` where it exists.
    threads, memory: as for `merge`.
    """
    names = [os.fspath(model) for model in models]
    _check(names, accept, scores)
    if os.path.lexists(out) and not force:
        # After hours of evaluations would be too late.
        raise ExistsError("the destination exists", hint="choose another one, or force=True", subject=os.fspath(out))
    known = [_finite(value, name) for name, value in zip(names, scores if scores is not None else map(score, names))]
    order = sorted(range(len(names)), key=lambda index: -known[index])
    members, best = [names[order[0]]], known[order[0]]
    history = [SoupTrial(members[0], tuple(members), best, True)]
    parent = os.path.dirname(os.path.abspath(out)) if scratch is None else scratch
    folder = tempfile.mkdtemp(prefix="greedy-soup-", dir=parent)
    try:
        for index in order[1:]:
            trial = [*members, names[index]]
            place = os.path.join(folder, "trial")
            merge(_recipe(trial, dtype), place, sync="none", force=True, threads=threads, memory=memory)
            found = _finite(score(place), " + ".join(trial))
            taken = found > best or (accept == "ge" and found == best)
            history.append(SoupTrial(names[index], tuple(trial), found, taken))
            if taken:
                members, best = trial, found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = merge(_recipe(members, dtype), out, force=force, threads=threads, memory=memory)
    return Soup(tuple(members), best, dict(zip(names, known)), tuple(history), report)


def _check(names: Sequence[str], accept: str, scores: Sequence[float] | None) -> None:
    if not names:
        raise InvalidArgumentError("no models given", hint="give the models to choose from", subject="models")
    for name in names:
        if names.count(name) > 1:
            raise InvalidArgumentError(f"the model {name} is given {names.count(name)} times", hint="give each once", subject="models")
    if accept not in ("gt", "ge"):
        raise InvalidArgumentError(f"accept is {accept!r}, expected 'gt' or 'ge'", subject="accept")
    if scores is not None and len(scores) != len(names):
        raise InvalidArgumentError(f"found {len(scores)} scores, expected one for each of {len(names)} models", subject="scores")


def _finite(value: Any, name: str) -> float:
    number = float(value)
    if math.isnan(number):
        raise InvalidArgumentError(f"the score of {name} is NaN, so it has no place in the order", subject="score")
    return number


def _recipe(names: Sequence[str], dtype: str | None) -> dict[str, Any]:
    recipe: dict[str, Any] = {"merge_method": "uniform_soup", "models": [{"model": name} for name in names]}
    if dtype is not None:
        recipe["dtype"] = dtype
    return recipe
