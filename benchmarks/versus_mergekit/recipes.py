"""The recipes that both programs run: one per method, over the checkpoints of `checkpoints.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Recipe:
    """`text` in mergekit's YAML; `models` are the directories that it reads, in order."""

    method: str
    text: str
    models: tuple[Path, ...]
    random: bool = False

    def inputs(self) -> list[Path]:
        """The weight files that a run reads."""
        return [file for model in self.models for file in sorted(model.glob("*.safetensors"))]


WEIGHTS = (0.5, 0.3, 0.2)
METHODS = ("passthrough", "linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della")
# Measured when they are named: together they take the peer more than twenty minutes a round.
FURTHER = ("breadcrumbs_ties", "sce", "arcee_fusion", "multislerp", "karcher", "model_stock", "nuslerp", "nearswap")


def _entries(models: Sequence[Path], **parameters: float) -> str:
    lines = ["models:"]
    for model, weight in zip(models, WEIGHTS):
        lines += [f"  - model: {model}", "    parameters:", f"      weight: {weight}"]
        lines += [f"      {name}: {value}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


def recipe(method: str, models_root: Path) -> Recipe:
    """The recipe of `method` for the set at `models_root`; task-vector methods use `base`, the others do not."""
    base = models_root / "base"
    tuned = tuple(models_root / f"ft{number}" for number in (1, 2, 3))
    tail = f"merge_method: {method}\ndtype: bfloat16\n"
    with_base = f"base_model: {base}\n"
    if method == "passthrough":
        return Recipe(method, f"models:\n  - model: {tuned[0]}\n{tail}", tuned[:1])
    if method == "linear":
        return Recipe(method, _entries(tuned) + tail, tuned)
    if method == "slerp":
        models = f"models:\n  - model: {tuned[0]}\n  - model: {tuned[1]}\nbase_model: {tuned[0]}\n"
        return Recipe(method, models + "parameters:\n  t: 0.4\n" + tail, tuned[:2])
    if method == "task_arithmetic":
        return Recipe(method, _entries(tuned) + with_base + tail, (*tuned, base))
    if method in ("karcher", "model_stock"):
        models = "models:\n" + "".join(f"  - model: {model}\n" for model in tuned)
        if method == "karcher":
            return Recipe(method, models + tail, tuned)
        return Recipe(method, models + with_base + tail, (*tuned, base))
    if method == "multislerp":
        return Recipe(method, _entries(tuned) + tail, tuned)
    if method == "nuslerp":
        return Recipe(method, _entries(tuned[:2]) + tail, tuned[:2])
    if method in ("arcee_fusion", "nearswap"):
        models = f"models:\n  - model: {tuned[0]}\n"
        parameters = "parameters:\n  t: 0.001\n" if method == "nearswap" else ""
        return Recipe(method, models + with_base + parameters + tail, (tuned[0], base))
    if method == "sce":
        models = "models:\n" + "".join(f"  - model: {model}\n" for model in tuned)
        return Recipe(method, models + with_base + "parameters:\n  select_topk: 0.5\n" + tail, (*tuned, base))
    if method in ("ties", "dare_linear", "dare_ties", "breadcrumbs_ties"):
        text = _entries(tuned, density=0.5) + with_base + tail
        return Recipe(method, text, (*tuned, base), random=method.startswith("dare"))
    if method == "della":
        return Recipe(method, _entries(tuned, density=0.5, epsilon=0.1) + with_base + tail, (*tuned, base), random=True)
    raise ValueError(f"no benchmark recipe for '{method}'; there are {', '.join(METHODS + FURTHER)}")
