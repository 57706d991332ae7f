"""Recipes of several documents through the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run

Models = dict[str, Path]
Write = Callable[[str], Path]

FIRSTS = {
    "linear": "merge_method: linear\nmodels: [{{model: {a}}}, {{model: {b}}}]\nparameters: {{weight: 0.5}}\n",
    "ties": "merge_method: ties\nbase_model: {base}\nmodels: [{{model: {a}}}, {{model: {b}}}]\n"
    "parameters: {{weight: 0.5, density: 0.4}}\ndtype: bfloat16\n",
}
SECOND = "merge_method: slerp\nbase_model: {base}\nmodels: [{{model: {first}}}]\nparameters: {{t: 0.4}}\n"


def weights(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def graph(models: Models, first: str) -> str:
    return f"name: first\n{FIRSTS[first].format(**models)}---\n{SECOND.format(**models, first='first')}"


@pytest.mark.parametrize("first", FIRSTS)
def test_documents_give_what_they_give_alone(ingot: Run, recipe: Write, models: Models, tmp_path: Path, first: str) -> None:
    for text, output in ((FIRSTS[first].format(**models), "alone"), (SECOND.format(**models, first=tmp_path / "alone"), "expected")):
        done = ingot("merge", recipe(text), output)
        assert done.returncode == 0, done.stderr
    path = recipe(graph(models, first))
    for settings in ([], ["--threads", "1"], ["--isa", "scalar"]):
        done = ingot("merge", path, "out", "--force", *settings)
        assert done.returncode == 0, done.stderr
        assert weights(tmp_path / "out") == weights(tmp_path / "expected")
    assert {path.name for path in tmp_path.iterdir()} >= {"out"}
    assert not (tmp_path / "out.partial").exists()
    assert ingot("verify", "out").returncode == 0
    done = ingot("merge", path, "--sink", "null")
    assert done.returncode == 0, done.stderr


def findings(directory: Path) -> list[tuple[object, ...]]:
    entries = json.loads((directory / "ingot.json").read_text())["findings"]
    return [(entry.get("document"), entry["tensor"], entry["name"], entry.get("model"), entry["value"]) for entry in entries]


def test_what_a_document_found_is_recorded(ingot: Run, recipe: Write, models: Models, tmp_path: Path) -> None:
    """Thresholds and ties of an earlier document stand in ingot.json as they do when it is merged alone."""
    assert ingot("merge", recipe(FIRSTS["ties"].format(**models)), "alone").returncode == 0
    alone = findings(tmp_path / "alone")
    assert any(name == "threshold" for _, _, name, _, _ in alone)
    assert ingot("merge", recipe(graph(models, "ties")), "out").returncode == 0
    found = findings(tmp_path / "out")
    assert [entry[1:] for entry in found if entry[0] == "first"] == [entry[1:] for entry in alone]


def test_plan_and_check_tell_of_documents(ingot: Run, recipe: Write, models: Models) -> None:
    path = recipe(graph(models, "ties"))
    done = ingot("plan", path, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    (stage,) = plan["stages"]
    assert (stage["name"], stage["method"], stage["streamed"]) == ("first", "ties", True)
    assert {entry["model"] for tensor in plan["tensors"] for entry in tensor["inputs"]} == {str(models["base"]), "first"}
    done = ingot("plan", path)
    assert "document first: ties" in done.stdout
    assert "computed as it is read" in done.stdout
    done = ingot("check", path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"] == 3


def test_a_plan_of_one_document_has_no_stages(ingot: Run, recipe: Write, models: Models) -> None:
    done = ingot("plan", recipe(FIRSTS["linear"].format(**models)), "--json")
    assert "stages" not in json.loads(done.stdout)


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("name: x\n{one}---\nname: x\n{one}", "two documents have the name x", "recipe.yml:6:7"),
        ("{one}---\n{one}", "a second document without a name", "recipe.yml:5:1"),
        ("name: x\nmerge_method: passthrough\nmodels: [{{model: x}}]\n---\nname: y\n{one}", "nothing", None),
        ("name: x\nmerge_method: passthrough\nmodels: [{{model: x}}]\n---\nmerge_method: passthrough\nmodels: [{{model: x}}]\n",
         "in a circle", "recipe.yml:3:18"),
        ("name: mean\n{one}---\nmerge_method: passthrough\nmodels: [{{model: mean+lora}}]\n",
         "model not found", "recipe.yml:7:18"),
        ("name: mean\n{one}---\nmerge_method: passthrough\nmodels:\n- model:\n    model: mean\n    lora: lora\n",
         "model not found", "recipe.yml:9:5"),
        ("name: mean\n{one}---\nmerge_method: passthrough\nmodels: [{{model: meany}}]\n",
         "did you mean the document mean?", "recipe.yml:7:18"),
    ],
)  # fmt: skip
def test_wrong_documents_are_told_with_their_place(
    ingot: Run, recipe: Write, models: Models, text: str, message: str, place: str | None
) -> None:
    one = FIRSTS["linear"].format(**models)
    done = ingot("plan", recipe(text.format(one=one.replace("{", "{{").replace("}", "}}")).replace("{{", "{").replace("}}", "}")))
    assert message in done.stderr
    if place is not None:
        assert done.returncode != 0
        assert place in done.stderr
    else:
        assert done.returncode == 0


def test_a_stage_of_another_layout(ingot: Run, recipe: Write, tmp_path: Path) -> None:
    """The result of one document is matched to the layout of the next one's base."""
    from test_layouts import model

    split, batched = model(tmp_path / "split", 1, "split"), model(tmp_path / "batched", 2, "batched_fused")
    more = model(tmp_path / "more", 3, "transposed")
    first = f"merge_method: linear\nmodels: [{{model: {split}}}, {{model: {more}}}]\nparameters: {{weight: 1}}\n"
    second = f"merge_method: ties\nbase_model: {batched}\nmodels: [{{model: FIRST}}]\nparameters: {{weight: 1, density: 0.3}}\n"
    for text, output in ((first, "alone"), (second.replace("FIRST", str(tmp_path / "alone")), "expected")):
        done = ingot("merge", recipe(text), output)
        assert done.returncode == 0, done.stderr
    done = ingot("merge", recipe(f"name: first\n{first}---\n{second.replace('FIRST', 'first')}"), "out")
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "out") == weights(tmp_path / "expected")
