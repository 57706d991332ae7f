"""Rolling merges: models that come one after another, merged without keeping them.

    >>> import ingot
    >>> for checkpoint in checkpoints:  # doctest: +SKIP
    ...     ingot.rolling.step("state", checkpoint, method="running_mean")
    >>> ingot.rolling.finish("state", "mean")  # doctest: +SKIP

A state is a directory with one running object of the size of a model, or a few. docs/rolling.md has methods, settings and layout.
"""

from __future__ import annotations

from typing import Any

from ._context import Path, Sync
from ._engines import shared_engine
from ._progress import Listener
from ._rolling import RollingReport

__all__ = ["RollingReport", "finish", "step"]


def step(
    state: Path,
    model: Path,
    *,
    method: str | None = None,
    base: Path | None = None,
    weight: float | None = None,
    side: Path | None = None,
    again: bool = False,
    sync: Sync = "all",
    progress: bool | Listener | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    isa: str | None = None,
    **settings: Any,
) -> RollingReport:
    """Folds a model into the state, which is made if it does not exist. The model is not needed after that.

    The state is replaced in one step: after an interruption the model is either in or not, and the same call can be made again.

    state: the state's directory.
    model: a directory, a file, a name of the Hugging Face cache, each also with `+adapter`; every model has the same tensors.
    method: "running_mean", "weighted_mean", "ema", "mos", "task_arithmetic", "opcm", "dop", "magmax", "ties", "ties_model",
        "fisher" or "ota". The first step needs it; further ones leave it out, or give the same.
    base: the base model, for methods of task vectors (θ − base) and ota. The first step needs it; the state knows it then.
    weight: factor of the model, for methods that take one; None for 1.
    side: the model's side file, for fisher (Fisher information) and ota (Adam's second moments); `ingot.collect` makes them.
    again: take a model whose files are in the state already once more.
    settings: the method's number, for the first step: `beta` of ema, `alpha` of mos, opcm and dop, `density` of ties, ties_model
        and ota.
    Other parameters as for `ingot.merge`. The bytes of the state depend on the models, their order and the settings alone.

    Raises ExistsError for a model that is in already and for a directory that is no state, StaleError for a base that has changed,
    InvalidArgumentError for what contradicts the state or its method; the state is as it was then.
    """
    with shared_engine(threads, memory, isa) as engine:
        return engine.roll(
            state,
            model,
            method=method,
            base=base,
            weight=weight,
            side=side,
            again=again,
            sync=sync,
            progress=progress,
            **settings,
        )


def finish(
    state: Path,
    out: Path,
    *,
    lambda_: float | None = None,
    dtype: Any = None,
    force: bool = False,
    sync: Sync = "all",
    progress: bool | Listener | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    isa: str | None = None,
) -> RollingReport:
    """Writes the model that a state makes. The state stays, and may go on.

    out: the directory to make; it must not exist, unless `force`.
    lambda_: factor of the merged task vector, for methods that have one; None for 1.
    dtype: of the model, e.g. "bfloat16" or torch.float16; None for the base's, tensor by tensor, else the one that the first model's
        tensors share.
    force: replace an existing directory, in one step once the new one is complete.
    Other parameters as for `ingot.merge`. Raises NotFoundError without a state, StaleError for a base that has changed.
    """
    with shared_engine(threads, memory, isa) as engine:
        return engine.finish_rolling(state, out, lambda_=lambda_, dtype=dtype, force=force, sync=sync, progress=progress)
