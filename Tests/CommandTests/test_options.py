"""Options around a merge: values of copies, models that are fetched, room on the disk."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, make_tensors, read, write_model

Models = dict[str, Path]
Write = Callable[[str], Path]


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_check_finite_looks_at_copies(ingot: Run, recipe: Write, tmp_path: Path, bad: float) -> None:
    tensors = make_tensors(1)
    tensors["lm_head.weight"][31, 7] = bad
    tensors["lm_head.weight"][0, 0] = bad
    model = write_model(tmp_path / "model", tensors)
    path = recipe(f"merge_method: passthrough\nmodels: [{{model: {model}}}]\n")
    assert ingot("merge", path, "plain").returncode == 0
    done = ingot("merge", path, "out", "--check-finite")
    assert done.returncode == 3
    assert "tensor lm_head.weight: values that are NaN or infinite: 2 in" in done.stderr
    assert not (tmp_path / "out").exists()
    # The tensor does not count as finished: a run that resumes finds it again.
    assert ingot("merge", path, "out", "--check-finite", "--resume").returncode == 3
    done = ingot("merge", path, "out", "--check-finite", "--allow-nonfinite", "--force")
    assert done.returncode == 0, done.stderr
    assert "2 in" in done.stderr
    np.testing.assert_array_equal(read(tmp_path / "out")["lm_head.weight"], tensors["lm_head.weight"])


def test_check_finite_passes_numbers(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    path = recipe(f"merge_method: passthrough\nmodels: [{{model: {models['a']}}}]\n")
    for output, options in (("plain", []), ("checked", ["--check-finite"])):
        done = ingot("merge", path, output, *options)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "plain" / "model.safetensors").read_bytes() == (tmp_path / "checked" / "model.safetensors").read_bytes()


FAKE = """#!/bin/sh
echo "$@" >> "$HF_HOME/calls"
echo "on standard output"
[ "$1" = download ] || exit 9
[ "$2" = org/absent ] && exit 7
name=$(echo "$2" | sed 's,/,--,')
root="$HF_HOME/hub/models--$name"
mkdir -p "$root/refs" "$root/snapshots/0123456789abcdef"
cp "$SOURCE"/* "$root/snapshots/0123456789abcdef/"
printf 0123456789abcdef > "$root/refs/main"
"""


@pytest.fixture
def hf(tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `hf` that knows one model; returns the file where it writes its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "hf").mkdir()
    program = folder / "hf"
    program.write_text(FAKE)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SOURCE", str(models["b"]))
    return tmp_path / "hf" / "calls"


def mean(*models: object) -> str:
    return f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{', '.join(f'{{model: {model}}}' for model in models)}]\n"


def test_download_runs_hf_once(ingot: Run, recipe: Write, models: Models, tmp_path: Path, hf: Path) -> None:
    path = recipe(mean(models["a"], "org/name"))
    assert ingot("merge", path, "out").returncode == 3
    assert not hf.exists()
    done = ingot("merge", path, "out", "--download", "--json")
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    assert "on standard output" in done.stderr
    assert hf.read_text() == "download org/name\n"
    assert ingot("plan", path, "--download").returncode == 0
    assert hf.read_text() == "download org/name\n"
    assert ingot("merge", recipe(mean(models["a"], models["b"])), "expected").returncode == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "expected" / "model.safetensors").read_bytes()


def test_download_that_fails_ends(ingot: Run, recipe: Write, models: Models, hf: Path) -> None:
    done = ingot("check", recipe(mean(models["a"], "org/absent")), "--download")
    assert done.returncode == 3
    assert "'hf download org/absent' failed with 7" in done.stderr
    # It succeeded and the model is still not there: said once, not tried for ever.
    done = ingot("check", recipe(mean(models["a"], "org/name@other")), "--download")
    assert done.returncode == 3
    assert hf.read_text() == "download org/absent\ndownload org/name --revision=other\n"


def test_download_leaves_paths_alone(ingot: Run, recipe: Write, models: Models, tmp_path: Path, hf: Path) -> None:
    assert ingot("check", recipe(mean(models["a"], tmp_path / "nothing" / "there" / "at")), "--download").returncode == 3
    assert not hf.exists()


def test_download_without_hf(ingot: Run, recipe: Write, models: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = Path(os.environ.get("INGOT", "ingot"))
    if not command.is_absolute():
        pytest.skip("INGOT is not an absolute path")
    monkeypatch.setenv("PATH", str(tmp_path))
    done = ingot("check", recipe(mean(models["a"], "org/name")), "--download")
    assert done.returncode == 3
    assert "pip install huggingface_hub" in done.stderr


def test_plan_warns_of_a_full_disk(ingot: Run, recipe: Write, tmp_path: Path) -> None:
    """A model that no disk holds, as a file without blocks."""
    rows = 1 << 41
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        header = json.dumps({"w": {"dtype": "F32", "shape": [rows], "data_offsets": [0, rows * 4]}}).encode()
        with (folder / "model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            try:
                file.truncate(8 + len(header) + rows * 4)
            except OSError:
                pytest.skip("the file system has no files of that size")
    path = recipe(mean(tmp_path / "a", tmp_path / "b"))
    for command in ("plan", "check"):
        done = ingot(command, path, "--out", tmp_path / "out", "--json")
        assert done.returncode == 0, done.stderr
        (notice,) = [notice["message"] for notice in json.loads(done.stdout)["notices"]]
        assert "the output needs 8.0 TiB" in notice
        done = ingot(command, path, "--out", tmp_path / "out")
        assert "are free on the disk of" in done.stderr
        assert "free" not in ingot(command, path).stderr


def test_plan_with_room_says_nothing(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    done = ingot("plan", recipe(mean(models["a"], models["b"])), "--out", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["notices"] == []
    done = ingot("plan", recipe(mean(models["a"], models["b"])), "--out", tmp_path / "nowhere" / "out")
    assert done.returncode == 0
    assert "nowhere" in done.stderr
