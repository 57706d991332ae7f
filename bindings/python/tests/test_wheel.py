"""The wheel, in an environment of its own: nothing of this repository, of Swift or of the system's packages.

INGOT_WHEEL names one; else it is built from the installation that INGOT_PREFIX names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import REPOSITORY, load, near, save, state

if not (os.environ.get("INGOT_WHEEL") or os.environ.get("INGOT_PREFIX")):
    pytest.skip("neither INGOT_WHEEL nor INGOT_PREFIX is set (scripts/test wheel sets one)", allow_module_level=True)

MERGE = """
import os, sys, ingot
assert ingot.Engine(threads=2, team="openmp").info["team"].startswith("OpenMP through")
recipe = {"merge_method": "ties", "base_model": "base", "parameters": {"density": 0.5, "weight": 1},
          "models": [{"model": "a"}, {"model": "b"}]}
report = ingot.merge(recipe, "merged", threads=2)
assert ingot.verify("merged").tensors == 5
assert os.path.dirname(ingot.__file__).startswith(sys.prefix), ingot.__file__
assert ingot.library_path() == os.path.join(os.path.dirname(ingot.__file__), "_native", "libingot.so.0")
print(report.team)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("INGOT_WHEEL")
    if given:
        return Path(given)
    out = tmp_path_factory.mktemp("dist")
    command = [REPOSITORY / "scripts" / "wheel", "--prefix", os.environ["INGOT_PREFIX"], out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel") / "env"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--no-deps", wheel],
        check=True,
    )
    return folder


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, str]:
    """A process's variables without those that help to find libraries and packages."""
    kept = {name: value for name, value in os.environ.items() if name not in ("INGOT_LIBRARY", "LD_LIBRARY_PATH", "PYTHONPATH")}
    base = state(0)
    save(tmp_path / "base", base)
    for seed, name in enumerate("ab", start=1):
        save(tmp_path / name, near(base, seed))
    return kept | {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}


def test_merges(environment: Path, tmp_path: Path, plain: dict[str, str]) -> None:
    done = subprocess.run(
        [environment / "bin" / "python", "-c", MERGE], cwd=tmp_path, env=plain, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "own threads" in done.stdout, "OpenMP only where it is asked for"
    assert load(tmp_path / "merged" / "model.safetensors")["norm.weight"].shape == (4099,)


def test_command(environment: Path, tmp_path: Path, plain: dict[str, str]) -> None:
    command = environment / "bin" / "ingot"
    version = subprocess.run([command, "--version"], env=plain, capture_output=True, text=True, check=True).stdout
    assert re.match(r"(ingot )?\d+\.\d+\.\d+", version)
    merge = ["merge", "-m", "linear", "a=0.5", "b=0.5", "-o", "out"]
    subprocess.run([command, *merge], cwd=tmp_path, env=plain, capture_output=True, text=True, check=True)
    assert (tmp_path / "out" / "model.safetensors").exists()
    refused = subprocess.run([command, *merge], cwd=tmp_path, env=plain, capture_output=True, text=True, check=False)
    assert refused.returncode == 5, refused.stderr


def binaries(environment: Path) -> list[Path]:
    (packages,) = environment.glob("lib/python3*/site-packages")
    found = [path for part in ("ingot", "ingot.libs") for path in (packages / part).rglob("*") if path.is_file()]
    return [path for path in found if path.read_bytes()[:4] == b"\x7fELF"]


def test_what_the_binaries_need(environment: Path) -> None:
    """Of the system nothing newer than glibc 2.34, and of libraries those of manylinux or the wheel's own."""
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("there is no objdump")
    files = binaries(environment)
    own = {path.name for path in files}
    assert {"ingot", "libingot.so.0", "libingot-openmp.so"} <= own
    allowed = own | {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1", "libstdc++.so.6"}
    for path in files:
        shown = subprocess.run([objdump, "-p", "-T", path], capture_output=True, text=True, check=True).stdout
        versions = [tuple(map(int, version.split("."))) for version in re.findall(r"GLIBC_(\d+(?:\.\d+)+)", shown)]
        assert max(versions) <= (2, 34), path.name
        needed = {name for name in re.findall(r"NEEDED +(\S+)", shown) if not name.startswith("ld-linux")}
        assert needed <= allowed, (path.name, needed - allowed)
        for where in re.findall(r"R(?:UN)?PATH +(\S+)", shown):
            assert where.startswith("$ORIGIN"), (path.name, where)


def test_auditwheel_agrees(wheel: Path) -> None:
    """Its own finding about the files, not the tag that the wheel was given."""
    shown = subprocess.run([sys.executable, "-m", "auditwheel", "show", wheel], capture_output=True, text=True, check=True).stdout
    (found,) = re.findall(r'following platform tag:\s*"manylinux_2_(\d+)_\w+"', shown)
    assert int(found) <= 34, shown


def test_names_and_licences(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
        (tags,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/WHEEL"))
        own = next(archive.read(name).decode() for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    assert "Apache License" in own
    assert re.search(r"^Tag: py3-none-manylinux_2_\d+_\w+$", tags, flags=re.MULTILINE)
    assert "Root-Is-Purelib: false" in tags
    assert not re.search(r"^Requires-Dist: (?!.*; extra ==)", metadata, flags=re.MULTILINE)
    licences = [name for name in names if ".dist-info/licenses/" in name]
    assert any(name.endswith("/LICENSE") for name in licences)
    for linked in ["libyaml", "xxhash", "liburing"]:
        assert any(linked in name for name in licences), f"the licence of {linked} is missing"
    for bundled in (name.split("/")[1].split("-")[0] for name in names if name.startswith("ingot.libs/lib")):
        assert any(bundled in name for name in licences), f"the licence of {bundled} is missing"
