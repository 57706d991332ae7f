"""Queries, keys and values in one tensor, head by head: taken apart and put together as the models' own code in transformers does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, write_recipe

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch")

HEADS, HEAD = 6, 8
WIDTH = HEADS * HEAD


def neox() -> tuple[Any, Any]:
    config = transformers.GPTNeoXConfig(
        vocab_size=32, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=HEADS, intermediate_size=16, max_position_embeddings=16
    )
    model = transformers.GPTNeoXForCausalLM(config)
    return model, model.gpt_neox.layers[0].attention


def bloom() -> tuple[Any, Any]:
    model = transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=32, hidden_size=WIDTH, n_layer=1, n_head=HEADS))
    return model, model.transformer.h[0].self_attention


def falcon(**more: Any) -> tuple[Any, Any]:
    config = transformers.FalconConfig(
        vocab_size=32, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=HEADS, bias=True, alibi=False, **more
    )
    model = transformers.FalconForCausalLM(config)
    return model, model.transformer.h[0].self_attention


FAMILIES = {
    "gpt_neox": neox,
    "bloom": bloom,
    "falcon groups": lambda: falcon(new_decoder_architecture=True, num_kv_heads=2),
    "falcon one group": lambda: falcon(new_decoder_architecture=False, multi_query=True),
    "falcon heads": lambda: falcon(new_decoder_architecture=False, multi_query=False),
}


def parts(family: str, attention: Any, fused: Any) -> tuple[Any, Any, Any]:
    """Queries, keys and values of one position, [heads, head], as the attention's own code takes them from its projection."""
    if family == "gpt_neox":
        # This view and this chunk are in its forward function.
        return tuple(part[0, :, 0] for part in fused.view(1, 1, -1, 3 * HEAD).transpose(1, 2).chunk(3, dim=-1))
    if family == "bloom":
        return tuple(part[0, :, 0] for part in attention._reshape(fused))
    return tuple(part[0, 0] for part in attention._split_heads(fused))


@pytest.mark.parametrize("names", [("q_proj", "k_proj", "v_proj"), ("query", "key", "value")])
@pytest.mark.parametrize("family", FAMILIES)
def test_heads(ingot: Command, folder: Path, family: str, names: tuple[str, str, str]) -> None:
    torch.manual_seed(3)
    model, attention = FAMILIES[family]()
    torch.nn.init.normal_(attention.query_key_value.bias)
    model.save_pretrained(folder / "fused")
    tensors = safetensors_torch.load_file(folder / "fused" / "model.safetensors")
    weight = next(name for name in tensors if name.endswith("query_key_value.weight"))
    stem = weight.removesuffix("query_key_value.weight")
    pairs = {"falcon groups": 2, "falcon one group": 1}.get(family, HEADS)
    # A base in the other layout, whose own values do not matter.
    (folder / "split").mkdir()
    (folder / "split" / "config.json").write_text((folder / "fused" / "config.json").read_text())
    apart = {name: torch.zeros_like(value) for name, value in tensors.items() if "query_key_value" not in name}
    for name, heads in zip(names, (HEADS, pairs, pairs), strict=True):
        apart[f"{stem}{name}.weight"] = torch.zeros(heads * HEAD, WIDTH)
        apart[f"{stem}{name}.bias"] = torch.zeros(heads * HEAD)
    safetensors_torch.save_file(apart, folder / "split" / "model.safetensors")

    def merge(base: str, other: str, out: str) -> dict[str, Any]:
        entries = [{"model": str(folder / base), "parameters": {"weight": 0}}, {"model": str(folder / other), "parameters": {"weight": 1}}]
        ingot.merge(write_recipe(folder / "r.yml", merge_method="linear", models=entries), folder / out)
        return dict(safetensors_torch.load_file(folder / out / "model.safetensors"))

    found = merge("split", "fused", "taken")
    assert found.keys() == apart.keys()
    state = torch.randn(1, 1, WIDTH)
    with torch.no_grad():
        wanted = parts(family.split()[0], attention, attention.query_key_value(state))
    for name, rows in zip(names, wanted, strict=True):
        own = (found[f"{stem}{name}.weight"] @ state[0, 0] + found[f"{stem}{name}.bias"]).view(-1, HEAD)
        # Falcon's code repeats keys and values for the queries of their group.
        own = own.repeat_interleave(rows.shape[0] // own.shape[0], 0)
        assert torch.allclose(own, rows, atol=1e-6), name
    again = merge("fused", "taken", "put")
    assert again.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(again[name], value), name


def test_same_layout_is_merged_as_it_is(ingot: Command, folder: Path) -> None:
    for seed in (1, 2):
        torch.manual_seed(seed)
        neox()[0].save_pretrained(folder / str(seed))
    entries = [{"model": str(folder / str(seed)), "parameters": {"weight": 0.5}} for seed in (1, 2)]
    ingot.merge(write_recipe(folder / "r.yml", merge_method="linear", models=entries), folder / "out")
    one, two, out = (safetensors_torch.load_file(folder / name / "model.safetensors") for name in ("1", "2", "out"))
    for name, value in out.items():
        assert torch.allclose(value, (one[name] + two[name]) / 2, atol=1e-7)


def test_arrangements_that_are_not_known(ingot: Command, folder: Path) -> None:
    """Another family, or numbers that do not fit: an error that says so, and nothing is written."""
    fused = {"a.query_key_value.weight": torch.zeros(3 * WIDTH, WIDTH)}
    apart = {f"a.{name}_proj.weight": torch.zeros(WIDTH, WIDTH) for name in "qkv"}
    for number, config in enumerate(
        [
            {"model_type": "other", "num_attention_heads": HEADS, "hidden_size": WIDTH},
            {"model_type": "gpt_neox", "num_attention_heads": HEADS},
            {"model_type": "gpt_neox", "num_attention_heads": 7, "hidden_size": WIDTH},
            {"model_type": "falcon", "num_attention_heads": HEADS, "hidden_size": WIDTH, "multi_query": True},
            {"model_type": "bloom", "n_head": 10**12, "hidden_size": 10**12},
        ]
    ):
        places = []
        for name, tensors in (("fused", fused), ("apart", apart)):
            place = folder / f"{number}{name}"
            place.mkdir()
            safetensors_torch.save_file(tensors, place / "model.safetensors")
            (place / "config.json").write_text(json.dumps(config))
            places.append(place)
        for order in (places, places[::-1]):
            entries = [{"model": str(place), "parameters": {"weight": 1}} for place in order]
            recipe = write_recipe(folder / "r.yml", merge_method="linear", models=entries)
            result = ingot("merge", recipe, folder / "out", exit_code=None)
            assert result.returncode not in (0, 70)
            assert "query_key_value" in result.stderr
            assert not (folder / "out.partial").exists()


def test_internlm2(ingot: Command, folder: Path) -> None:
    """`wqkv` is read as [key-value heads, queries of each + 2, head]: queries first, then the key, then the value."""
    pairs, of_each = 2, HEADS // 2
    config = {"model_type": "internlm2", "num_attention_heads": HEADS, "num_key_value_heads": pairs, "hidden_size": WIDTH}
    weight = torch.randn(pairs * (of_each + 2) * HEAD, WIDTH)
    grouped = weight.view(pairs, of_each + 2, HEAD, WIDTH)
    wanted = {"wq": grouped[:, :of_each], "wk": grouped[:, of_each], "wv": grouped[:, of_each + 1]}
    apart = {f"a.{name}.weight": value.reshape(-1, WIDTH).contiguous() for name, value in wanted.items()}
    for name, tensors in (
        ("fused", {"a.wqkv.weight": weight}),
        ("apart", {name: torch.zeros_like(value) for name, value in apart.items()}),
    ):
        (folder / name).mkdir()
        safetensors_torch.save_file(tensors, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(config))
    entries = [{"model": str(folder / name), "parameters": {"weight": weight}} for name, weight in (("apart", 0), ("fused", 1))]
    ingot.merge(write_recipe(folder / "r.yml", merge_method="linear", models=entries), folder / "out")
    found = safetensors_torch.load_file(folder / "out" / "model.safetensors")
    assert found.keys() == apart.keys()
    for name, value in apart.items():
        assert torch.equal(found[name], value), name
