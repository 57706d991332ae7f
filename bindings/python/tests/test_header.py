"""_ffi.py and _prototypes.py against include/ingot/ingot.h: every function, structure, function type, constant."""

from __future__ import annotations

import ctypes
import re
from ctypes import POINTER
from typing import Any

import ingot
import pytest
from ingot import _ffi
from ingot._prototypes import PROTOTYPES
from support import REPOSITORY

HEADER = REPOSITORY / "include" / "ingot" / "ingot.h"
if not HEADER.exists():
    pytest.skip("the header is not beside the package", allow_module_level=True)


def stripped() -> str:
    """The header without comments, macros of its own, line breaks."""
    text = re.sub(r"/\*.*?\*/", " ", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"\b(INGOT_NULLABLE|INGOT_NONNULL|INGOT_NODISCARD|INGOT_API)\b", " ", text)
    text = re.sub(r"^#.*?(?<!\\)$", " ", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\s+", " ", text)


TEXT = stripped()
SCALARS: dict[str, Any] = {
    "void": None,
    "int32_t": ctypes.c_int32,
    "ingot_status": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "double": ctypes.c_double,
}
CALLBACKS = dict.fromkeys(re.findall(r"typedef [\w ]+?\*?\s?\(\*\s?(ingot_\w+)\)", TEXT))


def pointers(text: str) -> int:
    return text.count("*")


def ctype(declaration: str) -> Any:
    """The ctypes type of a C type, with the name of what it declares cut off."""
    stars = pointers(declaration)
    words = re.sub(r"\*|\b(const|volatile|struct)\b", " ", declaration).split()
    name = words[0]
    if name in CALLBACKS:
        return getattr(_ffi, name)
    if name == "ingot_error_out":
        return _ffi.ingot_error_out
    if name == "void" and stars:
        found, stars = ctypes.c_void_p, stars - 1
    elif name == "char" and stars:
        found, stars = ctypes.c_char_p, stars - 1
    else:
        found = SCALARS[name] if name in SCALARS else getattr(_ffi, name)
    for _ in range(stars):
        found = POINTER(found)
    return found


def split(parameters: str) -> list[str]:
    return [] if parameters.strip() in ("", "void") else parameters.split(",")


def test_every_function_is_declared() -> None:
    names = set(re.findall(r"\b(ingot_\w+)\([^()]*\) ?;", TEXT)) - {"ingot_log_fn"}
    assert len(names) > 40
    assert set(PROTOTYPES) == names


@pytest.mark.parametrize("name", list(PROTOTYPES))
def test_prototype(name: str) -> None:
    match = re.search(rf"((?:const )?\w+[ *]*?) ?\b{name}\(([^()]*)\) ?;", TEXT)
    assert match is not None, f"{name} is not in the header"
    expected = (ctype(match[1]), [ctype(parameter) for parameter in split(match[2])])
    assert PROTOTYPES[name] == expected


STRUCTS = {name: body for body, name in re.findall(r"typedef struct ingot_\w+ \{(.*?)\} (ingot_\w+);", TEXT)}


def members(body: str) -> list[tuple[str, Any]]:
    found = []
    for member in filter(str.strip, body.split(";")):
        function = re.fullmatch(r"(.*?)\(\*\s*(\w+)\)\((.*)\)", member.strip())
        if function:
            found.append((function[2], ctypes.CFUNCTYPE(ctype(function[1]), *map(ctype, split(function[3])))))
        else:
            found.append((member.split("*")[-1].split()[-1], ctype(member)))
    return found


def test_every_structure_is_there() -> None:
    declared = {
        name
        for name, kind in vars(_ffi).items()
        if isinstance(kind, type) and issubclass(kind, ctypes.Structure) and hasattr(kind, "_fields_") and not name.startswith("_")
    }
    assert declared == set(STRUCTS)


@pytest.mark.parametrize("name", list(STRUCTS))
def test_structure(name: str) -> None:
    bases = [kind for kind in reversed(getattr(_ffi, name).__mro__) if "_fields_" in vars(kind)]
    declared = [(member, kind) for base in bases for member, kind, *_ in base._fields_]
    assert [member for member, _ in declared] == [member for member, _ in members(STRUCTS[name])]
    for (member, found), (_, expected) in zip(declared, members(STRUCTS[name])):
        assert same(found, expected), f"{name}.{member}: {found} is not {expected}"


def test_structures_know_their_size() -> None:
    for name, body in STRUCTS.items():
        kind = getattr(_ffi, name)
        size = ctypes.sizeof(kind)
        assert size >= sum(ctypes.sizeof(member) for _, member in members(body))
        assert kind().struct_size == size
        assert kind(struct_size=8, flags=1).struct_size == 8


def same(found: Any, expected: Any) -> bool:
    """Function types are made anew each time: they are equal when their parts are."""
    if hasattr(found, "_argtypes_") and hasattr(expected, "_argtypes_"):
        return found._restype_ is expected._restype_ and all(map(same, found._argtypes_, expected._argtypes_))
    return bool(found == expected)


@pytest.mark.parametrize("name", list(CALLBACKS))
def test_function_type(name: str) -> None:
    match = re.search(rf"typedef ([\w ]+?[ *]*)\(\*\s?{name}\)\(([^()]*)\) ?;", TEXT)
    assert match is not None
    assert same(getattr(_ffi, name), ctypes.CFUNCTYPE(ctype(match[1]), *map(ctype, split(match[2]))))


def constants() -> dict[str, int]:
    found = dict.fromkeys([""], 0)
    for body in re.findall(r"\benum \{(.*?)\}", TEXT):
        for name, value in re.findall(r"(INGOT_\w+) = (-?\d+)", body):
            found[name] = int(value)
    macros = HEADER.read_text(encoding="utf-8")
    for name, value in re.findall(r"^#define (INGOT_\w+) (\d+)u?$", macros, flags=re.MULTILINE):
        found[name] = int(value)
    del found[""]
    return found


def test_constants() -> None:
    expected = constants() | {"INGOT_SHARD_SIZE_UNLIMITED": 2**64 - 1, "INGOT_SIDE_OF_BASE": 2**64 - 1}
    declared = {name: value for name, value in vars(_ffi).items() if name.startswith("INGOT_")}
    assert len(expected) > 60
    assert declared == expected


def test_version() -> None:
    known = constants()
    version = ".".join(str(known[f"INGOT_VERSION_{part}"]) for part in ("MAJOR", "MINOR", "PATCH"))
    assert ingot.__version__ == version
    assert ingot.build_info()["version"] == version


def test_statuses_are_classes() -> None:
    from ingot import _errors

    for name, value in constants().items():
        if name.startswith("INGOT_E_"):
            assert ingot.Status(value).name == name.removeprefix("INGOT_E_")
            assert _errors._CLASSES[value].status == value
