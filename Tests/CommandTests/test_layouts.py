"""One architecture in several layouts: merging across them gives the bytes that merging in the base's layout gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import Array, Run, read, write_model

Write = Callable[[str], Path]

LAYERS, EXPERTS, HIDDEN, FEATURES, HEADS, PAIRS, HEAD = 2, 11, 160, 40, 4, 2, 24
CONFIG: dict[str, object] = {
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": PAIRS,
    "head_dim": HEAD,
    "num_experts": EXPERTS,
}


def split_weights(seed: int) -> dict[str, Array]:
    """Everything apart, under the names of the Qwen family."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return generator.standard_normal(shape).astype(np.float32)

    tensors = {"model.embed_tokens.weight": normal(32, HIDDEN)}
    for layer in range(LAYERS):
        base = f"model.layers.{layer}."
        for name, heads in (("q", HEADS), ("k", PAIRS), ("v", PAIRS)):
            tensors[f"{base}self_attn.{name}_proj.weight"] = normal(heads * HEAD, HIDDEN)
            tensors[f"{base}self_attn.{name}_proj.bias"] = normal(heads * HEAD)
        tensors[f"{base}self_attn.o_proj.weight"] = normal(HIDDEN, HEADS * HEAD)
        tensors[f"{base}mlp.gate.weight"] = normal(EXPERTS, HIDDEN)
        tensors[f"{base}mlp.shared_expert.gate_proj.weight"] = normal(FEATURES, HIDDEN)
        tensors[f"{base}mlp.shared_expert.up_proj.weight"] = normal(FEATURES, HIDDEN)
        for expert in range(EXPERTS):
            tensors[f"{base}mlp.experts.{expert}.gate_proj.weight"] = normal(FEATURES, HIDDEN)
            tensors[f"{base}mlp.experts.{expert}.up_proj.weight"] = normal(FEATURES, HIDDEN)
            tensors[f"{base}mlp.experts.{expert}.down_proj.weight"] = normal(HIDDEN, FEATURES)
    return tensors


def mixtral(tensors: Mapping[str, Array]) -> dict[str, Array]:
    names = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    renamed = {}
    for name, value in tensors.items():
        if ".mlp.experts." in name:
            *stem, last, weight = name.replace(".mlp.", ".block_sparse_moe.").split(".")
            name = ".".join([*stem, names[last], weight])
        elif ".mlp." in name:
            name = name.replace(".mlp.", ".block_sparse_moe.")
        renamed[name] = value
    return renamed


def batched(tensors: Mapping[str, Array], *, transposed: bool = False) -> dict[str, Array]:
    """One tensor for all experts, as transformers 5 saves them."""
    result = {name: value for name, value in tensors.items() if ".experts." not in name}
    for layer in range(LAYERS):
        base = f"model.layers.{layer}.mlp.experts."

        def stacked(part: str, base: str = base) -> Array:
            return np.stack([tensors[f"{base}{expert}.{part}.weight"] for expert in range(EXPERTS)])

        gate_up = np.concatenate([stacked("gate_proj"), stacked("up_proj")], axis=1)
        down = stacked("down_proj")
        if transposed:
            gate_up, down = gate_up.transpose(0, 2, 1), down.transpose(0, 2, 1)
        result[base + "gate_up_proj"] = np.ascontiguousarray(gate_up)
        result[base + "down_proj"] = np.ascontiguousarray(down)
    return result


def transposed(tensors: Mapping[str, Array]) -> dict[str, Array]:
    return batched(tensors, transposed=True)


def fused(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Projections one below the other, as in the Phi-3 family."""
    result = dict(tensors)
    rules = {"self_attn.qkv_proj": ("q_proj", "k_proj", "v_proj"), "mlp.shared_expert.gate_up_proj": ("gate_proj", "up_proj")}
    for layer in range(LAYERS):
        for whole, parts in rules.items():
            stem, name = f"model.layers.{layer}." + whole.rpartition(".")[0] + ".", whole.rpartition(".")[2]
            for ending in (".weight", ".bias"):
                if stem + parts[0] + ending in result:
                    result[stem + name + ending] = np.concatenate([result.pop(stem + part + ending) for part in parts])
    return result


LAYOUTS: dict[str, Callable[[Mapping[str, Array]], Mapping[str, Array]]] = {
    "split": dict,
    "mixtral": mixtral,
    "batched": batched,
    "transposed": transposed,
    "fused": fused,
    "batched_fused": lambda tensors: fused(batched(tensors)),
}


def model(directory: Path, seed: int, layout: str, **changes: object) -> Path:
    return write_model(directory, dict(LAYOUTS[layout](split_weights(seed))), **{**CONFIG, **changes})


def weights(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(directory.glob("*.safetensors"))]


@pytest.mark.parametrize("other", LAYOUTS)
@pytest.mark.parametrize("base", LAYOUTS)
def test_same_bytes_across_layouts(ingot: Run, recipe: Write, tmp_path: Path, base: str, other: str) -> None:
    a = model(tmp_path / "a", 1, base)
    across = model(tmp_path / "across", 2, other)
    alike = model(tmp_path / "alike", 2, base)
    for method in ("linear", "ties"):
        for name, second in (("across", across), ("alike", alike)):
            text = f"models:\n- model: {a}\n- model: {second}\n"
            text += (
                "merge_method: linear\nparameters: {weight: 0.5}\n"
                if method == "linear"
                else f"merge_method: ties\nbase_model: {a}\nparameters: {{weight: 0.5, density: 0.3}}\n"
            )
            done = ingot("merge", recipe(text), f"{method}-{name}", "--memory", "16MiB")
            assert done.returncode == 0, done.stderr
        assert weights(tmp_path / f"{method}-across") == weights(tmp_path / f"{method}-alike")
    merged = read(tmp_path / "linear-across")
    first, second_tensors = LAYOUTS[base](split_weights(1)), LAYOUTS[base](split_weights(2))
    assert merged.keys() == first.keys()
    for name, value in merged.items():
        np.testing.assert_allclose(value, (first[name] + second_tensors[name]) / 2, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("other", ["mixtral", "transposed", "batched_fused"])
@pytest.mark.parametrize("base", ["split", "transposed", "batched"])
def test_layers_of_another_layout_are_copied(ingot: Run, recipe: Write, tmp_path: Path, base: str, other: str) -> None:
    a, b = model(tmp_path / "a", 1, base), model(tmp_path / "b", 2, other)
    text = "merge_method: passthrough\nslices:\n"
    text += f"- sources: [{{model: {a}, layer_range: [0, 1]}}]\n- sources: [{{model: {b}, layer_range: [1, 2]}}]\n"
    done = ingot("merge", recipe(text), "out")
    assert done.returncode == 0, done.stderr
    merged = read(tmp_path / "out")
    first, second = LAYOUTS[base](split_weights(1)), LAYOUTS[base](split_weights(2))
    assert merged.keys() == first.keys()
    for name, value in merged.items():
        np.testing.assert_array_equal(value, (second if ".layers.1." in name else first)[name])


def test_plan_names_the_parts(ingot: Run, recipe: Write, tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 1, "batched"), model(tmp_path / "b", 2, "mixtral")
    text = f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {b}}}]\n"
    done = ingot("plan", recipe(text), "--json")
    assert done.returncode == 0, done.stderr
    tensors = {tensor["name"]: tensor for tensor in json.loads(done.stdout)["tensors"]}
    first, second = tensors["model.layers.1.mlp.experts.gate_up_proj"]["inputs"]
    assert "assembled_from" not in first
    expected = [f"model.layers.1.block_sparse_moe.experts.{number}.{part}.weight" for number in range(EXPERTS) for part in ("w1", "w3")]
    assert second["assembled_from"] == expected
    assert second["name"] == "model.layers.1.mlp.experts.gate_up_proj"
    assert [entry["name"] for entry in tensors["model.layers.1.mlp.gate.weight"]["inputs"]][1].endswith("mlp.gate.weight")


@pytest.mark.parametrize("missing", ["3.up_proj", "10.down_proj", "0.gate_proj"])
def test_missing_expert_is_named(ingot: Run, recipe: Write, tmp_path: Path, missing: str) -> None:
    a = model(tmp_path / "a", 1, "batched")
    tensors = split_weights(2)
    del tensors[f"model.layers.1.mlp.experts.{missing}.weight"]
    b = write_model(tmp_path / "b", tensors, **CONFIG)
    text = f"merge_method: linear\nparameters: {{weight: 1}}\nmodels:\n- model: {a}\n- model: {b}\n"
    done = ingot("merge", recipe(text), "out")
    assert done.returncode != 0
    assert f"model.layers.1.mlp.experts.{missing}.weight" in done.stderr
    assert "recipe.yml:5" in done.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_missing_last_expert_is_named(ingot: Run, recipe: Write, tmp_path: Path) -> None:
    a = model(tmp_path / "a", 1, "batched")
    tensors = {name: value for name, value in split_weights(2).items() if f".experts.{EXPERTS - 1}." not in name}
    b = write_model(tmp_path / "b", tensors, **CONFIG)
    text = f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {b}}}]\n"
    done = ingot("merge", recipe(text), "out")
    assert done.returncode != 0
    assert f"model.layers.0.mlp.experts.{EXPERTS - 1}.gate_proj.weight" in done.stderr


def test_missing_part_of_a_projection_is_named(ingot: Run, recipe: Write, tmp_path: Path) -> None:
    a = model(tmp_path / "a", 1, "fused")
    tensors = split_weights(2)
    del tensors["model.layers.0.self_attn.k_proj.bias"]
    b = write_model(tmp_path / "b", tensors, **CONFIG)
    text = f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {b}}}]\n"
    done = ingot("merge", recipe(text), "out")
    assert done.returncode != 0
    assert "model.layers.0.self_attn.k_proj.bias" in done.stderr


def test_a_cut_that_config_and_base_do_not_tell_is_refused(ingot: Run, recipe: Write, tmp_path: Path) -> None:
    a = model(tmp_path / "a", 1, "split")
    tensors = fused(split_weights(2))
    for name in list(tensors):
        if "qkv_proj" in name:
            tensors[name] = tensors[name][:-8]
    b = write_model(tmp_path / "b", tensors, **CONFIG)
    text = f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {b}}}]\n"
    done = ingot("merge", recipe(text), "out")
    assert done.returncode != 0
    assert "model.layers.0.self_attn.qkv_proj" in done.stderr
    assert "184 rows" in done.stderr


def test_experts_of_other_shapes_are_refused(ingot: Run, recipe: Write, tmp_path: Path) -> None:
    a = model(tmp_path / "a", 1, "batched")
    tensors = split_weights(2)
    tensors["model.layers.0.mlp.experts.7.up_proj.weight"] = tensors["model.layers.0.mlp.experts.7.up_proj.weight"][:-1]
    b = write_model(tmp_path / "b", tensors, **CONFIG)
    text = f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {b}}}]\n"
    done = ingot("merge", recipe(text), "out")
    assert done.returncode != 0
    assert "model.layers.0.mlp.experts.7.up_proj.weight" in done.stderr


def test_a_changed_part_does_not_resume(ingot: Run, recipe: Write, tmp_path: Path) -> None:
    """The digest of a plan tells one assembly from another."""
    a = model(tmp_path / "a", 1, "batched")
    digests = set()
    for layout in ("batched", "split", "transposed", "mixtral"):
        b = model(tmp_path / layout, 2, layout)
        text = f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {b}}}]\n"
        done = ingot("plan", recipe(text), "--json")
        assert done.returncode == 0, done.stderr
        digests.add(json.loads(done.stdout)["digest"])
    assert len(digests) == 4
