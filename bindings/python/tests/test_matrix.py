"""Matrix methods against the papers' formulas in numpy's float64: the error of the merged delta, relative in the Frobenius norm."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ingot
import matrix_formulas as formulas
import numpy as np
import pytest
from matrix_formulas import INPUTS, Matrix

MODULE = "model.layers.0.mlp.up_proj"
NAME = f"{MODULE}.weight"
LIMIT = 1e-4
# Where float32 knows less of what is merged: Iso-CTS's single directions are what is left of a task matrix that is a hundred times
# larger, and panels see null directions only through the rounding of their Gram matrix.
LIMITS = {("iso_cts", "bf16_difference"): 2e-3, ("iso_c always", "rank_deficient"): 2e-3}

Reference = Callable[[list[Matrix]], Matrix]
CASES: list[tuple[str, dict[str, object], Reference]] = [
    ("iso_c", {}, formulas.iso_c),
    ("iso_c", {"route": "svd"}, formulas.iso_c),
    ("iso_c", {"route": "eigen"}, formulas.iso_c),
    ("iso_c", {"panels": "always"}, formulas.iso_c),
    ("iso_cts", {}, formulas.iso_cts),
    ("tsv_m", {}, formulas.tsv_m),
    ("r_tsvm", {}, formulas.r_tsvm),
    ("wudi", {"solver": "closed_form"}, formulas.wudi),
    ("optmerge", {"solver": "closed_form"}, formulas.optmerge),
    ("optmerge", {"solver": "closed_form", "variant": "lora"}, formulas.optmerge_lora),
    ("opcm", {}, formulas.opcm),
    ("dop", {}, formulas.dop),
]


def relative(found: Matrix, expected: Matrix) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("shape", [(96, 96), (64, 160), (150, 72)])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(("method", "parameters", "reference"), CASES)
def test_equals_the_svd_in_float64(
    method: str, parameters: dict[str, object], reference: Reference, kind: str, shape: tuple[int, int]
) -> None:
    base, tunes = INPUTS[kind](np.random.default_rng(5), shape)
    merged = ingot.merge_state_dicts(method, [{NAME: t} for t in tunes], base={NAME: base}, dtype="float32", **parameters)[NAME]
    error = relative(merged.astype("d") - base, reference([t.astype("d") - base for t in tunes]))
    name = " ".join([method, *(str(value) for value in parameters.values())])
    assert error <= LIMITS.get((name, kind), LIMIT), f"{error:.1e}"


@pytest.mark.parametrize("ratio", [0.9, 1.0])
@pytest.mark.parametrize("samples", [400, 20])
@pytest.mark.parametrize("shape", [(96, 96), (40, 130), (150, 72)])
def test_regmean_equals_the_normal_equations_in_float64(ratio: float, samples: int, shape: tuple[int, int]) -> None:
    """Inputs with a few strong channels; 20 samples of each model leave directions that no model has."""
    rng = np.random.default_rng(6)
    base, tunes = INPUTS["bf16_difference"](rng, shape)
    scales = np.where(np.arange(shape[1]) % 17 == 0, 8, 0.5)
    inputs = [rng.normal(0, 1, (samples, shape[1])) @ np.diag(scales) for _ in tunes]
    grams = [(x.T @ x / samples).astype("f") for x in inputs]
    merged = ingot.merge_state_dicts(
        "regmean",
        [{NAME: t} for t in tunes],
        side={"gram": [{MODULE: g} for g in grams]},
        dtype="float32",
        reduce_non_diagonal_ratio=ratio,
    )[NAME]
    expected = formulas.regmean([t.astype("d") for t in tunes], [g.astype("d") for g in grams], ratio)
    # Of the models' difference, not of the weights themselves, which are the larger part.
    error = relative(merged - base.astype("d"), expected - base)
    assert error <= LIMIT, f"{error:.1e}"


def test_the_package_advises_openblas_and_leaves_what_is_set() -> None:
    code = "import os, ingot; print(os.environ.get('OPENBLAS_CORETYPE', ''))"
    source = str(Path(ingot.__file__).parents[1])
    own = {**os.environ, "OPENBLAS_CORETYPE": "Haswell", "PYTHONPATH": source}
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=own)
    assert answer.stdout.strip() == "Haswell"
    del own["OPENBLAS_CORETYPE"]
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=own)
    assert answer.stdout.strip() in ("", "SkylakeX")
