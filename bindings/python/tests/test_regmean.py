"""RegMean++ on torch models, against the same loop in numpy's float64, with layers that take arguments and share inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from ingot import collect
from support import load

WIDTH, LAYERS, CLASSES = 6, 3, 4


def make(torch: Any, seed: int) -> Any:
    class Layer(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.LayerNorm(WIDTH)
            self.q = torch.nn.Linear(WIDTH, WIDTH, bias=False)
            self.k = torch.nn.Linear(WIDTH, WIDTH)
            self.o = torch.nn.Linear(WIDTH, WIDTH)

        def forward(self, hidden: Any, *, scale: float) -> tuple[Any]:
            normed = self.norm(hidden)
            return (hidden + scale * self.o(torch.tanh(self.q(normed)) * torch.sigmoid(self.k(normed))),)

    class Model(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Linear(3, WIDTH)
            self.layers = torch.nn.ModuleList(Layer() for _ in range(LAYERS))
            self.head = torch.nn.Linear(WIDTH, CLASSES)
            self.drop = torch.nn.Dropout(0.5)
            self.register_buffer("seen", torch.tensor(seed))

        def forward(self, inputs: Any, attention_mask: Any = None) -> Any:
            hidden = self.drop(self.embed(inputs))
            for number, layer in enumerate(self.layers):
                hidden = layer(hidden, scale=1 + number / 2)[0]
            return self.head(hidden)

    torch.manual_seed(seed)
    return Model().train()


@pytest.fixture
def trained(torch: Any) -> list[Any]:
    return [make(torch, seed) for seed in range(2)]


@pytest.fixture
def batches(torch: Any) -> list[list[dict[str, Any]]]:
    generator = torch.Generator().manual_seed(5)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    return [
        [{"inputs": shift + torch.randn(3, 4, 3, generator=generator), "attention_mask": mask, "labels": mask} for _ in range(4)]
        for shift in (0.0, 1.5)
    ]


def expected(models: list[Any], batches: list[Any], weights: list[float], ratio: float, ridge: float) -> dict[str, np.ndarray]:
    """By the definition, in float64."""
    states = [{name: value.detach().double().numpy() for name, value in model.named_parameters()} for model in models]
    share = np.array(weights) / sum(weights)

    def mean(name: str) -> np.ndarray:
        return np.asarray(sum(part * state[name] for part, state in zip(share, states)))

    def norm(x: np.ndarray, state: dict[str, np.ndarray], prefix: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return np.asarray(
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * state[prefix + "norm.weight"] + state[prefix + "norm.bias"]
        )

    def inner(x: np.ndarray, state: dict[str, np.ndarray], prefix: str) -> tuple[np.ndarray, np.ndarray]:
        normed = norm(x, state, prefix)
        gate = 1 / (1 + np.exp(-(normed @ state[prefix + "k.weight"].T + state[prefix + "k.bias"])))
        return normed, np.tanh(normed @ state[prefix + "q.weight"].T) * gate

    merged = {name: mean(name) for name in states[0]}
    hidden = []
    for own in batches:
        rows = np.concatenate([batch["inputs"][batch["attention_mask"].bool()].double().numpy() for batch in own])
        hidden.append(rows @ merged["embed.weight"].T + merged["embed.bias"])
    for number in range(LAYERS):
        prefix = f"layers.{number}."
        inputs = [inner(x, state, prefix) for x, state in zip(hidden, states)]
        for module, which in (("q", 0), ("k", 0), ("o", 1)):
            total, right = 0.0, 0.0
            for weight, seen, state in zip(weights, inputs, states):
                gram = seen[which].T @ seen[which] / len(seen[which])
                shrunk = weight * (ratio * gram + (1 - ratio) * np.diag(np.diag(gram)))
                total, right = total + shrunk, right + (state[f"{prefix}{module}.weight"] - mean(f"{prefix}{module}.weight")) @ shrunk
            total = total + ridge * np.trace(total) / WIDTH * np.eye(WIDTH)
            merged[f"{prefix}{module}.weight"] = mean(f"{prefix}{module}.weight") + right @ np.linalg.inv(total)
        for index, x in enumerate(hidden):
            gated = inner(x, merged, prefix)[1]
            hidden[index] = x + (1 + number / 2) * (gated @ merged[prefix + "o.weight"].T + merged[prefix + "o.bias"])
    return merged


def test_against_the_definition(torch: Any, trained: list[Any], batches: list[Any], tmp_path: Path) -> None:
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in trained]
    merged = ingot.regmean_plus_plus(trained, batches, weight=[1, 0.5])
    wanted = expected(trained, batches, [1, 0.5], 0.95, 1e-6)
    for name, value in merged.named_parameters():
        np.testing.assert_allclose(value.detach().numpy(), wanted[name], rtol=2e-4, atol=2e-5, err_msg=name)
    assert int(merged.seen) == 0
    assert merged.training
    assert merged.drop.training
    assert all(model.training for model in trained)
    assert not any(module._forward_pre_hooks for model in (merged, *trained) for module in model.modules())
    for model, state in zip(trained, before):
        assert all((model.state_dict()[name] == value).all() for name, value in state.items())
    # Not what RegMean gives with matrices of the models by themselves, from the second layer on.
    grams = [
        load(collect.gram_matrices(model, own, tmp_path / f"{number}.safetensors", choose=lambda name: name.endswith(".o")))
        for number, (model, own) in enumerate(zip(trained, batches))
    ]
    states = [{name: value.detach() for name, value in model.named_parameters()} for model in trained]
    plain = ingot.merge_state_dicts("regmean", states, side={"gram": grams}, weight=[1, 0.5], reduce_non_diagonal_ratio=0.95)
    assert not np.allclose(plain["layers.1.o.weight"], wanted["layers.1.o.weight"], atol=1e-3)


def test_keys_and_named_layers(trained: list[Any], batches: list[Any]) -> None:
    models, own = dict(zip("xy", trained)), dict(zip("xy", batches))
    merged = ingot.regmean_plus_plus(models, own, layers=["layers.0", "layers.1", "layers.2"], weight={"x": 1, "y": 0.5})
    other = ingot.regmean_plus_plus(trained, batches, layers="layers", weight=[1, 0.5], threads=1)
    assert all((value == other.state_dict()[name]).all() for name, value in merged.state_dict().items())
    # Equal models return themselves.
    same = ingot.regmean_plus_plus([trained[0], trained[0]], batches)
    for name, value in same.named_parameters():
        np.testing.assert_allclose(value.detach(), dict(trained[0].named_parameters())[name].detach(), rtol=1e-6, atol=1e-7)


def test_transformers(torch: Any) -> None:
    """A decoder with Conv1D layers, a cache and masks of its own."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        settings = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=2, n_head=2)
        models.append(transformers.GPT2LMHeadModel(settings))
    generator = torch.Generator().manual_seed(1)
    batches = [[{"input_ids": torch.randint(0, 50, (2, 12), generator=generator)} for _ in range(3)] for _ in models]
    merged = ingot.regmean_plus_plus(models, batches)
    mean = {name: (value + dict(models[1].named_parameters())[name]) / 2 for name, value in models[0].named_parameters()}
    found = dict(merged.named_parameters())
    assert torch.allclose(found["transformer.wte.weight"], mean["transformer.wte.weight"])
    assert torch.allclose(found["transformer.h.1.ln_1.weight"], mean["transformer.h.1.ln_1.weight"])
    for name in ("transformer.h.0.attn.c_attn.weight", "transformer.h.1.mlp.c_proj.weight"):
        assert not torch.allclose(found[name], mean[name], atol=1e-4)
    assert torch.isfinite(merged(batches[0][0]["input_ids"]).logits).all()


def test_mistakes(torch: Any, trained: list[Any], batches: list[Any]) -> None:
    narrow = torch.nn.Sequential(torch.nn.Linear(2, 2))
    calls: list[tuple[str, tuple[Any, Any], dict[str, Any]]] = [
        ("no models", ([], []), {}),
        ("batches are given for 0", (trained, batches[:1]), {}),
        ("once only", (trained, [batches[0], iter(batches[1])]), {}),
        ("no batches", (trained, [batches[0], []]), {}),
        ("no ModuleList", ([narrow, narrow], batches), {}),
        ("in model 1, and", ([trained[0], narrow], batches), {}),
        ("no list of layers 'head'", (trained, batches), {"layers": "head"}),
        ("no layer 'layers.9'", (trained, batches), {"layers": ["layers.9"]}),
        ("named twice", (trained, batches), {"layers": ["layers.0", "layers.0.q"]}),
        ("does not reach", (trained, batches), {"layers": ["layers"]}),
    ]
    for words, arguments, options in calls:
        with pytest.raises(ingot.InvalidArgumentError, match=words):
            ingot.regmean_plus_plus(*arguments, **options)
    assert not any(module._forward_pre_hooks for model in trained for module in model.modules())
