"""Quantised checkpoints are decoded: every value is its code's value times its scale, as torch computes it in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, write_recipe

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch")

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def write(folder: Path, tensors: dict[str, Any], quantisation: object = None, **config: object) -> Path:
    folder.mkdir(parents=True)
    safetensors_torch.save_file(tensors, folder / "model.safetensors")
    content = {"model_type": "test", "torch_dtype": "bfloat16", **config}
    if quantisation is not None:
        content["quantization_config"] = quantisation
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def decode(ingot: Command, folder: Path, model: Path, *, dtype: str | None = "float32") -> dict[str, Any]:
    more = {} if dtype is None else {"dtype": dtype}
    recipe = write_recipe(folder / "r.yml", merge_method="passthrough", models=[{"model": str(model)}], **more)
    ingot.merge(recipe, folder / "out", "--force")
    return dict(safetensors_torch.load_file(folder / "out" / "model.safetensors"))


def codes(*shape: int, seed: int = 1) -> Any:
    """Every FP8 code but NaN."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 256, shape, generator=generator, dtype=torch.int32).to(torch.uint8)
    bits[(bits & 0x7F) == 0x7F] = 0x3C
    return bits.view(torch.float8_e4m3fn)


def scales(*shape: int, seed: int = 2) -> Any:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 0.01 + 1e-4


def by_block(weight: Any, scale: Any, rows: int, columns: int) -> Any:
    wide = scale.float().repeat_interleave(rows, -2).repeat_interleave(columns, -1)
    return weight.float() * wide[..., : weight.shape[-2], : weight.shape[-1]]


@pytest.mark.parametrize("shape", [(256, 384), (300, 200), (1, 1), (129, 7000), (70000, 3), (3, 40000)])
@pytest.mark.parametrize("scale_type", ["float32", "bfloat16", "float8_e8m0fnu"])
def test_block_scales(ingot: Command, folder: Path, shape: tuple[int, int], scale_type: str) -> None:
    weight = codes(*shape)
    grid = scales((shape[0] + 127) // 128, (shape[1] + 127) // 128)
    if scale_type == "float8_e8m0fnu":
        grid = torch.exp2(torch.randint(-12, 4, grid.shape, generator=torch.Generator().manual_seed(5)).float())
    grid = grid.to(getattr(torch, scale_type))
    plain = torch.randn(5)
    model = write(folder / "m", {"a.weight": weight, "a.weight_scale_inv": grid, "norm.weight": plain}, FP8)
    found = decode(ingot, folder, model)
    assert found.keys() == {"a.weight", "norm.weight"}
    assert torch.equal(found["a.weight"], by_block(weight, grid, 128, 128))
    assert torch.equal(found["norm.weight"], plain)
    config = json.loads((folder / "out" / "config.json").read_text())
    assert "quantization_config" not in config


def test_blocks_of_another_size_experts_and_default_type(ingot: Command, folder: Path) -> None:
    weight = codes(3, 100, 90)
    grid = scales(3, 4, 2)
    config = {**FP8, "weight_block_size": [32, 64]}
    model = write(folder / "m", {"e.weight": weight, "e.weight_scale_inv": grid}, config)
    wanted = torch.stack([by_block(weight[i], grid[i], 32, 64) for i in range(3)])
    assert torch.equal(decode(ingot, folder, model)["e.weight"], wanted)
    found = decode(ingot, folder, model, dtype=None)
    assert found["e.weight"].dtype == torch.bfloat16
    assert torch.equal(found["e.weight"], wanted.bfloat16())


def compressed(strategy: str) -> dict[str, object]:
    weights = {"num_bits": 8, "type": "float", "strategy": strategy, "symmetric": True, "dynamic": False}
    if strategy == "block":
        weights["block_structure"] = [128, 128]
    return {
        "quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "shape"), [("tensor", (1,)), ("tensor", ()), ("channel", (200, 1)), ("channel", (200,)), ("block", (2, 3))]
)
def test_compressed_tensors(ingot: Command, folder: Path, strategy: str, shape: tuple[int, ...]) -> None:
    weight = codes(200, 300)
    scale = scales(*shape).bfloat16()
    tensors = {"a.weight": weight, "a.weight_scale": scale, "a.input_scale": torch.ones(1), "lm_head.weight": torch.randn(4, 4)}
    model = write(folder / "m", tensors, compressed(strategy))
    found = decode(ingot, folder, model)
    assert found.keys() == {"a.weight", "lm_head.weight"}
    if strategy == "block":
        wanted = by_block(weight, scale, 128, 128)
    else:
        wanted = weight.float() * (scale.float().reshape(-1, 1) if scale.numel() > 1 else scale.float())
    assert torch.equal(found["a.weight"], wanted)


def test_mxfp4_is_what_transformers_makes_of_it(ingot: Command, folder: Path) -> None:
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    generator = torch.Generator().manual_seed(3)
    blocks = torch.randint(0, 256, (3, 70, 5, 16), generator=generator, dtype=torch.int32).to(torch.uint8)
    exponents = torch.randint(110, 130, (3, 70, 5), generator=generator, dtype=torch.int32).to(torch.uint8)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {f"{name}_blocks": blocks, f"{name}_scales": exponents, f"{name}_bias": torch.randn(3, 70).bfloat16()}
    model = write(folder / "m", tensors, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    wanted = mxfp4.convert_moe_packed_tensors(blocks, exponents, dtype=torch.float32)
    found = decode(ingot, folder, model)
    assert found.keys() == {name, f"{name}_bias"}
    assert torch.equal(found[name], wanted)
    assert torch.equal(decode(ingot, folder, model, dtype=None)[name], wanted.bfloat16())


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_quantised_and_plain_models_merge_and_resume(ingot: Command, folder: Path, method: str) -> None:
    weight, grid = codes(300, 1000), scales(3, 8)
    base, other = torch.randn(300, 1000), torch.randn(300, 1000).bfloat16()
    models = {
        "q": write(folder / "q", {"a.weight": weight, "a.weight_scale_inv": grid}, FP8),
        "p": write(folder / "p", {"a.weight": other}),
        "b": write(folder / "b", {"a.weight": base}),
    }
    # The same model, decoded beforehand.
    models["d"] = write(folder / "d", {"a.weight": by_block(weight, grid, 128, 128)})
    outputs = []
    for quantised, threads in (("q", 1), ("q", 4), ("d", 2)):
        parameters = {"weight": 0.5, **({"density": 0.3} if method == "ties" else {})}
        entries = [{"model": str(models[name]), "parameters": parameters} for name in (quantised, "p")]
        more = {"base_model": str(models["b"])} if method == "ties" else {}
        recipe = write_recipe(folder / "r.yml", merge_method=method, models=entries, dtype="float32", **more)
        ingot.merge(recipe, folder / "out", "--force", "--threads", threads)
        outputs.append((folder / "out" / "model.safetensors").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
    assert ingot("verify", folder / "out").returncode == 0


def test_what_cannot_be_decoded_is_refused(ingot: Command, folder: Path) -> None:
    weight, grid = codes(256, 128), scales(2, 1)
    cases: list[tuple[dict[str, Any], object, str]] = [
        ({"a.weight": weight}, FP8, "has no weight_scale_inv"),
        ({"a.weight_scale_inv": grid, "b": torch.zeros(1)}, FP8, "no tensor a.weight beside it"),
        ({"a.weight": weight, "a.weight_scale_inv": scales(3, 1)}, FP8, "expected one scale for each block"),
        ({"a.weight": weight.float(), "a.weight_scale_inv": grid}, FP8, "quantised with fp8"),
        ({"a.weight": weight, "a.weight_scale_inv": grid}, {**FP8, "weight_block_size": [0, 128]}, "in blocks of [0,"),
        ({"a.weight": weight}, {"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
        ({"a.weight": torch.zeros(2)}, {"quant_method": "awq"}, "quantised with awq"),
        (
            {"a.weight": weight, "a.weight_scale": grid[:1]},
            {**compressed("tensor"), "transform_config": {"config_groups": {"u": 1}}},
            "transf",
        ),
        ({"a.weight": weight, "a.weight_scale": grid}, compressed("group"), "by tensor, channel or block"),
        ({"a_blocks": torch.zeros(2, 3, 4, 8, dtype=torch.uint8), "a_scales": torch.zeros(2, 3, 4, dtype=torch.uint8)}, None, "mxfp4"),
    ]
    for number, (tensors, quantisation, words) in enumerate(cases):
        model = write(folder / f"m{number}", tensors, quantisation)
        recipe = write_recipe(folder / "r.yml", merge_method="passthrough", models=[{"model": str(model)}])
        done = ingot("merge", recipe, folder / "out", exit_code=None)
        assert done.returncode != 0
        assert words in done.stderr, done.stderr
        assert not (folder / "out").exists()
