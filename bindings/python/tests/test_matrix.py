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
from matrix_formulas import INPUTS, Matrix, factors
from support import load

MODULE = "model.layers.0.mlp.up_proj"
NAME = f"{MODULE}.weight"
LIMIT = 1e-4
# Where single directions are not known better: the inverse root of a large Gram matrix sees null directions of a sum through the
# rounding of that matrix, 1e-16 σ₁² beside the 1e-12 σ₁² that it adds.
LIMITS = {("iso_c always halley", "rank_deficient"): 2e-3}


def svc(tasks: list[Matrix]) -> Matrix:
    merged = sum(tasks)
    u, _, _ = factors(merged)
    own = u.T @ merged
    counts = np.zeros(len(own))
    for task in tasks:
        seen = u.T @ task
        counts += np.maximum(1, (own * seen).sum(axis=1) / np.maximum((seen * seen).sum(axis=1), 1e-300))
    return merged + u @ np.diag(len(tasks) / counts - 1) @ own


DENSITY, STEPS, RATE = 0.4, 60, 1e-3


def largest(task: Matrix) -> Matrix:
    count = int(DENSITY * task.size)
    return np.abs(task) >= np.sort(np.abs(task), axis=None)[-count]


def doge(tasks: list[Matrix], *, projects: bool = True) -> Matrix:
    scales = [0.07 / np.linalg.norm(t) for t in tasks]
    common, total = sum(s * t for s, t in zip(scales, tasks)), sum(scales)
    rank = min(tasks[0].shape)
    joined = np.concatenate([np.linalg.svd(t, full_matrices=False)[0][:, : rank // len(tasks)] for t in tasks], axis=1)
    basis = np.linalg.svd(joined, full_matrices=False)[0][:, : rank // 6 if projects else 0]
    delta, first, second = (np.zeros(tasks[0].shape) for _ in range(3))
    for step in range(1, STEPS + 1):
        gradient = sum(-2 * total * (t * (t - common - total * delta)).sum(axis=1, keepdims=True) * t for t in tasks)
        gradient = gradient - basis @ (basis.T @ gradient)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        delta = delta - RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return sum(s * largest(t) * (t + delta) for s, t in zip(scales, tasks))


def doge_without_projection(tasks: list[Matrix]) -> Matrix:
    return doge(tasks, projects=False)


Reference = Callable[[list[Matrix]], Matrix]
SETTINGS: dict[str, object] = {"density": DENSITY, "iterations": STEPS, "lr": RATE}
CASES: list[tuple[str, dict[str, object], Reference]] = [
    ("iso_c", {}, formulas.iso_c),
    ("iso_c", {"route": "svd"}, formulas.iso_c),
    ("iso_c", {"route": "eigen"}, formulas.iso_c),
    ("iso_c", {"panels": "always"}, formulas.iso_c),
    ("iso_c", {"panels": "always", "route": "halley"}, formulas.iso_c_smooth),
    ("iso_cts", {}, formulas.iso_cts),
    ("iso_cts", {"panels": "always"}, formulas.iso_cts),
    ("tsv_m", {}, formulas.tsv_m),
    ("tsv_m", {"panels": "always"}, formulas.tsv_m),
    ("r_tsvm", {}, formulas.r_tsvm),
    ("r_tsvm", {"panels": "always"}, formulas.r_tsvm),
    ("wudi", {"solver": "closed_form"}, formulas.wudi),
    ("optmerge", {"solver": "closed_form"}, formulas.optmerge),
    ("optmerge", {"solver": "closed_form", "variant": "lora"}, formulas.optmerge_lora),
    ("opcm", {}, formulas.opcm),
    ("opcm", {"panels": "always"}, formulas.opcm),
    ("dop", {}, formulas.dop),
    ("svc", {}, svc),
    ("svc", {"panels": "always"}, svc),
    ("doge", {**SETTINGS, "subspace": 0}, doge_without_projection),
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
@pytest.mark.parametrize(("shape", "panels"), [((96, 96), "auto"), ((40, 130), "auto"), ((150, 72), "auto"), ((150, 72), "always")])
def test_regmean_equals_the_normal_equations_in_float64(ratio: float, samples: int, shape: tuple[int, int], panels: str) -> None:
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
        panels=panels,
    )[NAME]
    expected = formulas.regmean([t.astype("d") for t in tunes], [g.astype("d") for g in grams], ratio)
    # Of the models' difference, not of the weights themselves, which are the larger part.
    error = relative(merged - base.astype("d"), expected - base)
    assert error <= LIMIT, f"{error:.1e}"


@pytest.mark.parametrize("shape", [(96, 96), (64, 160), (150, 72)])
@pytest.mark.parametrize("kind", ["gaussian", "bf16_difference"])
def test_doge_outside_the_common_subspace(kind: str, shape: tuple[int, int]) -> None:
    """Of repeated tasks, and of small ranks, the joined vectors have equal singular values, and the common subspace is undetermined."""
    base, tunes = INPUTS[kind](np.random.default_rng(5), shape)
    merged = ingot.merge_state_dicts("doge", [{NAME: t} for t in tunes], base={NAME: base}, dtype="float32", **SETTINGS)[NAME]
    expected = doge([t.astype("d") - base for t in tunes])
    error = np.linalg.norm(merged.astype("d") - base - expected) / np.linalg.norm(expected)
    assert error <= 5 * LIMIT, f"{error:.1e}"


def with_sides(
    tmp_path: Path, method: str, tensors: dict[str, dict[str, Matrix]], sides: list[dict[str, str]], top: str, **parameters: object
) -> Matrix:
    """Merges m0, m1, ... of `tensors`, each with its side files, and gives the weight."""
    lines = [f"merge_method: {method}", "dtype: float32", *([top] if top else []), "models:"]
    for number, side in enumerate(sides):
        lines.append(f"  - {{model: m{number}, side: {{{', '.join(f'{k}: {v}' for k, v in side.items())}}}}}")
    lines.append("parameters: {" + ", ".join(f"{key}: {value}" for key, value in parameters.items()) + "}")
    ingot.merge("\n".join(lines) + "\n", tmp_path / "out", models=tensors)
    return load(tmp_path / "out" / "model.safetensors")[NAME].astype("d")


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("solver", ["cg", "exact"])
def test_mats_solves_its_equations(tmp_path: Path, solver: str, count: int) -> None:
    rng = np.random.default_rng(count)
    m, n = 11, 14
    tensors: dict[str, dict[str, Matrix]] = {}
    operator, right = np.zeros((m * n, m * n)), np.zeros(m * n)
    sides = []
    for number in range(count):
        weight = rng.normal(0, 1, (m, n)).astype("f")
        x, g = rng.normal(0, 1, (40, n)), rng.normal(0, 1, (40, m))
        inputs, outputs = (x.T @ x / 40).astype("f"), (g.T @ g / 40).astype("f")
        tensors[f"m{number}"] = {NAME: weight}
        tensors[f"i{number}"], tensors[f"o{number}"] = {MODULE: inputs}, {MODULE: outputs}
        sides.append({"gram": f"i{number}", "output_gram": f"o{number}"})
        operator += np.kron(outputs.astype("d"), inputs.astype("d"))
        right += (outputs.astype("d") @ weight @ inputs).ravel()
    expected = np.linalg.solve(operator, right).reshape(m, n)
    found = with_sides(tmp_path, "mats", tensors, sides, "", mats_solver=solver, tolerance="1.0e-10", iterations=1000)
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


def test_custom_diffusion_is_the_constrained_minimum(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    m, n = 20, 16
    base = rng.normal(0, 1, (m, n)).astype("f")
    captions = rng.normal(0, 1, (200, n))
    gram = (captions.T @ captions / 200).astype("f")
    tensors: dict[str, dict[str, Matrix]] = {"base": {NAME: base}, "captions": {MODULE: gram}}
    words, wanted = [], []
    for number in range(3):
        weight = (base + rng.normal(0, 0.1, (m, n))).astype("f")
        features = rng.normal(0, 1, (2, n)).astype("f")
        tensors[f"m{number}"], tensors[f"w{number}"] = {NAME: weight}, {MODULE: features}
        words.append(features.astype("d"))
        wanted.append(weight.astype("d") @ features.T)
    top = "base_model: base\nside: {regularization: captions}"
    found = with_sides(tmp_path, "custom_diffusion", tensors, [{"features": f"w{i}"} for i in range(3)], top, ridge=0)
    c, v = np.concatenate(words), np.concatenate(wanted, axis=1)
    directions = c @ np.linalg.inv(gram.astype("d"))
    expected = base + (v - base @ c.T) @ np.linalg.inv(directions @ c.T) @ directions
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)
    assert np.linalg.norm(found @ c.T - v) <= 1e-6 * np.linalg.norm(v)


def test_the_package_advises_openblas_and_leaves_what_is_set() -> None:
    code = "import os, ingot; print(os.environ.get('OPENBLAS_CORETYPE', ''))"
    source = str(Path(ingot.__file__).parents[1])
    own = {**os.environ, "OPENBLAS_CORETYPE": "Haswell", "PYTHONPATH": source}
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=own)
    assert answer.stdout.strip() == "Haswell"
    del own["OPENBLAS_CORETYPE"]
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=own)
    assert answer.stdout.strip() in ("", "SkylakeX")


def test_opcm_reports_the_condition_of_what_it_projects_on(tmp_path: Path) -> None:
    base, tunes = INPUTS["gaussian"](np.random.default_rng(9), (60, 40))
    recipe = {"merge_method": "opcm", "base_model": "base", "models": [{"model": "a"}, {"model": "b"}], "dtype": "float32"}
    models = {"base": {NAME: base}, "a": {NAME: tunes[0]}, "b": {NAME: tunes[1]}}
    report = ingot.merge(recipe, tmp_path / "out", models=models, sync="none")
    values = np.linalg.svd(tunes[0].astype("d") - base, compute_uv=False)
    found = [finding.value for finding in report.findings if finding.name == "merged_condition"]
    assert found == [pytest.approx(values[0] / values[-1], rel=1e-4)]
