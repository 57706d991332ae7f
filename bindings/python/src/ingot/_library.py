"""Finds libingot, loads it, and checks that it is the one these bindings were written for."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import _ffi
from ._prototypes import declare

_PACKAGE = Path(__file__).resolve().parent
NATIVE = _PACKAGE / "_native"
_SONAME = f"libingot.so.{_ffi.INGOT_ABI_VERSION}"


def _candidates() -> Iterator[str]:
    """Where the library may be, best first: INGOT_LIBRARY alone if it is set, the wheel's, a development build, the system's."""
    chosen = os.environ.get("INGOT_LIBRARY")
    if chosen:
        yield chosen
        return
    yield str(NATIVE / _SONAME)
    # bindings/python/src/ingot → the repository
    if len(_PACKAGE.parents) > 3:
        root = _PACKAGE.parents[3]
        if (root / "Package.swift").is_file():
            for configuration in ("release", "debug"):
                yield str(root / ".build" / configuration / "libingot-engine.so")
    yield _SONAME


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _check(library: ctypes.CDLL, path: str) -> None:
    """ImportError unless the library has this ABI; until ABI 1 every minor version may change it."""
    try:
        library.ingot_abi_version.restype = ctypes.c_uint32
        library.ingot_version_number.restype = ctypes.c_uint32
        abi: int = library.ingot_abi_version()
        number: int = library.ingot_version_number()
    except AttributeError:
        raise ImportError(f"{path} is not libingot: it has no ingot_abi_version", name="ingot", path=path) from None
    wanted = (_ffi.INGOT_VERSION_MAJOR, _ffi.INGOT_VERSION_MINOR)
    same_minor = (number // 1_000_000, number // 1000 % 1000) == wanted
    if abi != _ffi.INGOT_ABI_VERSION or (abi == 0 and not same_minor):
        expected = f"ABI {_ffi.INGOT_ABI_VERSION}" + (f" of version {wanted[0]}.{wanted[1]}" if not _ffi.INGOT_ABI_VERSION else "")
        raise ImportError(
            f"{path} is libingot {_version(number)} with ABI {abi}; this package needs {expected}: "
            "install package and library of one version, or point INGOT_LIBRARY at the right one",
            name="ingot",
            path=path,
        )
    try:
        declare(library)
    except AttributeError as error:
        raise ImportError(f"{path} is libingot {_version(number)}, but lacks a function: {error}", name="ingot", path=path) from None


def _advise_openblas() -> None:
    """Tells OpenBLAS, which matrix methods load, of AVX-512 on AMD processors, which Debian's version does not know.

    A value that is set stays.
    Here and not in the library: that one never changes the environment of its host.
    """
    needed = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return
    fields = {key.strip(): value for key, _, value in (line.partition(":") for line in text.splitlines())}
    if fields.get("vendor_id", "").strip() == "AuthenticAMD" and needed <= set(fields.get("flags", "").split()):
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")


def _load() -> tuple[ctypes.CDLL, str]:
    _advise_openblas()
    tried = []
    for path in _candidates():
        if os.sep in path and not os.path.exists(path):
            tried.append(f"{path}: no such file")
            continue
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            reason = str(error)
            tried.append(reason if path in reason else f"{path}: {reason}")
            continue
        _check(library, path)
        return library, path
    raise ImportError(
        "libingot was not found. Install a wheel of ingot, or point INGOT_LIBRARY at a libingot.so\n  " + "\n  ".join(tried),
        name="ingot",
    )


library, _path = _load()


def library_path() -> str:
    """The library in use: a path, or the name under which the system's loader found it."""
    return _path


def build_info() -> dict[str, Any]:
    """How the library was built and what it finds here: version, abi, architecture, instruction sets; `library` is its path."""
    info: dict[str, Any] = json.loads(library.ingot_build_info_json())
    info["library"] = _path
    return info
