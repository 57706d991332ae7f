"""Recipes: as the caller has them, and as the tensor functions make them."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref
from typing import Any, TypeAlias, Union

from . import _ffi
from ._dtypes import DType
from ._errors import InvalidArgumentError, NotFoundError, ReadError, check
from ._handles import Handle
from ._library import library
from ._reports import Method, methods

# A path, or YAML or JSON text, or the same as a mapping.
RecipeSource: TypeAlias = Union[str, "os.PathLike[str]", Mapping[str, Any]]

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]*")


class Recipe(Handle):
    """A parsed recipe."""

    def __init__(self, source: RecipeSource, *, strict: bool = False) -> None:
        text, origin = _text(source)
        options = _ffi.ingot_recipe_options(flags=_ffi.INGOT_RECIPE_STRICT if strict else 0)
        pointer = POINTER(_ffi.ingot_recipe)()
        check(library.ingot_recipe_parse, text, len(text), origin, byref(pointer), byref(options))
        super().__init__(pointer, library.ingot_recipe_destroy)

    @property
    def models(self) -> list[str]:
        """What it calls its models, in order of first mention."""
        count = library.ingot_recipe_model_count(self.pointer)
        return [library.ingot_recipe_model(self.pointer, index).decode() for index in range(count)]


def _text(source: RecipeSource) -> tuple[bytes, bytes]:
    """The recipe's text, and what errors call it."""
    if isinstance(source, Mapping):
        return as_json(source, "recipe"), b"recipe"
    # No file's name has a line break, and no recipe of one line is written without braces.
    if isinstance(source, str) and ("\n" in source or source.lstrip().startswith("{")):
        return source.encode(), b"recipe"
    try:
        path = os.fspath(source)
    except TypeError:
        raise TypeError(f"the recipe is of type {type(source).__name__}, expected a path, YAML or JSON text, or a mapping") from None
    try:
        with open(path, "rb") as file:
            return file.read(), os.fsencode(path)
    except FileNotFoundError:
        raise NotFoundError(
            "there is no such recipe file", hint="text of one line counts as a path; a mapping works too", subject=str(path)
        ) from None
    except OSError as error:
        raise ReadError(f"the recipe cannot be read: {error.strerror}", subject=str(path)) from None


def as_json(source: Mapping[str, Any], subject: str) -> bytes:
    """A mapping of the caller's as JSON. `subject` is what errors call it."""
    try:
        return json.dumps(source, default=_plain, allow_nan=False).encode()
    except ValueError as error:
        raise InvalidArgumentError(f"the {subject} cannot be written as JSON: {error}", subject=subject) from None


def as_parameters(given: Mapping[str, Any]) -> bytes:
    """Keyword arguments as a JSON object of parameters. None is left to the library; lambda_ is a word of Python's."""
    return as_json({key.rstrip("_"): value for key, value in given.items() if value is not None}, "parameters")


def _plain(value: Any) -> Any:
    """Values of numpy and torch, and paths, as JSON has them."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and torch, scalars included
        return value.tolist()
    raise TypeError(f"found {value!r} of type {type(value).__name__}, expected what JSON has, or a path")


BASE = "base"


def require_method(name: str) -> Method:
    known = methods()
    if name in known:
        return known[name]
    if not isinstance(name, str):
        raise TypeError(f"the method is {name!r}, expected a name such as 'linear'")
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
    raise InvalidArgumentError(
        f"unknown merge method {name!r}",
        hint=f"did you mean {near[0]!r}?" if near else f"the methods are {', '.join(known)}",
        subject="method",
    )


def model_names(given: Mapping[Any, Any] | Sequence[Any], argument: str) -> list[str]:
    """What a recipe calls the models of an argument: their keys where they are plain words, else `argument[0]`, …"""
    keys = list(given) if isinstance(given, Mapping) else [None] * len(given)
    return [
        key if isinstance(key, str) and key != BASE and _PLAIN_NAME.fullmatch(key) else f"{argument}[{index}]"
        for index, key in enumerate(keys)
    ]


def recipe(
    method: Method,
    keys: Sequence[Any],
    names: Sequence[str],
    *,
    base: bool,
    dtype: DType | None,
    parameters: Mapping[str, Any],
    sides: Mapping[str, Mapping[str, Any]],
    shared_sides: Mapping[str, Any],
    aim: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The recipe of a merge of models that the program has.

    Parameters are one value for all, a list with one for each model, or a mapping from a model's key to its value. `keys` are
    the caller's keys of the models, `names` what the recipe calls them; "base" is the base model's key. `sides` are the side
    inputs of models by their names, `shared_sides` those of the merge.
    """
    shared: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {name: {} for name in names}
    if base and method.base == "none":
        own = {BASE: {}} | own
    by_key = dict(zip(keys, names)) | ({BASE: BASE} if base else {})
    for key, value in parameters.items():
        parameter = key.rstrip("_")  # lambda_: a word of Python's
        value = _plain(value) if hasattr(value, "tolist") else value
        if isinstance(value, Mapping):
            for model, one in value.items():
                if by_key.get(model) not in own:
                    raise InvalidArgumentError(
                        f"{parameter} has a value for {model!r}, expected one of {', '.join(map(repr, _expected(by_key, own)))}",
                        subject=parameter,
                    )
                own[by_key[model]][parameter] = one
            _require_per_model(method, parameter)
        elif isinstance(value, list | tuple):
            _require_per_model(method, parameter)
            if len(value) != len(names):
                raise InvalidArgumentError(
                    f"{parameter} has {len(value)} values, expected one for each of the {len(names)} models",
                    hint="a mapping gives values to some of them",
                    subject=parameter,
                )
            for name, one in zip(names, value):
                own[name][parameter] = one
        else:
            shared[parameter] = value
    weight = method.parameters.get("weight")
    if weight is not None and weight.required and not any("weight" in values for values in (shared, *own.values())):
        shared["weight"] = 1  # as on the command line: all weigh the same
    made: dict[str, Any] = {"merge_method": method.name}
    if base:
        made["base_model"] = BASE
    made["models"] = [{"model": name, "parameters": values} if values else {"model": name} for name, values in own.items()]
    for entry in made["models"]:
        if entry["model"] in sides:
            entry["side"] = sides[entry["model"]]
    if shared_sides:
        made["side"] = shared_sides
    if aim is not None:
        made["aim"] = aim
    if shared:
        made["parameters"] = shared
    if dtype is not None:
        made["dtype"] = dtype.torch
    return made


def _expected(by_key: Mapping[Any, str], own: Mapping[str, Any]) -> list[Any]:
    return [key for key, name in by_key.items() if name in own]


def _require_per_model(method: Method, parameter: str) -> None:
    described = method.parameters.get(parameter)
    if described is not None and not described.per_model:
        raise InvalidArgumentError(f"{parameter} has several values, but is one for all models", hint=str(described), subject=parameter)
