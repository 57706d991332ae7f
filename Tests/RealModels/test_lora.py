"""`ingot lora`: against the definition in float64, and against peft where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from test_adapters import GPT2, LLAMA, write_adapter, write_base

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch")

Q, OUT, EMBED = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.o_proj", "model.embed_tokens"
SHAPES = {Q: (60, 40), OUT: (30, 50)}
Deltas = dict[str, Any]


def factors(rank: int, seed: int, dtype: str = "float32") -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    named = {}
    for name, (outputs, inputs) in SHAPES.items():
        named[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator).to(getattr(torch, dtype))
        named[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator).to(getattr(torch, dtype))
    return named


def deltas(folder: Path) -> Deltas:
    """scale B A of every module of an adapter, in float64."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = safetensors_torch.load_file(folder / "adapter_model.safetensors")
    found: Deltas = {}
    for name, a in tensors.items():
        for key in ("lora_A.weight", "lora_embedding_A"):
            if not name.endswith(key):
                continue
            b = tensors[name[: -len(key)] + key.replace("A", "B")]
            module = name.removeprefix("base_model.model.").removesuffix("." + key)
            rank = config["rank_pattern"].get(module, config["r"])
            alpha = config["alpha_pattern"].get(module, config["lora_alpha"])
            assert a.shape[0] == b.shape[1] == rank
            found[module] = alpha / rank * (b.double() @ a.double()).numpy()
    return found


def distance(found: Any, wanted: Any) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def best(delta: Any, rank: int) -> Any:
    u, s, v = np.linalg.svd(delta, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


@pytest.fixture
def three(folder: Path) -> list[Path]:
    """Adapters of three ranks and scales."""
    return [
        write_adapter(
            folder / f"lora{rank}", factors(rank, rank), r=rank, lora_alpha=alpha, use_rslora=root, target_modules=["q_proj", "o_proj"]
        )
        for rank, alpha, root in ((4, 8, False), (6, 3, True), (8, 16, False))
    ]


WEIGHTS = (0.7, -0.4, 1.1)


def weighted(adapters: list[Path]) -> list[str]:
    return [f"{adapter}={weight}" for adapter, weight in zip(adapters, WEIGHTS, strict=True)]


def exact(adapters: list[Path]) -> Deltas:
    parts = [deltas(adapter) for adapter in adapters]
    return {name: sum(weight * part[name] for weight, part in zip(WEIGHTS, parts, strict=True)) for name in SHAPES}


def rsdeltas_fixed(adapters: list[Path]) -> None:
    """`deltas` knows alpha / r only."""
    for adapter in adapters:
        path = adapter / "adapter_config.json"
        config = json.loads(path.read_text())
        config.setdefault("rank_pattern", {})
        config.setdefault("alpha_pattern", {})
        if config.pop("use_rslora", False):
            config["lora_alpha"] = config["lora_alpha"] * config["r"] ** 0.5
        path.write_text(json.dumps(config))


def test_exact_sums_and_the_best_approximation(ingot: Command, folder: Path, three: list[Path]) -> None:
    ingot("lora", "merge", "-m", "cat", *weighted(three), "-o", folder / "cat", "--sync", "none")
    ingot("lora", "merge", "-m", "svd", "--rank", 99, *weighted(three), "-o", folder / "full", "--sync", "none")
    ingot("lora", "merge", "-m", "knots", *weighted(three), "-o", folder / "knots", "--sync", "none")
    ingot("lora", "merge", "-m", "svd", *weighted(three), "-o", folder / "eight", "--sync", "none")
    report = json.loads(ingot("lora", "merge", "-m", "svd", "--rank", 5, *weighted(three), "-o", folder / "five", "--json").stdout)
    assert "intact" in ingot("verify", folder / "five").stdout
    rsdeltas_fixed(three)
    wanted = exact(three)
    for name in ("cat", "full", "knots"):
        for module, delta in deltas(folder / name).items():
            assert distance(delta, wanted[module]) < 1e-6, (name, module)
    for name, rank in (("eight", 8), ("five", 5)):
        found = deltas(folder / name)
        assert found.keys() == wanted.keys()
        for module, delta in found.items():
            assert distance(delta, best(wanted[module], rank)) < 1e-6
    errors = {module["name"]: module["relative_error"] for module in report["modules"]}
    for module, delta in wanted.items():
        assert errors[module] == pytest.approx(distance(best(delta, 5), delta), rel=1e-6)
    config = json.loads((folder / "cat" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 18
    assert config["target_modules"] == ["o_proj", "q_proj"]


def test_inspection(ingot: Command, folder: Path, three: list[Path]) -> None:
    found = json.loads(ingot("lora", "inspect", *three, "--spectrum", "--json").stdout)
    rsdeltas_fixed(three)
    for adapter, entry in zip(three, found["adapters"], strict=True):
        for module in entry["modules"]:
            delta = deltas(adapter)[module["name"]]
            assert module["norm"] == pytest.approx(np.linalg.norm(delta), rel=1e-6)
            values = np.linalg.svd(delta, compute_uv=False)[: module["rank"]]
            assert np.allclose(module["singular_values"], values, rtol=1e-6)
    a, b = (safetensors_torch.load_file(adapter / "adapter_model.safetensors") for adapter in three[:2])
    shares = []
    for name in SHAPES:
        x, y = (tensors[f"base_model.model.{name}.lora_A.weight"].double() for tensors in (a, b))
        shares.append(float(torch.linalg.norm(x @ y.T) / torch.linalg.norm(x) / torch.linalg.norm(y)))
    assert found["overlaps"][0]["mean"] == pytest.approx(sum(shares) / len(shares), rel=1e-6)
    text = ingot("lora", "inspect", three[0]).stdout
    assert f"{Q}  60 x 40" in text


def test_resizing(ingot: Command, folder: Path, three: list[Path]) -> None:
    adapter = three[2]
    wanted = deltas(write_adapter(folder / "copy", factors(8, 8), r=8, lora_alpha=16, rank_pattern={}, alpha_pattern={}))
    ingot("lora", "resize", adapter, "--rank", 3, "-o", folder / "three", "--sync", "none")
    for module, delta in deltas(folder / "three").items():
        assert distance(delta, best(wanted[module], 3)) < 1e-6
    ingot("lora", "resize", adapter, "--rank", 64, "-o", folder / "same", "--sync", "none")
    for module, delta in deltas(folder / "same").items():
        assert distance(delta, wanted[module]) < 1e-6
    report = json.loads(ingot("lora", "resize", adapter, "--energy", 0.7, "-o", folder / "energy", "--json").stdout)
    for module in report["modules"]:
        squares = np.linalg.svd(wanted[module["name"]], compute_uv=False) ** 2
        rank = int(np.searchsorted(np.cumsum(squares), 0.7 * squares.sum())) + 1
        assert module["rank"] == rank
        assert distance(deltas(folder / "energy")[module["name"]], best(wanted[module["name"]], rank)) < 1e-6
    report = json.loads(ingot("lora", "resize", adapter, "--norm-fraction", 0.6, "-o", folder / "norm", "--json").stdout)
    for module in report["modules"]:
        values = np.linalg.svd(wanted[module["name"]], compute_uv=False)
        assert module["rank"] == int((values > 0.6 * values[0]).sum())


def test_merges_do_not_depend_on_threads(ingot: Command, folder: Path, three: list[Path]) -> None:
    same = [write_adapter(folder / f"same{seed}", factors(8, seed), target_modules="all-linear") for seed in range(3)]
    cases = [("linear",), ("ties", "--density", 0.3), ("dare_linear", "--seed", 5), ("dare_ties",), ("magnitude_prune",), ("knots_ties",),
             ("knots_dare", "--density", 0.5), ("lego",), ("orthogonal",), ("sequential",)]  # fmt: skip
    for method, *more in cases:
        outputs = []
        for threads in (1, 3):
            ingot("lora", "merge", "-m", method, *more, *same, "-o", folder / "out", "--force", "--threads", threads, "--sync", "none")
            outputs.append((folder / "out" / "adapter_model.safetensors").read_bytes())
            for delta in deltas(folder / "out").values():
                assert np.isfinite(delta).all()
                assert np.linalg.norm(delta) > 0
        assert outputs[0] == outputs[1], method


def test_random_draws_follow_the_seed(ingot: Command, folder: Path, three: list[Path]) -> None:
    one = [three[2]]
    found = []
    for seed in (1, 1, 2):
        ingot("lora", "merge", "-m", "dare_linear", "--seed", seed, *one, "-o", folder / "out", "--force", "--sync", "none")
        found.append((folder / "out" / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1]
    assert found[0] != found[2]
    # Dropped entries are 0, the others are doubled.
    tensors = safetensors_torch.load_file(folder / "out" / "adapter_model.safetensors")
    source = safetensors_torch.load_file(three[2] / "adapter_model.safetensors")
    name = f"base_model.model.{Q}.lora_A.weight"
    kept = tensors[name] != 0
    assert 0.4 < kept.float().mean() < 0.6
    assert torch.allclose(tensors[name][kept], 2 * 2**0.5 * source[name][kept], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_applying(ingot: Command, folder: Path, three: list[Path], dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"{name}.weight": torch.randn(shape, generator=generator).to(getattr(torch, dtype)) for name, shape in SHAPES.items()}
    base = write_base(folder / "base", tensors)
    ingot("lora", "apply", base, three[0], "-o", folder / "one", "--sync", "none")
    ingot("lora", "apply", base, *weighted(three), "-o", folder / "all", "--sync", "none")
    assert "reproduced" in ingot("reproduce", folder / "all").stdout
    rsdeltas_fixed(three)
    tolerance = 3e-6 if dtype == "float32" else 5e-3
    single, summed = deltas(three[0]), exact(three)
    for folder_name, wanted in (("one", single), ("all", summed)):
        found = safetensors_torch.load_file(folder / folder_name / "model.safetensors")
        for name in SHAPES:
            assert found[f"{name}.weight"].dtype == getattr(torch, dtype)
            assert distance(found[f"{name}.weight"].double().numpy(), tensors[f"{name}.weight"].double().numpy() + wanted[name]) < tolerance


def low_rank(shape: tuple[int, int], rank: int, noise: float, generator: Any) -> Any:
    delta = torch.randn(shape[0], rank, generator=generator) @ torch.randn(rank, shape[1], generator=generator)
    return 0.05 * delta + noise * torch.randn(shape, generator=generator)


@pytest.fixture
def pair_of_models(folder: Path) -> tuple[Path, Path, dict[str, Any], dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    shapes = {f"{Q}.weight": (420, 300), f"{OUT}.weight": (280, 700), "model.layers.0.input_layernorm.weight": (300,),
              f"{EMBED}.weight": (90, 300), "lm_head.weight": (90, 300), "model.norm.weight": (300,)}  # fmt: skip
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tuned = {name: tensor.clone() for name, tensor in base.items()}
    for name in (f"{Q}.weight", f"{OUT}.weight", "lm_head.weight"):
        tuned[name] += low_rank(tuple(base[name].shape), 6, 0.01, generator)
    tuned["model.norm.weight"] += 1
    return write_base(folder / "base", base), write_base(folder / "tuned", tuned), base, tuned


@pytest.mark.parametrize("exactly", [True, False])
def test_extraction(ingot: Command, folder: Path, pair_of_models: tuple[Any, ...], exactly: bool) -> None:
    base, tuned, base_tensors, tuned_tensors = pair_of_models
    flags = ["--exact"] if exactly else []
    report = json.loads(
        ingot("lora", "extract", base, tuned, "--rank", 12, "-o", folder / "lora", "--sync", "none", "--json", *flags).stdout
    )
    found = deltas(folder / "lora")
    assert set(found) == {Q, OUT}
    for module in report["modules"]:
        name = module["name"]
        wanted = (tuned_tensors[f"{name}.weight"] - base_tensors[f"{name}.weight"]).double().numpy()
        least = distance(best(wanted, 12), wanted)
        error = distance(found[name], wanted)
        assert error < least * (1 + 1e-5) if exactly else error < least * 1.02
        assert module["relative_error"] == pytest.approx(error, rel=1e-4)
    config = json.loads((folder / "lora" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["o_proj", "q_proj"]
    assert sorted(config["modules_to_save"]) == ["lm_head", "model.norm"]
    stored = safetensors_torch.load_file(folder / "lora" / "adapter_model.safetensors")
    assert torch.equal(stored["base_model.model.lm_head.weight"], tuned_tensors["lm_head.weight"])
    assert f"base_model.model.{EMBED}.weight" not in stored
    ingot("lora", "apply", base, folder / "lora", "-o", folder / "again", "--sync", "none")
    again = safetensors_torch.load_file(folder / "again" / "model.safetensors")
    for name, tensor in tuned_tensors.items():
        if name.removesuffix(".weight") in found:
            wanted = (base_tensors[name].double() + torch.from_numpy(found[name.removesuffix(".weight")])).float()
            assert torch.allclose(again[name], wanted, atol=1e-5)
        else:
            assert torch.equal(again[name], tensor), name


def test_rules_of_extraction(ingot: Command, folder: Path, pair_of_models: tuple[Any, ...]) -> None:
    base, tuned, base_tensors, tuned_tensors = pair_of_models
    ingot("lora", "extract", base, tuned, "--energy", 0.9, "--rule", "*.o_proj=3", "--others", "skip", "--embeddings", "lora",
          "-o", folder / "a", "--sync", "none")  # fmt: skip
    found = deltas(folder / "a")
    config = json.loads((folder / "a" / "adapter_config.json").read_text())
    assert set(found) == {Q, OUT, "lm_head"}
    assert config["rank_pattern"][OUT] == 3 or config["r"] == 3
    assert config["modules_to_save"] is None
    delta = (tuned_tensors[f"{Q}.weight"] - base_tensors[f"{Q}.weight"]).double().numpy()
    squares = np.linalg.svd(delta, compute_uv=False) ** 2
    rank = int(np.searchsorted(np.cumsum(squares), 0.9 * squares.sum())) + 1
    assert config["rank_pattern"].get(Q, config["r"]) == rank
    ingot("lora", "extract", base, tuned, "--rank", 2, "--only", "/q_proj/", "-o", folder / "b", "--sync", "none")
    assert set(deltas(folder / "b")) == {Q}
    ingot("lora", "extract", base, tuned, "--rank", 2, "--skip", "*q_proj", "--rule", "*o_proj=whole", "-o", folder / "c", "--sync", "none")
    stored = safetensors_torch.load_file(folder / "c" / "adapter_model.safetensors")
    assert set(stored) == {f"base_model.model.{name}.weight" for name in (OUT, "lm_head", "model.norm")}


def test_what_cannot_be_merged_is_refused_before_anything_is_written(
    ingot: Command, folder: Path, three: list[Path], pair_of_models: tuple[Any, ...]
) -> None:
    base, tuned, base_tensors, _ = pair_of_models
    dora = dict(factors(4, 1))
    dora |= {f"{name}.lora_magnitude_vector": torch.ones(shape[0]) for name, shape in SHAPES.items()}
    broken = dict(factors(4, 1))
    broken[f"{Q}.lora_A.weight"][0, 0] = float("nan")
    wide = {f"{Q}.lora_A.weight": torch.zeros(4, 41), f"{Q}.lora_B.weight": torch.zeros(60, 4)}
    whole = {**factors(4, 1), "lm_head.weight": torch.zeros(3, 4)}
    other = write_base(folder / "other", {**base_tensors, f"{Q}.weight": torch.zeros(420, 301)})
    fewer = write_base(folder / "fewer", {name: tensor for name, tensor in base_tensors.items() if name != f"{OUT}.weight"})
    contents: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("dora", dora, {"use_dora": True}),
        ("broken", broken, {}),
        ("wide", wide, {}),
        ("whole", whole, {}),
        ("turned", factors(4, 1), {"fan_in_fan_out": True}),
    ]
    made = {name: write_adapter(folder / name, tensors, r=4, **config) for name, tensors, config in contents}
    merge = ["lora", "merge", "-o", folder / "out", "-m"]
    cases: list[tuple[list[Any], str]] = [
        ([*merge, "linear", three[0], three[1]], "expected one rank for linear"),
        ([*merge, "ties", three[0], three[1]], "expected one rank for ties"),
        ([*merge, "nonsense", three[0]], "no method \"nonsense\""),
        ([*merge, "cat", three[0], "--density", 0.5], "cat has no option density"),
        ([*merge, "ties", three[0], "--density", 0], "density is 0"),
        ([*merge, "svd", three[0], "--rank", 0], "the rank is 0"),
        ([*merge, "svd", three[0], "--rank", 2, "--energy", 0.5], "expected one of them"),
        ([*merge, "cat", f"{three[0]}=x"], "expected a number"),
        ([*merge, "cat", made["dora"], three[0]], "uses DoRA"),
        ([*merge, "cat", made["broken"]], "NaN or infinite"),
        ([*merge, "cat", three[0], made["wide"]], "are these adapters of one model?"),
        ([*merge, "cat", made["whole"], three[0]], "--modules-to-save"),
        ([*merge, "cat", three[0], made["turned"]], "fan_in_fan_out"),
        ([*merge, "cat", folder / "nowhere"], "nowhere"),
        ([*merge, "cat", base], "adapter_model.safetensors"),
        ([*merge, "svd", "--memory", "1MiB", "--rank", 4, write_adapter(folder / "large", {
            f"{Q}.lora_A.weight": torch.zeros(16, 20000), f"{Q}.lora_B.weight": torch.zeros(20000, 16)}, r=16)], "one module needs"),
        (["lora", "resize", three[0], "-o", folder / "out"], "no rank given"),
        (["lora", "extract", base, tuned, "-o", folder / "out"], "no rank given"),
        (["lora", "extract", base, other, "--rank", 4, "-o", folder / "out"], "[420, 301]"),
        (["lora", "extract", base, fewer, "--rank", 4, "-o", folder / "out"], "does not have it"),
        (["lora", "extract", fewer, tuned, "--rank", 4, "-o", folder / "out"], "does not have it"),
        (["lora", "extract", base, tuned, "--rank", 4, "--skip", "/(/", "-o", folder / "out"], "--skip"),
        (["lora", "extract", base, base, "--rank", 4, "--only", "nothing", "-o", folder / "out"], "nothing to extract"),
        (["lora", "apply", base, "-o", folder / "out"], "expected a base model and adapters"),
    ]  # fmt: skip
    for command, words in cases:
        done = ingot(*command, exit_code=None)
        assert done.returncode not in (0, 1), command
        assert words in done.stderr, (command, done.stderr)
        assert not (folder / "out").exists()
        assert not (folder / "out.partial").exists()


def test_whole_tensors_of_merged_adapters(ingot: Command, folder: Path) -> None:
    heads = [torch.randn(30, 20).bfloat16() for _ in range(2)]
    adapters = [
        write_adapter(folder / f"lora{index}", {**factors(4, index, "bfloat16"), "lm_head.weight": head}, r=4, modules_to_save=["lm_head"])
        for index, head in enumerate(heads)
    ]
    arguments = [f"{adapters[0]}=3", f"{adapters[1]}=1"]
    for rule in ("average", "first", "omit"):
        ingot("lora", "merge", "-m", "linear", *arguments, "--modules-to-save", rule, "-o", folder / rule, "--sync", "none")
    found = {rule: safetensors_torch.load_file(folder / rule / "adapter_model.safetensors") for rule in ("average", "first", "omit")}
    name = "base_model.model.lm_head.weight"
    assert torch.equal(found["average"][name], (0.75 * heads[0].float() + 0.25 * heads[1].float()).bfloat16())
    assert torch.equal(found["first"][name], heads[0])
    assert name not in found["omit"]
    assert {tensor.dtype for tensor in found["omit"].values()} == {torch.bfloat16}
    assert json.loads((folder / "first" / "adapter_config.json").read_text())["modules_to_save"] == ["lm_head"]


def test_convolutions_are_matrices(ingot: Command, folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    adapters, parts = [], []
    for rank in (2, 3):
        a, b = torch.randn(rank, 5, 3, 2, generator=generator), torch.randn(7, rank, 1, 1, generator=generator)
        adapters.append(write_adapter(folder / f"conv{rank}", {"c.lora_A.weight": a, "c.lora_B.weight": b}, r=rank))
        parts.append(16 / rank * (b.double().flatten(1) @ a.double().flatten(1)).numpy())
    ingot("lora", "merge", "-m", "svd", "--rank", 9, *adapters, "-o", folder / "out", "--sync", "none")
    tensors = safetensors_torch.load_file(folder / "out" / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.c.lora_{factor}.weight"] for factor in "AB")
    assert (a.shape, b.shape) == ((5, 5, 3, 2), (7, 5, 1, 1))
    assert distance((b.double().flatten(1) @ a.double().flatten(1)).numpy(), sum(parts)) < 1e-6
    weight = torch.randn(7, 5, 3, 2, generator=generator)
    ingot("lora", "apply", write_base(folder / "base", {"c.weight": weight}), folder / "out", "-o", folder / "model", "--sync", "none")
    found = safetensors_torch.load_file(folder / "model" / "model.safetensors")["c.weight"]
    assert distance(found.double().flatten(1).numpy(), weight.double().flatten(1).numpy() + sum(parts)) < 1e-6


# MARK: peft


def peft_model(kind: str, folder: Path, configs: list[dict[str, Any]]) -> tuple[Any, Any]:
    """A small model with one adapter for each config, all saved."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(7)
    if kind == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    else:
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))
    model.save_pretrained(folder / "base")
    adapted = None
    for index, config in enumerate(configs):
        lora = peft.LoraConfig(**config)
        if adapted is None:
            adapted = peft.get_peft_model(model, lora, adapter_name="a0")
        else:
            adapted.add_adapter(f"a{index}", lora)
    assert adapted is not None
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    adapted.save_pretrained(folder / "adapters")
    return peft, adapted


def adapter_paths(folder: Path, count: int) -> list[Path]:
    return [folder / "adapters" / f"a{index}" for index in range(count)]


def peft_deltas(adapted: Any, name: str) -> Deltas:
    found = {}
    for key, module in adapted.named_modules():
        if hasattr(module, "get_delta_weight") and (name in module.lora_A or name in module.lora_embedding_A):
            found[key.removeprefix("base_model.model.")] = module.get_delta_weight(name).double().detach().numpy()
    return found


LLAMA_TARGETS = ["q_proj", "v_proj", "down_proj", "embed_tokens"]


@pytest.mark.parametrize(
    ("method", "more"),
    [("linear", {}), ("cat", {}), ("svd", {"svd_rank": 5}), ("ties", {"density": 0.4}), ("magnitude_prune", {"density": 0.4}),
     ("ties", {"density": 0.7, "majority_sign_method": "frequency"})],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_as_peft_combines(ingot: Command, folder: Path, method: str, more: dict[str, Any], kind: str) -> None:
    targets = {"target_modules": LLAMA_TARGETS} if kind == "llama" else {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    one = {"r": 4, "lora_alpha": 6, **targets}
    other = {"r": 4 if method in ("linear", "ties", "magnitude_prune") else 6, "lora_alpha": 9, "use_rslora": True, **targets}
    _, adapted = peft_model(kind, folder, [one, other])
    weights = [0.6, 1.3]
    adapted.add_weighted_adapter(["a0", "a1"], weights, "merged", combination_type=method, **more)
    wanted = peft_deltas(adapted, "merged")
    flags: list[Any] = []
    for key, flag in (("svd_rank", "--rank"), ("density", "--density"), ("majority_sign_method", "--majority")):
        if key in more:
            flags += [flag, more[key]]
    named = [f"{path}={weight}" for path, weight in zip(adapter_paths(folder, 2), weights, strict=True)]
    ingot("lora", "merge", "-m", method, *flags, *named, "-o", folder / "merged", "--sync", "none")
    adapted.load_adapter(str(folder / "merged"), "ours")
    found = peft_deltas(adapted, "ours")
    assert found.keys() == wanted.keys()
    for module, delta in wanted.items():
        assert distance(found[module], delta) < 2e-5, module


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_loads_what_was_extracted_and_resized(ingot: Command, folder: Path, kind: str) -> None:
    targets: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}
    if kind == "gpt2":
        targets = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    peft, adapted = peft_model(kind, folder, [{"r": 4, "lora_alpha": 8, "rank_pattern": {targets["target_modules"][0]: 2}, **targets}])
    before = peft_deltas(adapted, "a0")
    ingot("lora", "resize", adapter_paths(folder, 1)[0], "--energy", 0.6, "-o", folder / "small", "--sync", "none")
    adapted.load_adapter(str(folder / "small"), "small")
    for module, delta in peft_deltas(adapted, "small").items():
        squares = np.linalg.svd(before[module], compute_uv=False) ** 2
        rank = int(np.searchsorted(np.cumsum(squares), 0.6 * squares.sum())) + 1
        assert distance(delta, best(before[module], rank)) < 1e-5
    ingot("lora", "apply", folder / "base", adapter_paths(folder, 1)[0], "-o", folder / "tuned", "--sync", "none")
    ingot("lora", "extract", folder / "base", folder / "tuned", "--rank", 4, "-o", folder / "extracted", "--sync", "none")
    transformers = pytest.importorskip("transformers")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    loaded = peft.PeftModel.from_pretrained(base, str(folder / "extracted"))
    for module, delta in peft_deltas(loaded, "default").items():
        if module in before:
            assert distance(delta, before[module]) < 1e-4, module
        else:
            assert np.linalg.norm(delta) < 1e-6
    merged = loaded.merge_and_unload().state_dict()
    tuned = safetensors_torch.load_file(folder / "tuned" / "model.safetensors")
    for name, tensor in tuned.items():
        assert torch.allclose(merged[name], tensor, atol=1e-5), name
