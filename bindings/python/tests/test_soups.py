"""Greedy soups: order, acceptance, the numbers of the specification, and that nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import ingot
import numpy as np
import pytest
from support import load, save

# The worked example: a base and three fine-tunes; the score is minus the distance from the base.
BASE = np.array([1, -2, 0.5, 0, 3, -1], "f")
TUNES = {
    "A": [1.5, -2.25, 0.125, 0.4375, 3.0625, -0.25],
    "B": [0.8125, -1, 0.625, 0.3125, 2.375, -1.25],
    "C": [1.25, -2.125, 0.9375, -0.5, 3.1875, -1.0625],
}


@pytest.fixture
def tunes(tmp_path: Path) -> dict[str, Path]:
    return {name: save(tmp_path / name, {"w": np.array(values, "f")}) for name, values in TUNES.items()}


def distance(path: str) -> float:
    return -float(np.linalg.norm(load(Path(path) / "model.safetensors")["w"] - BASE))


def left_behind(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if "soup" in name or name.endswith(".partial")]


def test_the_worked_example(tunes: dict[str, Path], tmp_path: Path) -> None:
    soup = ingot.greedy_soup(list(tunes.values()), distance, tmp_path / "out")
    assert [Path(name).name for name in soup.members] == ["C", "A", "B"]
    assert [trial.accepted for trial in soup.history] == [True, True, True]
    np.testing.assert_allclose([trial.score for trial in soup.history], [-0.74739, -0.55814, -0.35539], atol=1e-5)
    np.testing.assert_allclose(list(soup.scores.values()), [-1.10043, -1.26553, -0.74739], atol=1e-5)
    assert soup.score == soup.history[-1].score
    merged = load(tmp_path / "out" / "model.safetensors")["w"]
    np.testing.assert_allclose(merged, [1.1875, -1.79166667, 0.5625, 0.08333333, 2.875, -0.85416667], atol=2e-6)
    assert soup.report.bytes_written > 0
    assert left_behind(tmp_path) == []


def test_the_trial_is_the_mean_of_the_members(tunes: dict[str, Path], tmp_path: Path) -> None:
    """Every trial has the bytes of one merge of its members, whatever was tried before."""
    seen: dict[str, bytes] = {}

    def score(path: str) -> float:
        seen[path if path in map(str, tunes.values()) else f"trial {len(seen)}"] = (Path(path) / "model.safetensors").read_bytes()
        return distance(path)

    soup = ingot.greedy_soup(list(tunes.values()), score, tmp_path / "out", dtype="float16")
    recipe = {"merge_method": "uniform_soup", "models": [{"model": name} for name in soup.members], "dtype": "float16"}
    ingot.merge(recipe, tmp_path / "alone")
    alone = (tmp_path / "alone" / "model.safetensors").read_bytes()
    assert alone == (tmp_path / "out" / "model.safetensors").read_bytes() == list(seen.values())[-1]
    assert len(seen) == 2 * len(tunes) - 1


@pytest.mark.parametrize(("accept", "members"), [("gt", ["A"]), ("ge", ["A", "B", "C"])])
def test_equal_scores(tunes: dict[str, Path], tmp_path: Path, accept: ingot._soups.Accept, members: list[str]) -> None:
    soup = ingot.greedy_soup(list(tunes.values()), lambda path: 1.0, tmp_path / "out", accept=accept)
    assert [Path(name).name for name in soup.members] == members
    assert [Path(trial.candidate).name for trial in soup.history] == ["A", "B", "C"]


def test_what_makes_it_worse_is_left_out(tunes: dict[str, Path], tmp_path: Path) -> None:
    def score(path: str) -> float:
        return {"A": 3.0, "B": 1.0, "C": 2.0}.get(Path(path).name, 0.0)

    soup = ingot.greedy_soup(list(tunes.values()), score, tmp_path / "out")
    assert [Path(name).name for name in soup.members] == ["A"]
    assert [Path(trial.candidate).name for trial in soup.history] == ["A", "C", "B"]
    assert [len(trial.members) for trial in soup.history] == [1, 2, 2]
    np.testing.assert_array_equal(load(tmp_path / "out" / "model.safetensors")["w"], np.array(TUNES["A"], "f"))


def test_known_scores_are_not_asked_again(tunes: dict[str, Path], tmp_path: Path) -> None:
    asked: list[str] = []

    def score(path: str) -> float:
        asked.append(path)
        return distance(path)

    known = [distance(str(path)) for path in tunes.values()]
    soup = ingot.greedy_soup(list(tunes.values()), score, tmp_path / "out", scores=known, scratch=tmp_path)
    assert len(asked) == 2
    assert len(soup.members) == 3


def test_one_model(tunes: dict[str, Path], tmp_path: Path) -> None:
    soup = ingot.greedy_soup([tunes["B"]], distance, tmp_path / "out")
    assert soup.members == (str(tunes["B"]),)
    assert len(soup.history) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tunes: {"models": []}, "no models"),
        (lambda tunes: {"models": [tunes["A"], tunes["A"]]}, "2 times"),
        (lambda tunes: {"accept": "more"}, "'gt' or 'ge'"),
        (lambda tunes: {"scores": [1.0]}, "1 scores"),
        (lambda tunes: {"score": lambda path: float("nan")}, "NaN"),
    ],
)
def test_refusals(tunes: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Path]], dict[str, object]], message: str) -> None:
    arguments = {"models": list(tunes.values()), "score": distance, "out": tmp_path / "out", **change(tunes)}
    with pytest.raises(ingot.InvalidArgumentError, match=message):
        ingot.greedy_soup(**arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    assert left_behind(tmp_path) == []


def test_an_existing_destination_is_refused_before_anything_is_scored(tunes: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    def score(path: str) -> float:
        raise AssertionError("scored")

    with pytest.raises(ingot.ExistsError):
        ingot.greedy_soup(list(tunes.values()), score, tmp_path / "out")


def test_an_exception_of_the_score_comes_out(tunes: dict[str, Path], tmp_path: Path) -> None:
    def score(path: str) -> float:
        if Path(path).name not in TUNES:
            raise RuntimeError("no data")
        return distance(path)

    with pytest.raises(RuntimeError, match="no data"):
        ingot.greedy_soup(list(tunes.values()), score, tmp_path / "out")
    assert left_behind(tmp_path) == []
    assert not (tmp_path / "out").exists()
