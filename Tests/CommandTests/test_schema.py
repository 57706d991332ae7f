"""The JSON Schema of recipes agrees with the parser: examples pass both, and slips are found by both."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples" / "recipes").glob("*.yml"))
TIES: dict[str, Any] = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [{"model": "a", "parameters": {"weight": 0.5}}, {"model": "b", "parameters": {"weight": 1, "density": [0.5, 1]}}],
}

# A slice names the base among its sources.
BOTH: list[dict[str, Any]] = [{"model": name, "layer_range": [0, 2], "parameters": {"weight": 1}} for name in ("a", "base")]


@pytest.fixture
def validator(ingot: Run) -> Any:
    done = ingot("schema")
    assert done.returncode == 0, done.stderr
    return checked(done.stdout)


@cache
def checked(schema: str) -> Any:
    """The schema of all methods is large: checking it takes seconds, and once is enough."""
    parsed = json.loads(schema)
    jsonschema.Draft202012Validator.check_schema(parsed)
    return jsonschema.Draft202012Validator(parsed)


def parses(ingot: Run, recipe: Callable[[str], Path], document: object) -> bool:
    return ingot("check", "--recipe-only", "--strict", recipe(json.dumps(document))).returncode == 0


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_examples(path: Path, validator: Any, ingot: Run) -> None:
    validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    done = ingot("check", "--recipe-only", "--strict", path)
    assert done.returncode == 0, done.stderr


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


def edited(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    document = copy.deepcopy(TIES)
    change(document)
    return document


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(parameters={"normalize": True, "lambda": 0.5, "int8_mask": True}),
        lambda d: d.update(parameters={"density": [{"filter": "mlp", "value": [0.2, 0.8]}, {"value": 1}]}),
        lambda d: d.update(parameters={"density": [0, 0.5, 1]}),
        lambda d: d.update(parameters={"density": [{"filter": "mlp", "value": 0}, {"value": 1}]}),
        lambda d: d.update(parameters={"lambda": "0.5", "rescale": 1}),
        lambda d: d.update(dtype="bfloat16", out_dtype="float16", seed=2**64 - 1, preset="paper"),
        lambda d: d.update(base_model={"model": {"path": "base", "revision": "main"}}),
        lambda d: d["models"][0].update(parameters={"weight": {"value": 1}}),
        lambda d: d.update(aim={"side": {"path": "norms", "revision": "main"}, "omega": 0.2, "base_model": "other"}),
        lambda d: d.update(
            merge_method="rcp", models=[{"model": "a", "side": {"prior": "p"}}, {"model": "b", "side": {"gradients": ["g"]}}]
        ),
        lambda d: d.update(tokenizer_source="union"),
        lambda d: d.update(tokenizer_source={"model": {"path": "a", "revision": "x"}}, tokenizer=None),
        lambda d: d.update(tokenizer={}, tokenizer_source=""),
        lambda d: d.update(tokenizer={"source": "a", "pad_to_multiple_of": 64, "tokens": {"x": None, "y": {"source": "a", "force": True}}}),
        lambda d: d.update(tokenizer={"tokens": {"x": {"source": {"kind": "zero"}}, "y": {"source": {"model": "a", "token_id": 7}}}}),
        lambda d: d.update(tokenizer={"tokens": {"x": {"source": {"kind": "model_token", "model": "a", "token": "z"}, "force": 1}}}),
        lambda d: d.update(tokenizer={"tokens": {"x": {"source": {"model": {"path": "a"}}}}}),
        lambda d: d.update(chat_template="chatml"),
        lambda d: d.update(chat_template="{{ messages }} and much more"),
        lambda d: d.update(modules={"text": {"models": d.pop("models"), "parameters": {"density": 0.5}}}),
        lambda d: (
            d.update(
                modules={"text": {"slices": [{"sources": BOTH, "parameters": {"lambda": 1}}]}},
                models=None,
            )
            or d.pop("models")
        ),
        lambda d: d.update(tensors=[{"match": "*.mlp.*", "layers": "0-3, 8,20-", "parameters": {"density": 0.2}}]),
        lambda d: d.update(tensors=[{"match": "/x/", "layers": [1, "4-5"], "from": "a", "parameters": {"scale": 0.5}}]),
        lambda d: d.update(tensors=[{"match": "x", "merge_method": "linear", "parameters": {"normalize": False}, "dtype": "float32"}]),
    ],
    ids=lambda _: "",
)
def test_good_recipes(change: Callable[[dict[str, Any]], object], validator: Any, ingot: Run, recipe: Callable[[str], Path]) -> None:
    document = edited(change)
    validator.validate(document)
    assert parses(ingot, recipe, document)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(paramaters={}),
        lambda d: d.update(merge_method="tie"),
        lambda d: d.pop("merge_method"),
        lambda d: d.pop("base_model"),
        lambda d: d.pop("models"),
        lambda d: d.update(slices=[{"sources": [{"model": "base", "layer_range": [0, 1]}]}]),
        lambda d: d.update(parameters={"densty": 0.5}),
        lambda d: d.update(parameters={"density": 1.5}),
        lambda d: d.update(parameters={"density": 0}),
        lambda d: d.update(parameters={"density": [0, -0.5]}),
        lambda d: d.update(parameters={"density": []}),
        lambda d: d.update(parameters={"scope": "layer"}),
        lambda d: d.update(parameters={"t": 0.5}),
        lambda d: d.update(parameters={"density": [{"filtr": "mlp", "value": 1}]}),
        lambda d: d["models"][0].update(parameter={}),
        lambda d: d["models"][0].update(parameters={"weight": 1, "lambda": 2}),
        lambda d: d["models"][0].pop("model"),
        lambda d: d.update(seed=-1),
        lambda d: d.update(preset="papers"),
        lambda d: d.update(base_model={"path": "base"}),
        lambda d: d.update(aim={"omega": 0.2}),
        lambda d: d.update(aim={"side": "norms", "omega": 2}),
        lambda d: d.update(side={"fisher": "f"}),
        lambda d: d["models"][0].update(side={"fisher": "f"}),
        lambda d: d.update(tokenizer_source="union", tokenizer={"source": "base"}),
        lambda d: d.update(tokenizer="union"),
        lambda d: d.update(tokenizer={"sources": "union"}),
        lambda d: d.update(tokenizer={"pad_to_multiple_of": 0}),
        lambda d: d.update(tokenizer={"pad_to_multiple_of": "many"}),
        lambda d: d.update(tokenizer={"tokens": ["x"]}),
        lambda d: d.update(tokenizer={"tokens": {"": {"source": "a"}}}),
        lambda d: d.update(tokenizer={"tokens": {"x": "a"}}),
        lambda d: d.update(tokenizer={"tokens": {"x": {"sorce": "a"}}}),
        lambda d: d.update(tokenizer={"tokens": {"x": {"force": "maybe"}}}),
        lambda d: d.update(tokenizer={"tokens": {"x": {"source": {"kind": "one"}}}}),
        lambda d: d.update(tokenizer={"tokens": {"x": {"source": {"kind": "model_token", "model": "a"}}}}),
        lambda d: d.update(tokenizer={"tokens": {"x": {"source": {"kind": "model_token", "model": "a", "token": "y", "token_id": 1}}}}),
        lambda d: d.update(tokenizer={"tokens": {"x": {"source": {"model": "a", "token_id": -1}}}}),
        lambda d: d.update(tokenizer={"tokens": {"x": {"source": {"kind": "model_token", "token": "y"}}}}),
        lambda d: d.update(chat_template="chatmll"),
        lambda d: d.update(chat_template="long enough, but no template"),
        lambda d: d.update(modules={"text": {"models": d.pop("models"), "slices": [{"sources": [{"model": "a", "layer_range": [0, 1]}]}]}}),
        lambda d: d.update(modules={"text": {}}) or d.pop("models"),
        lambda d: d.update(modules={"text": {"models": d.pop("models"), "parameters": {"t": 0.5}}}),
        lambda d: d.update(modules={"text": {"models": d.pop("models")}}) or d.pop("base_model"),
        lambda d: d.update(modules={"text": {"models": [{"model": "a", "layer_range": [0, 1]}]}}) or d.pop("models"),
        lambda d: d.update(tensors=[{"layers": "0-3"}]),
        lambda d: d.update(tensors=[{"match": "x"}]),
        lambda d: d.update(tensors=[{"match": "", "dtype": "float32"}]),
        lambda d: d.update(tensors=[{"match": "x", "parameters": {"t": 0.5}}]),
        lambda d: d.update(tensors=[{"match": "x", "method": "linear", "parameters": {"density": 0.5}}]),
        lambda d: d.update(tensors=[{"match": "x", "method": "lineer"}]),
        lambda d: d.update(tensors=[{"match": "x", "from": "a", "method": "linear"}]),
        lambda d: d.update(tensors=[{"match": "x", "from": "a", "parameters": {"density": 0.5}}]),
        lambda d: d.update(tensors=[{"match": "x", "layers": "a-b", "dtype": "float32"}]),
        lambda d: d.update(tensors=[{"match": "x", "layers": -1, "dtype": "float32"}]),
        lambda d: d.update(tensors=[{"match": "x", "form": "a"}]),
        lambda d: d.update(tensors={"match": "x", "dtype": "float32"}),
    ],
    ids=lambda _: "",
)
def test_slips(change: Callable[[dict[str, Any]], object], validator: Any, ingot: Run, recipe: Callable[[str], Path]) -> None:
    document = edited(change)
    assert not validator.is_valid(document), document
    assert not parses(ingot, recipe, document), document


def test_every_method_is_in_it(validator: Any, ingot: Run) -> None:
    methods = json.loads(ingot("methods", "--json").stdout)["methods"]
    assert validator.schema["properties"]["merge_method"]["enum"] == [method["name"] for method in methods]
    for method in methods:
        found = validator.schema["$defs"][f"{method['name']}.parameters"]["properties"]
        assert {parameter["name"] for parameter in method["parameters"]} <= found.keys()
