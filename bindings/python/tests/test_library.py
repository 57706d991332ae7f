"""Finding the library, and refusing the wrong one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import ingot
import pytest
from support import output_of, run_python

IMPORT = "import ingot; print(ingot.library_path())"


def test_variable_names_the_library() -> None:
    path = str(Path(ingot.library_path()).resolve())
    assert output_of(IMPORT, INGOT_LIBRARY=path).strip() == path


def test_a_missing_file_is_named() -> None:
    done = run_python(IMPORT, INGOT_LIBRARY="/no/such/libingot.so")
    assert done.returncode != 0
    assert "ImportError: libingot was not found" in done.stderr
    assert "/no/such/libingot.so: no such file" in done.stderr


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    path = tmp_path / "libingot.so"
    path.write_text("not a library")
    done = run_python(IMPORT, INGOT_LIBRARY=str(path))
    assert "ImportError: libingot was not found" in done.stderr
    assert str(path) in done.stderr


def built(folder: Path, source: str) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (folder / "wrong.c").write_text(source)
    path = folder / "libwrong.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, folder / "wrong.c"], check=True)
    return str(path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("int other(void) { return 0; }", "is not libingot"),
        ("unsigned ingot_abi_version(void) { return 7; } unsigned ingot_version_number(void) { return 7001002; }", "7.1.2 with ABI 7"),
        ("unsigned ingot_abi_version(void) { return 0; } unsigned ingot_version_number(void) { return 2000; }", "0.2.0 with ABI 0"),
        ("unsigned ingot_abi_version(void) { return 0; } unsigned ingot_version_number(void) { return 1000; }", "lacks a function"),
    ],
)
def test_wrong_library(tmp_path: Path, source: str, said: str) -> None:
    path = built(tmp_path, source)
    done = run_python(IMPORT, INGOT_LIBRARY=path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: {path}")
    assert said in last


def test_build_info() -> None:
    info = ingot.build_info()
    assert info["abi"] == 0
    assert "scalar" in info["isas"]
    assert info["library"] == ingot.library_path()


def test_import_brings_nothing_in_and_prints_nothing() -> None:
    code = "import sys; import ingot; print(sorted({'numpy', 'torch', 'tqdm', 'huggingface_hub'} & set(sys.modules)))"
    done = run_python(code)
    assert done.stdout == "[]\n"
    assert done.stderr == ""


def test_works_without_numpy_and_torch() -> None:
    code = """
import sys
sys.modules["numpy"] = sys.modules["torch"] = sys.modules["tqdm"] = None
import ingot
from array import array
print(ingot.merge_tensors("linear", [array("f", [0, 2]), array("f", [4, 4])], weight=[0.25, 0.75], progress=True))
"""
    assert output_of(code) == "array('f', [3.0, 3.5])\n"


def test_openmp_comes_only_when_asked_for() -> None:
    """A library imported later may bring a runtime that ends the process when it finds ours."""
    code = """
import sys, ingot
from array import array
a = array("f", range(1000))
team = sys.argv[1] if len(sys.argv) > 1 else None
if team:
    with ingot.Engine(threads=2, team=team) as engine:
        engine.merge_tensors("linear", [a, a])
else:
    ingot.merge_tensors("linear", [a, a], threads=2)
    with ingot.Engine(threads=2) as engine:
        assert engine.info["team"].startswith("own threads"), engine.info
print("libomp" in open("/proc/self/maps").read())
"""
    assert output_of(code) == "False\n"
    assert output_of(code, "pthread") == "False\n"
    done = run_python(code, "openmp")
    if done.returncode != 0:
        pytest.skip("this library has no OpenMP companion")
    assert done.stdout == "True\n"


def test_types_are_shipped() -> None:
    assert os.path.exists(os.path.join(os.path.dirname(ingot.__file__), "py.typed"))
