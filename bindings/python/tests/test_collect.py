"""Side files of torch models, compared with what autograd gives by hand, and used in merges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from ingot import collect
from support import load, output_of, save

Batches = list[tuple[Any, Any]]


def metadata(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + size])["__metadata__"]
    return found


@pytest.fixture
def model(torch: Any) -> Any:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Tanh(), torch.nn.Linear(7, 3))


@pytest.fixture
def batches(torch: Any) -> Batches:
    generator = torch.Generator().manual_seed(4)
    return [(torch.randn(4, 5, generator=generator), torch.randint(0, 3, (4,), generator=generator)) for _ in range(3)]


def by_hand(torch: Any, model: Any, inputs: Any, label: int) -> dict[str, Any]:
    """The gradient of the log likelihood of one label."""
    likelihood = torch.log_softmax(model(inputs[None]), dim=-1)[0, label]
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(likelihood, list(model.parameters()))))


def mean_square(torch: Any, model: Any, terms: list[tuple[float, dict[str, Any]]], count: int) -> dict[str, np.ndarray]:
    sums: dict[str, Any] = {}
    for weight, gradient in terms:
        for name, value in gradient.items():
            sums[name] = sums.get(name, 0) + weight * value.double() ** 2
    return {name: (value / count).numpy() for name, value in sums.items()}


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-9, err_msg=name)


def test_empirical_fisher(torch: Any, model: Any, batches: Batches, tmp_path: Path) -> None:
    path = collect.fisher(model, batches, tmp_path / "f.safetensors", labels="empirical")
    terms = [(1.0, by_hand(torch, model, x, int(y))) for inputs, labels in batches for x, y in zip(inputs, labels)]
    close(load(path), mean_square(torch, model, terms, 12))
    assert metadata(path) == {"kind": "fisher", "labels": "empirical", "samples": "12"}
    # Batches squared as a whole are something else.
    whole = collect.fisher(model, batches, tmp_path / "w.safetensors", labels="empirical", per_example=False)
    assert not np.allclose(load(whole)["0.weight"], load(path)["0.weight"])


def test_exact_and_sampled_fisher(torch: Any, model: Any, batches: Batches, tmp_path: Path) -> None:
    inputs = [batch for batch, _ in batches]
    exact = collect.fisher(model, inputs, tmp_path / "e.safetensors", labels="exact")
    terms = []
    for x in torch.cat(inputs):
        with torch.no_grad():
            shares = torch.softmax(model(x[None]), dim=-1)[0]
        terms += [(float(shares[label]), by_hand(torch, model, x, label)) for label in range(3)]
    close(load(exact), mean_square(torch, model, terms, 12))
    # Drawn labels: each example's square is that of one of its labels, the mean of many comes near, one seed gives one file.
    paths = [collect.fisher(model, inputs * 30, tmp_path / f"s{n}.safetensors", seed=n // 2) for n in range(3)]
    first, again, other = (load(path)["3.weight"] for path in paths)
    assert (first == again).all()
    assert not (first == other).all()
    np.testing.assert_allclose(first.mean(), load(exact)["3.weight"].mean(), rtol=0.25)


def test_gradients_and_prior(torch: Any, model: Any, batches: Batches, tmp_path: Path) -> None:
    def loss(model: Any, batch: Any) -> Any:
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    paths = collect.gradients(model, batches, tmp_path / "g", loss=loss)
    assert [path.name for path in paths] == ["gradient-00000.safetensors", "gradient-00001.safetensors", "gradient-00002.safetensors"]
    for path, batch in zip(paths, batches):
        expected = torch.autograd.grad(loss(model, batch), list(model.parameters()))
        close(load(path), {name: value.numpy() for (name, _), value in zip(model.named_parameters(), expected)})
    squares = collect.gradients(model, batches[:1], tmp_path / "q", loss=loss, squared=True)
    close(load(squares[0]), {name: value**2 for name, value in load(paths[0]).items()})
    path = collect.prior(model, batches, tmp_path / "p.safetensors")
    terms = []
    for inputs, labels in batches:
        for x, y in zip(inputs, labels):
            products = {name: g * dict(model.named_parameters())[name].detach() for name, g in by_hand(torch, model, x, int(y)).items()}
            terms.append((1.0, products))
    close(load(path), mean_square(torch, model, terms, 12))


def test_one_gradient_at_a_time(torch: Any, tmp_path: Path) -> None:
    """When a parameter's gradient is made, those before it are gone: a model of any depth holds one."""
    model = torch.nn.Sequential(*(torch.nn.Linear(6, 6) for _ in range(12)))
    batches = [(torch.randn(3, 6), torch.randint(0, 6, (3,)))]
    parameters = list(model.parameters())
    held: list[int] = []
    hooks = [value.register_hook(lambda _: held.append(sum(other.grad is not None for other in parameters))) for value in parameters]
    collect.fisher(model, batches, tmp_path / "f.safetensors", labels="empirical")
    collect.prior(model, batches, tmp_path / "p.safetensors")
    collect.gradients(model, batches, tmp_path / "g")
    assert len(held) == 24 * 7
    assert max(held) <= 1
    for hook in hooks:
        hook.remove()


def test_the_model_is_left_as_it_was(torch: Any, model: Any, batches: Batches, tmp_path: Path) -> None:
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = collect.fisher(model, batches, tmp_path / "f.safetensors", choose=lambda name: name.endswith("weight"))
    assert set(load(path)) == {"0.weight", "1.weight", "3.weight"}
    collect.gram_matrices(model, batches, tmp_path / "g.safetensors")
    assert model.training
    assert not model[1].training
    assert [value.requires_grad for value in model.parameters()] == [True, False, True, True, True, True]
    assert all(value.grad is None for value in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all((model.state_dict()[name] == value).all() for name, value in before.items())


def test_activation_norms(torch: Any, model: Any, batches: Batches, tmp_path: Path) -> None:
    path = collect.activation_norms(model, batches, tmp_path / "n.safetensors")
    expected: dict[str, np.ndarray] = {}
    for name, depth in (("0", 0), ("1", 1), ("3", 3)):
        with torch.no_grad():
            expected[name] = sum(model[:depth](inputs).abs().mean(dim=0).double() for inputs, _ in batches).numpy()
    close(load(path), expected)
    assert metadata(path) == {"kind": "activation_norm", "samples": "3"}


class Attention:
    """Two projections of one input, and one of another."""

    def __new__(cls, torch: Any) -> Any:
        class Module(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
            def __init__(self) -> None:
                super().__init__()
                self.q_proj = torch.nn.Linear(4, 4, bias=False)
                self.k_proj = torch.nn.Linear(4, 4, bias=False)
                self.o_proj = torch.nn.Linear(4, 4, bias=False)
                self.splits = False

            def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
                q, k = self.q_proj(input_ids), self.k_proj(input_ids.clone() if self.splits else input_ids)
                return self.o_proj(q * k)

        torch.manual_seed(1)
        return Module()


def test_gram_matrices(torch: Any, tmp_path: Path) -> None:
    model = Attention(torch)
    x = torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    batches = [{"input_ids": x, "attention_mask": mask}, {"input_ids": 2 * x, "attention_mask": mask}]
    path = collect.gram_matrices(model, batches, tmp_path / "g.safetensors")
    found = load(path)
    assert set(found) == {"q_proj", "o_proj"}
    assert json.loads(metadata(path)["aliases"]) == {"k_proj": "q_proj"}
    rows = torch.cat([x[mask.bool()], 2 * x[mask.bool()]]).double()
    np.testing.assert_allclose(found["q_proj"], (rows.T @ rows / 10).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found["o_proj"], found["o_proj"].T)

    def changing() -> Any:
        yield batches[0]
        model.splits = True
        yield batches[1]

    with pytest.raises(ingot.UnsupportedError, match="two now"):
        collect.gram_matrices(model, changing(), tmp_path / "h.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["g.safetensors"]


def test_output_gram_matrices(torch: Any, model: Any, batches: Batches, tmp_path: Path) -> None:
    path = collect.output_gram_matrices(model, batches, tmp_path / "o.safetensors", labels="empirical")
    found = load(path)
    assert set(found) == {"0", "3"}
    rows = []
    for inputs, labels in batches:
        with torch.no_grad():
            shares = torch.softmax(model(inputs).double(), dim=-1)
        rows.append(shares - torch.nn.functional.one_hot(labels, shares.shape[1]))
    g = torch.cat(rows)
    np.testing.assert_allclose(found["3"], (g.T @ g / len(g)).numpy(), rtol=1e-4, atol=1e-7)
    # Through the layers between: the gradient at the first layer's output, by hand.
    below = torch.zeros(found["0"].shape, dtype=torch.float64)
    for inputs, labels in batches:
        hidden = model[0](inputs).detach().requires_grad_(True)
        torch.nn.functional.cross_entropy(model[1:](hidden), labels, reduction="sum").backward()
        below += hidden.grad.double().T @ hidden.grad.double()
    model.zero_grad(set_to_none=True)
    np.testing.assert_allclose(found["0"], (below / len(g)).numpy(), rtol=1e-4, atol=1e-7)
    assert metadata(path) == {"kind": "output_gram", "labels": "empirical", "samples": str(len(g)), "rows": str(len(g))}
    drawn = load(collect.output_gram_matrices(model, batches, tmp_path / "d.safetensors", seed=3))
    again = load(collect.output_gram_matrices(model, batches, tmp_path / "e.safetensors", seed=3))
    assert all((drawn[name] == again[name]).all() for name in drawn)
    np.testing.assert_allclose(drawn["3"], drawn["3"].T)
    assert all(value.grad is None for value in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ingot.InvalidArgumentError, match="labels"):
        collect.output_gram_matrices(model, batches, tmp_path / "f.safetensors", labels="exact")  # type: ignore[arg-type]
    with pytest.raises(ingot.InvalidArgumentError, match="no batches"):
        collect.output_gram_matrices(model, [], tmp_path / "f.safetensors")


def test_packed_and_transposed_gram_matrices(torch: Any, tmp_path: Path) -> None:
    """More columns than a panel has, and transformers' Conv1D, whose weight is [in, out]: also in a merge, beside the same as Linear."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(2)
    linear = torch.nn.Sequential(torch.nn.Linear(300, 7, bias=False))
    turned = torch.nn.Sequential(transformers.pytorch_utils.Conv1D(7, 300))
    inputs = [torch.randn(20, 300) for _ in range(2)]
    whole = load(collect.gram_matrices(linear, inputs, tmp_path / "whole.safetensors"))
    path = collect.gram_matrices(linear, inputs, tmp_path / "packed.safetensors", packed=True)
    assert whole["0"].shape == (300, 300)
    np.testing.assert_allclose(load(path)["0"], whole["0"][np.triu_indices(300)], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(whole["0"], (torch.cat(inputs).T.double() @ torch.cat(inputs).double() / 40).numpy(), rtol=1e-4, atol=1e-5)
    other = collect.gram_matrices(turned, inputs, tmp_path / "turned.safetensors", packed=True)
    assert list(load(other)) == ["0.transposed"]
    np.testing.assert_array_equal(load(other)["0.transposed"], load(path)["0"])
    weights = [np.random.default_rng(seed).standard_normal((7, 300)).astype("f") for seed in range(2)]
    second = collect.gram_matrices(linear, [3 * one for one in reversed(inputs)], tmp_path / "second.safetensors")
    grams = [load(path)["0"], load(second)["0"]]
    plain = ingot.merge_state_dicts("regmean", [{"0.weight": w} for w in weights], side={"gram": [{"0": g} for g in grams]})
    flipped = ingot.merge_state_dicts("regmean", [{"0.weight": w.T} for w in weights], side={"gram": [{"0.transposed": g} for g in grams]})
    np.testing.assert_allclose(flipped["0.weight"], plain["0.weight"].T, rtol=1e-5, atol=1e-6)
    one = ingot.merge_tensors("regmean", [w.T for w in weights], side={"gram": [{"transposed": g} for g in grams]})
    np.testing.assert_array_equal(one, flipped["0.weight"])

    # MaTS solves the same problem, with the gradients at the outputs too.
    with torch.no_grad():
        turned[0].weight.copy_(linear[0].weight.T)
    labels = [torch.randint(0, 7, (20,)) for _ in range(2)]
    outputs = [
        load(collect.output_gram_matrices(model, list(zip(inputs, labels)), tmp_path / f"outputs{number}.safetensors", labels="empirical"))
        for number, model in enumerate((linear, turned))
    ]
    assert {name: values.shape for name, values in outputs[1].items()} == {"0.transposed": (7, 7)}
    np.testing.assert_allclose(outputs[1]["0.transposed"], outputs[0]["0"], rtol=1e-5, atol=1e-8)
    own = [outputs[0]["0"], np.diag(np.arange(1, 8)).astype("f")]
    for sides in ({"gram": grams}, {"gram": grams, "output_gram": own}):
        for solver in ("cg", "exact"):
            side = {name: [{"0": g} for g in values] for name, values in sides.items()}
            other_side = {name: [{"0.transposed": g} for g in values] for name, values in sides.items()}
            plain = ingot.merge_state_dicts("mats", [{"0.weight": w} for w in weights], side=side, mats_solver=solver)
            flipped = ingot.merge_state_dicts("mats", [{"0.weight": w.T} for w in weights], side=other_side, mats_solver=solver)
            np.testing.assert_allclose(flipped["0.weight"], plain["0.weight"].T, rtol=1e-5, atol=1e-6)
    one = ingot.merge_tensors(
        "mats",
        [w.T for w in weights],
        side={name: [{"transposed": g} for g in values] for name, values in sides.items()},
        mats_solver="exact",
    )
    np.testing.assert_array_equal(one, flipped["0.weight"])
    mixed = {"gram": [{"0": np.eye(7, dtype="f")}] * 2, "output_gram": [{"0.transposed": g} for g in own]}
    with pytest.raises(ingot.IngotError, match="stored as"):
        ingot.merge_state_dicts("mats", [{"0.weight": w[:, :7]} for w in weights], side=mixed)
    with pytest.raises(ingot.InvalidArgumentError, match="nothing to collect"):
        collect.activation_norms(turned, inputs, tmp_path / "norms.safetensors")


def test_second_moments(torch: Any, model: Any, batches: Batches, tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    for inputs, labels in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    expected = {name: optimizer.state[value]["exp_avg_sq"].numpy() for name, value in model.named_parameters()}
    close(load(collect.second_moments(model, optimizer, tmp_path / "v.safetensors")), expected)
    found = load(collect.second_moments(model, optimizer, tmp_path / "r.safetensors", sums=True))
    np.testing.assert_allclose(found["0.weight.row_sums"], expected["0.weight"].sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found["0.weight.column_sums"], expected["0.weight"].sum(axis=0), rtol=1e-6)
    assert "0.weight" not in found
    assert "0.bias" in found
    with pytest.raises(ingot.NotFoundError) as error:
        collect.second_moments(model, torch.optim.SGD(model.parameters(), lr=1), tmp_path / "x.safetensors")
    assert error.value.subject == "0.weight"


def test_mistakes(torch: Any, model: Any, batches: Batches, tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    calls: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ingot.InvalidArgumentError, "no batches", lambda: collect.fisher(model, [], path)),
        (ingot.InvalidArgumentError, "no batches", lambda: collect.gram_matrices(model, [], path)),
        (ingot.InvalidArgumentError, "no batches", lambda: collect.activation_norms(model, [], path)),
        (ingot.InvalidArgumentError, 'expected "sampled"', lambda: collect.fisher(model, batches, path, labels="none")),  # type: ignore[arg-type]
        (ingot.InvalidArgumentError, "labels are sampled", lambda: collect.fisher(model, batches, path, loss=lambda m, b: m(b))),
        (ingot.InvalidArgumentError, "nothing to collect", lambda: collect.fisher(model, batches, path, choose=lambda name: False)),
        (ingot.InvalidArgumentError, "no labels", lambda: collect.fisher(model, [batches[0][0]], path, labels="empirical")),
        (ingot.InvalidArgumentError, "not one number", lambda: collect.prior(model, batches, path, loss=lambda m, b: m(b[0]))),
        (ingot.InvalidArgumentError, "different lengths", lambda: collect.fisher(model, [(batches[0][0], batches[0][1][:2])], path)),
        (ingot.InvalidArgumentError, "safetensors", lambda: collect.fisher(model, batches, tmp_path / "f.bin")),
    ]
    for kind, words, call in calls:
        with pytest.raises(kind, match=words):
            call()
        assert not list(tmp_path.iterdir()), words
    collect.fisher(model, batches, path)
    with pytest.raises(ingot.ExistsError):
        collect.fisher(model, batches, path)
    collect.fisher(model, batches, path, force=True)
    torch.nn.functional.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    with pytest.raises(ingot.InvalidArgumentError, match="gradients already"):
        collect.fisher(model, batches, path, force=True)


def test_without_torch(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["torch"] = None
from ingot import UnsupportedError, collect
try:
    collect.fisher(None, [], sys.argv[1])
except UnsupportedError as error:
    print(error.hint)
"""
    assert output_of(code, str(tmp_path / "f.safetensors")) == "pip install torch\n"


def test_from_model_to_merge(torch: Any, model: Any, batches: Batches, tmp_path: Path) -> None:
    """Two fine-tunes, their Fisher information and the base's norms, merged by a recipe that names the files."""
    states = {}
    sides = {}
    base = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    save(tmp_path / "base", base)
    norms = collect.activation_norms(model, batches, tmp_path / "norms.safetensors")
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.1 * torch.randn_like(value))
        states[name] = {key: value.numpy().copy() for key, value in model.state_dict().items()}
        save(tmp_path / name, states[name])
        sides[name] = collect.fisher(model, batches, tmp_path / f"{name}_fisher.safetensors", labels="exact")
    recipe = {
        "merge_method": "fisher",
        "models": [{"model": str(tmp_path / name), "side": {"fisher": str(sides[name])}} for name in states],
        "parameters": {"fisher_norm": "none", "fisher_floor": 0},
    }
    ingot.merge(recipe, tmp_path / "plain")
    ingot.merge({**recipe, "aim": {"side": str(norms), "omega": 0.25, "base_model": str(tmp_path / "base")}}, tmp_path / "scaled")
    plain, scaled = (load(tmp_path / place / "model.safetensors") for place in ("plain", "scaled"))
    information = {name: load(path) for name, path in sides.items()}
    activity = load(norms)
    for key, value in base.items():
        total = sum(information[name][key].astype("float64") for name in states)
        merged = sum(information[name][key] * states[name][key].astype("float64") for name in states) / total
        np.testing.assert_allclose(plain[key], merged, rtol=2e-6, atol=1e-6)
        module = key.removesuffix(".weight")
        factor = 1 - activity[module] / activity[module].max() * 0.75 if module in activity else 1.0
        np.testing.assert_allclose(scaled[key], value + factor * (merged - value), rtol=2e-6, atol=1e-6)


def test_state_dicts_with_side_inputs() -> None:
    a, b = ({"w": np.full(3, value, "float32")} for value in (1.0, 4.0))
    fa, fb = ({"w": np.array(values, "float32")} for values in ([1, 2, 0], [2, 1, 1]))
    plain = {"fisher_norm": "none", "fisher_floor": 0}
    merged = ingot.merge_state_dicts("fisher", [a, b], side={"fisher": [fa, fb]}, **plain)
    np.testing.assert_array_equal(merged["w"], np.array([3, 2, 4], "float32"))
    named = ingot.merge_state_dicts("fisher", {"x": a, "y": b}, side={"fisher": {"y": fb, "x": fa}}, **plain)
    np.testing.assert_array_equal(named["w"], merged["w"])
    voted = ingot.merge_state_dicts(
        "rcp", [a, b], base={"w": np.zeros(3, "float32")}, side={"prior": {0: fa}, "gradients": {1: [fa, fb, fb]}}, rcp_lambda=0
    )
    np.testing.assert_array_equal(voted["w"], a["w"])
    mistakes: list[tuple[str, dict[str, Any]]] = [
        ("no side input fishr", {"fishr": [fa, fb]}),
        ("expected one for each of the 2 models", {"fisher": [fa]}),
        ("given for 'z'", {"fisher": {"z": fa}}),
        ("has no side input fisher", {}),
    ]
    for words, side in mistakes:
        with pytest.raises(ingot.InvalidArgumentError, match=words):
            ingot.merge_state_dicts("fisher", [a, b], side=side)


def test_tensors_with_side_inputs() -> None:
    """One tensor is a model of one tensor: the same numbers, and the same mistakes."""
    generator = np.random.default_rng(6)
    a, b, base = (generator.standard_normal((4, 5)).astype("f") for _ in range(3))
    fa, fb = (generator.random((4, 5)).astype("f") for _ in range(2))
    merged = ingot.merge_tensors("fisher", [a, b], side={"fisher": [fa, fb]}, fisher_norm="none", fisher_floor=0)
    np.testing.assert_allclose(merged, (fa * a + fb * b) / (fa + fb), rtol=1e-5)
    strided = np.zeros((5, 8), "f")
    strided[:, ::2] = fa.T
    named = ingot.merge_tensors(
        "fisher", {"x": a, "y": b}, side={"fisher": {"y": fb, "x": strided[:, ::2].T}}, fisher_norm="none", fisher_floor=0
    )
    np.testing.assert_array_equal(named, merged)
    dicts = ingot.merge_state_dicts("fisher", [{"w": a}, {"w": b}], side={"fisher": [{"w": fa}, {"w": fb}]})
    np.testing.assert_array_equal(ingot.merge_tensors("fisher", [a, b], side={"fisher": [fa, fb]}, name="w"), dicts["w"])
    sums = [{"row_sums": f.sum(1), "column_sums": f.sum(0)} for f in (fa, fb)]
    rank_one = [np.outer(part["row_sums"], part["column_sums"]) / part["row_sums"].sum() for part in sums]
    np.testing.assert_allclose(
        ingot.merge_tensors("ota", [a, b], base, side={"second_moment": sums}),
        ingot.merge_tensors("ota", [a, b], base, side={"second_moment": [one.astype("f") for one in rank_one]}),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip
    voted = ingot.merge_tensors("rcp", [a, b], base, side={"prior": {0: fa}, "gradients": {1: [fa, fb, fb]}}, rcp_lambda=0)
    assert voted.shape == a.shape

    norms = np.array([4, 3, 2, 1, 0], "f")
    factor = 1 - 0.75 * norms / 4
    plain = ingot.merge_tensors("ties", [a, b], base, density=0.5)
    scaled = ingot.merge_tensors("ties", [a, b], base, density=0.5, aim={"side": norms, "omega": 0.25})
    np.testing.assert_allclose(scaled, base + factor * (plain - base), rtol=1e-5, atol=1e-6)
    mean = ingot.merge_tensors("linear", [a, b], aim={"side": norms, "omega": 0.25, "base": base})
    np.testing.assert_allclose(mean, base + factor * ((a + b) / 2 - base), rtol=1e-5, atol=1e-6)
    dicts = ingot.merge_state_dicts(
        "linear", [{"m.weight": a}, {"m.weight": b}], aim={"side": {"m": norms}, "omega": 0.25, "base": {"m.weight": base}}
    )
    np.testing.assert_array_equal(dicts["m.weight"], mean)

    mistakes: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ingot.InvalidArgumentError, "no side input fishr", {"side": {"fishr": [fa, fb]}}),
        (ingot.InvalidArgumentError, "expected one for each of the 2 models", {"side": {"fisher": [fa]}}),
        (ingot.InvalidArgumentError, "given for 2", {"side": {"fisher": {2: fa}}}),
        (ingot.InvalidArgumentError, "no side input fisher", {}),
        (ingot.InvalidArgumentError, "'rows'", {"side": {"fisher": [{"rows": fa}, fb]}}),
        (ingot.ShapeError, r"expected \[4, 5\]", {"side": {"fisher": [fa[:3], fb]}}),
        (ingot.InvalidArgumentError, "aim has 'norms'", {"side": {"fisher": [fa, fb]}, "aim": {"norms": norms}}),
        (ingot.InvalidArgumentError, "aim has no 'side'", {"side": {"fisher": [fa, fb]}, "aim": {}}),
        (ingot.InvalidArgumentError, "base model", {"side": {"fisher": [fa, fb]}, "aim": {"side": norms}}),
        (ingot.InvalidArgumentError, "called w,", {"side": {"fisher": [fa, fb]}, "aim": {"side": norms}, "name": "w"}),
        (ingot.ShapeError, r"expected \[5\]", {"side": {"fisher": [fa, fb]}, "aim": {"side": norms[:3], "base": base}}),
        (ingot.InvalidArgumentError, "omega", {"side": {"fisher": [fa, fb]}, "aim": {"side": norms, "base": base, "omega": 2}}),
        (ingot.NonfiniteError, "NaN", {"side": {"fisher": [np.full_like(fa, np.nan), fb]}}),
    ]
    for kind, words, options in mistakes:
        with pytest.raises(kind, match=words):
            ingot.merge_tensors("fisher", [a, b], **options)
