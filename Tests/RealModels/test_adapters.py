"""`model+adapter` gives what merging the adapter into its base beforehand gives: by the definition, and by peft where it is installed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, write_recipe

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch")

Q, K, OUT, EMBED, HEAD, BIAS, NORM = (
    "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.o_proj", "model.embed_tokens",
    "lm_head", "model.layers.0.self_attn.q_proj.bias", "model.norm.weight",
)  # fmt: skip


def base_tensors(dtype: str = "float32") -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    shapes = {
        f"{Q}.weight": (300, 500), BIAS: (300,), f"{K}.weight": (70, 500), f"{OUT}.weight": (500, 2100), f"{EMBED}.weight": (90, 500),
        f"{HEAD}.weight": (90, 500), NORM: (500,),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=generator).to(getattr(torch, dtype)) for name, shape in shapes.items()}


def write_base(folder: Path, tensors: dict[str, Any], **config: object) -> Path:
    folder.mkdir(parents=True)
    safetensors_torch.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "test", "tie_word_embeddings": False, **config}))
    return folder


def write_adapter(folder: Path, tensors: dict[str, Any], *, pickled: bool = False, **config: object) -> Path:
    folder.mkdir(parents=True)
    named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    if pickled:
        torch.save(named, folder / "adapter_model.bin")
    else:
        safetensors_torch.save_file(named, folder / "adapter_model.safetensors")
    content = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": "org/base", "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return folder


def pair(outputs: int, inputs: int, rank: int = 8, seed: int = 3, dtype: str = "float32") -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, inputs, generator=generator) * 0.1
    b = torch.randn(outputs, rank, generator=generator) * 0.1
    return a.to(getattr(torch, dtype)), b.to(getattr(torch, dtype))


def passthrough(ingot: Command, folder: Path, model: object, *, dtype: str | None = "float32") -> dict[str, Any]:
    more = {} if dtype is None else {"dtype": dtype}
    recipe = write_recipe(folder / "r.yml", merge_method="passthrough", models=[{"model": model}], **more)
    ingot.merge(recipe, folder / "out", "--force")
    return dict(safetensors_torch.load_file(folder / "out" / "model.safetensors"))


def close(found: Any, wanted: Any) -> bool:
    return bool(torch.allclose(found.double(), wanted.double(), rtol=2e-6, atol=2e-6))


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("root", [False, True])
def test_linear_layers(ingot: Command, folder: Path, pickled: bool, root: bool) -> None:
    tensors = base_tensors()
    base = write_base(folder / "base", tensors)
    a, b = pair(300, 500)
    a2, b2 = pair(500, 2100, 4, 5)
    a3, b3 = pair(70, 500, 8, 6, "bfloat16")
    adapter = write_adapter(
        folder / "lora",
        {f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b, f"{OUT}.lora_A.weight": a2, f"{OUT}.lora_B.weight": b2,
         f"{K}.lora_A.default.weight": a3, f"{K}.lora_B.default.weight": b3},
        pickled=pickled, use_rslora=root, rank_pattern={"1.self_attn.o_proj": 4}, alpha_pattern={r"^model\.layers.0.self_attn.k_proj": 3},
    )  # fmt: skip
    found = passthrough(ingot, folder, f"{base}+{adapter}")

    def scale(alpha: float, rank: int) -> float:
        return alpha / (math.sqrt(rank) if root else rank)

    assert close(found[f"{Q}.weight"], tensors[f"{Q}.weight"] + scale(16, 8) * (b.double() @ a.double()))
    assert close(found[f"{OUT}.weight"], tensors[f"{OUT}.weight"] + scale(16, 4) * (b2.double() @ a2.double()))
    assert close(found[f"{K}.weight"], tensors[f"{K}.weight"] + scale(3, 8) * (b3.double() @ a3.double()))
    for name in (NORM, BIAS, f"{EMBED}.weight"):
        assert torch.equal(found[name], tensors[name])
    record = json.loads((folder / "out" / "ingot.json").read_text())["models"][0]
    assert record["adapters"] == [{"path": str(adapter)}]
    assert any(shard["file"].startswith("lora/adapter_model") for shard in record["shards"])
    assert "lora" in (folder / "out" / "README.md").read_text()
    assert "trained on org/base" not in json.dumps(record)


def dora(weight: Any, delta: Any, magnitude: Any, axis: int) -> Any:
    adapted = weight.double() + delta
    norm = torch.linalg.norm(adapted, dim=axis, keepdim=True)
    return adapted * (magnitude.double().reshape(norm.shape) / norm)


@pytest.mark.parametrize("turned", [False, True])
def test_magnitudes_and_turned_weights(ingot: Command, folder: Path, turned: bool) -> None:
    tensors = base_tensors()
    base = write_base(folder / "base", tensors)
    a, b = pair(*((2100, 500) if turned else (500, 2100)))
    magnitude = torch.rand(b.shape[0]) + 0.5
    names = {f"{OUT}.lora_A.weight": a, f"{OUT}.lora_B.weight": b}
    delta = 2 * (b.double() @ a.double())
    delta = delta.T if turned else delta
    plain = write_adapter(folder / "plain", names, fan_in_fan_out=turned)
    weight = tensors[f"{OUT}.weight"]
    assert close(passthrough(ingot, folder, f"{base}+{plain}")[f"{OUT}.weight"], weight + delta)
    names[f"{OUT}.lora_magnitude_vector"] = magnitude
    scaled = write_adapter(folder / "scaled", names, fan_in_fan_out=turned, use_dora=True)
    assert close(passthrough(ingot, folder, f"{base}+{scaled}")[f"{OUT}.weight"], dora(weight, delta, magnitude, 0 if turned else 1))


def test_embeddings_whole_modules_and_biases(ingot: Command, folder: Path) -> None:
    tensors = base_tensors()
    base = write_base(folder / "base", tensors)
    a, b = pair(500, 90)
    qa, qb = pair(300, 500)
    head, shift, norm = torch.randn(90, 500), torch.randn(300), torch.randn(500)
    adapter = write_adapter(
        folder / "lora",
        {f"{EMBED}.lora_embedding_A": a, f"{EMBED}.lora_embedding_B": b, f"{HEAD}.modules_to_save.weight": head,
         f"{Q}.lora_A.weight": qa, f"{Q}.lora_B.weight": qb, f"{Q}.lora_B.bias": shift, NORM: norm},
        modules_to_save=["lm_head"], lora_bias=True,
    )  # fmt: skip
    found = passthrough(ingot, folder, {"model": str(base), "lora": {"path": str(adapter)}})
    assert close(found[f"{EMBED}.weight"], tensors[f"{EMBED}.weight"] + 2 * (b.double() @ a.double()).T)
    assert torch.equal(found[f"{HEAD}.weight"], head)
    assert torch.equal(found[NORM], norm)
    assert close(found[BIAS], tensors[BIAS] + 2 * shift)


def test_types_threads_and_resume(ingot: Command, folder: Path) -> None:
    tensors = base_tensors("bfloat16")
    base = write_base(folder / "base", tensors)
    a, b = pair(500, 2100)
    names = {f"{OUT}.lora_A.weight": a, f"{OUT}.lora_B.weight": b, f"{OUT}.lora_magnitude_vector": torch.rand(500) + 0.5}
    adapter = write_adapter(folder / "lora", names, use_dora=True)
    # What is written when no type is named is the base's.
    found = passthrough(ingot, folder, f"{base}+{adapter}", dtype=None)
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    wanted = dora(tensors[f"{OUT}.weight"], 2 * (b.double() @ a.double()), names[f"{OUT}.lora_magnitude_vector"], 1)
    assert (found[f"{OUT}.weight"] != wanted.bfloat16()).float().mean() < 0.001
    models = [{"model": f"{base}+{adapter}", "parameters": {"weight": 1.0, "density": 0.4}}]
    outputs = []
    for threads, memory in ((1, "64MiB"), (4, "16MiB"), (2, "256MiB")):
        recipe = write_recipe(folder / "r.yml", merge_method="ties", models=models, base_model=str(base), dtype="float32")
        ingot.merge(recipe, folder / "out", "--force", "--threads", threads, "--memory", memory)
        outputs.append((folder / "out" / "model.safetensors").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]


def test_what_does_not_fit_is_refused(ingot: Command, folder: Path) -> None:
    tensors = base_tensors()
    base = write_base(folder / "base", tensors)
    tied = write_base(
        folder / "tied", {name: tensor for name, tensor in tensors.items() if name != f"{HEAD}.weight"}, tie_word_embeddings=True
    )
    a, b = pair(300, 500)
    names = {f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b}
    absent = {name.replace("layers.0", "layers.7"): tensor for name, tensor in names.items()}
    wide = {f"{Q}.lora_A.weight": pair(300, 501)[0], f"{Q}.lora_B.weight": b}
    head = {f"{HEAD}.lora_A.weight": pair(90, 500)[0], f"{HEAD}.lora_B.weight": pair(90, 500)[1]}
    cases: list[tuple[Path, dict[str, Any], dict[str, object], str]] = [
        (base, names, {"peft_type": "LOHA"}, "of the type LOHA"),
        (base, names, {"r": 4}, "expected the rank 4"),
        (base, names, {"init_lora_weights": "pissa"}, "initialised by pissa"),
        (base, names, {"target_parameters": ["experts.w"]}, "uses target_parameters"),
        (base, names, {"trainable_token_indices": [1]}, "uses trainable_token_indices"),
        (base, names, {"rank_pattern": {"(?=q)q_proj": 8}}, 'the pattern "(?=q)q_proj" cannot be read'),
        (base, names, {"alpha_pattern": {"[q_proj": 8}}, "cannot be read"),
        (base, names, {"rank_pattern": {"(q|k)_proj": 4}}, "expected the rank 4"),
        (base, names, {"use_dora": True}, "magnitude vector is absent"),
        (base, absent, {}, "does not have"),
        (base, wide, {}, "is this the model that the adapter was trained on?"),
        (base, {f"{Q}.lora_A.weight": a}, {}, "expected A and B"),
        (base, {f"{Q}.lora_A.weight": a.reshape(8, 500, 1, 1), f"{Q}.lora_B.weight": b.reshape(300, 8, 1, 1)}, {}, "[8, 500, 1, 1]"),
        (base, {f"{Q}.lora_A.weight": a.reshape(8, 500, 1), f"{Q}.lora_B.weight": b}, {}, "or a convolution"),
        (base, {f"{Q}.lora_A.weight": a.reshape(8, 500, 1), f"{Q}.lora_B.weight": b.reshape(150, 8, 2)}, {}, "or a convolution"),
        (base, {f"{HEAD}.modules_to_save.weight": torch.zeros(91, 500)}, {}, "[91, 500]"),
        (base, {f"{Q}.lora_X.weight": a}, {}, "of a kind that is not known"),
        (tied, head, {}, "which the base ties to"),
    ]
    for number, (model, content, config, words) in enumerate(cases):
        adapter = write_adapter(folder / f"lora{number}", content, **config)
        recipe = write_recipe(folder / "r.yml", merge_method="passthrough", models=[{"model": f"{model}+{adapter}"}])
        done = ingot("merge", recipe, folder / "out", exit_code=None)
        assert done.returncode != 0
        assert words in done.stderr, done.stderr
        assert "r.yml:2:" in done.stderr
        assert not (folder / "out").exists()
    recipe = write_recipe(folder / "r.yml", merge_method="passthrough", models=[{"model": f"{base}+{folder}/nowhere"}])
    assert "nowhere" in ingot("merge", recipe, folder / "out", exit_code=None).stderr
    recipe = write_recipe(folder / "r.yml", merge_method="passthrough", models=[{"model": str(folder / "lora0")}])
    assert "holds a PEFT adapter" in ingot("merge", recipe, folder / "out", exit_code=None).stderr


def test_adapter_on_a_quantised_base(ingot: Command, folder: Path) -> None:
    weight = (torch.randn(300, 500) * 0.5).to(torch.float8_e4m3fn)
    grid = torch.rand(3, 4) + 0.1
    quantisation = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    base = write_base(folder / "base", {f"{Q}.weight": weight, f"{Q}.weight_scale_inv": grid}, quantization_config=quantisation)
    a, b = pair(300, 500)
    adapter = write_adapter(folder / "lora", {f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b})
    wide = grid.repeat_interleave(128, 0).repeat_interleave(128, 1)[:300, :500]
    found = passthrough(ingot, folder, f"{base}+{adapter}")
    assert close(found[f"{Q}.weight"], weight.float() * wide + 2 * (b.double() @ a.double()))
    assert found.keys() == {f"{Q}.weight"}


LLAMA = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
VIT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16, "patch_size": 4}
WHISPER = {
    "vocab_size": 96, "num_mel_bins": 10, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_source_positions": 20, "max_target_positions": 20,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "suppress_tokens": None,
    "begin_suppress_tokens": None,
}  # fmt: skip
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "patterns": (
        "llama",
        {"target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 5}},
    ),
    "expressions": (
        "llama",
        {
            "target_modules": "all-linear",
            "rank_pattern": {r"layers\.[01]\..*\.(q|k)_proj": 2, "(self_)?attn": 9, r"^model\.layers\.\d+\.mlp\.u.*": 3, "proj": 7},
            "alpha_pattern": {"[a-k]_proj": 5, "model.layers.2.mlp.(up|down)_proj": 4},
        },
    ),
    "dora": ("llama", {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"], "use_dora": True}),
    "convolutions": ("vit", {"target_modules": ["projection", "classifier"], "rank_pattern": {"projection": 3}}),
    "convolutions-dora": ("vit", {"target_modules": ["projection"], "use_dora": True}),
    "convolutions-1d": ("whisper", {"target_modules": ["conv1", "conv2"], "use_rslora": True}),
    # Its layers keep weights as [in, out], have biases, and the head is tied.
    "turned": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "lora_bias": True}),
    "turned-dora": ("gpt2", {"target_modules": ["c_fc", "c_proj"], "fan_in_fan_out": True, "use_dora": True, "bias": "all"}),
}


@pytest.mark.parametrize(("kind", "config"), ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.parametrize("prefixed", [True, False])
def test_as_peft_merges(ingot: Command, folder: Path, kind: str, config: dict[str, Any], prefixed: bool) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(5)
    if kind == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    elif kind == "vit":
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**VIT))
    elif kind == "whisper":
        model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**WHISPER))
    else:
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))
    # A base is also saved without the prefix that the full model has.
    (model if prefixed or kind != "gpt2" else model.transformer).save_pretrained(folder / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=6, lora_alpha=9, **config))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    adapted.save_pretrained(folder / "lora", safe_serialization=prefixed)
    merged = adapted.merge_and_unload()
    wanted = merged.state_dict()
    if kind == "vit":
        # Its names in files are others than in memory.
        merged.save_pretrained(folder / "wanted")
        wanted = safetensors_torch.load_file(folder / "wanted" / "model.safetensors")
    found = passthrough(ingot, folder, f"{folder / 'base'}+{folder / 'lora'}", dtype=None)
    start = "" if prefixed or kind != "gpt2" else "transformer."
    tied = {"gpt2": {"lm_head.weight"}, "whisper": {"proj_out.weight"}}.get(kind, set())
    assert {start + name for name in found} == wanted.keys() - tied
    for name, tensor in found.items():
        assert torch.allclose(tensor, wanted[start + name], rtol=1e-5, atol=1e-6), name


def test_adapter_on_a_document(ingot: Command, folder: Path) -> None:
    """`document+adapter` is the adapter on the document's result, as if that had been merged first; and the merge can be run again."""
    tensors = base_tensors()
    one = write_base(folder / "one", tensors)
    two = write_base(folder / "two", {name: tensor + torch.randn_like(tensor) * 0.1 for name, tensor in tensors.items()})
    a, b = pair(300, 500)
    magnitude = torch.rand(300) + 0.5
    content = {f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b, f"{Q}.lora_magnitude_vector": magnitude}
    adapter = write_adapter(folder / "lora", content, use_dora=True)
    mean = {"merge_method": "linear", "dtype": "float32", "models": [{"model": str(m), "parameters": {"weight": 1}} for m in (one, two)]}
    last: dict[str, Any] = {"merge_method": "linear", "dtype": "float32"}

    def final(model: object) -> dict[str, Any]:
        return {**last, "models": [{"model": model, "parameters": {"weight": 0.75}}, {"model": str(one), "parameters": {"weight": 0.25}}]}

    (folder / "mean.yml").write_text(json.dumps(mean))
    ingot.merge(folder / "mean.yml", folder / "mean")
    (folder / "apart.yml").write_text(json.dumps(final(f"{folder / 'mean'}+{adapter}")))
    wanted = ingot.merge(folder / "apart.yml", folder / "wanted")
    weight = (tensors[f"{Q}.weight"] + safetensors_torch.load_file(two / "model.safetensors")[f"{Q}.weight"]).double() / 2
    adapted = dora(weight, 2 * (b.double() @ a.double()), magnitude, 1)
    found = safetensors_torch.load_file(folder / "wanted" / "model.safetensors")[f"{Q}.weight"]
    assert close(found, 0.75 * adapted + 0.25 * tensors[f"{Q}.weight"])
    for number, model in enumerate([f"mean+{adapter}", {"model": "mean", "lora": str(adapter)}]):
        text = f"{json.dumps({'name': 'mean', **mean})}\n---\n{json.dumps(final(model))}\n"
        (folder / "graph.yml").write_text(text)
        out = folder / f"out{number}"
        assert ingot.merge(folder / "graph.yml", out, "--threads", number + 1).digests == wanted.digests
        assert "reproduced: 7 tensors" in ingot("reproduce", out).stdout
    assert "lora" in (folder / "out0" / "README.md").read_text()
    plan = json.loads(ingot("plan", folder / "graph.yml", "--json").stdout)
    assert [stage["name"] for stage in plan["stages"]] == ["mean"]
