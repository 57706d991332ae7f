"""Torch tensors: read and written where they lie; torch and Ingot at work in one process."""

from __future__ import annotations

from typing import Any

import ingot
import numpy as np
import pytest
from ingot import _tensors
from support import output_of


def address(tensor: Any) -> int:
    loan = _tensors.Loan()
    loan.borrow("x", tensor)
    return int(loan.views[0].data)


def test_addresses_are_equal(torch: Any) -> None:
    whole = torch.arange(60, dtype=torch.bfloat16).reshape(6, 10)
    for part in (whole, whole[2:, 3], whole.t(), whole[:, ::2], whole.requires_grad_(), torch.nn.Parameter(whole)):
        assert address(part) == part.data_ptr()
    out = torch.zeros(4)
    assert ingot.merge_tensors("linear", [torch.ones(4), torch.ones(4)], out=out) is out
    assert (out == 1).all()


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_dtypes(torch: Any, name: str) -> None:
    dtype = getattr(torch, name)
    a, b = (torch.randn(131, 77, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (1, 2))
    merged = ingot.merge_tensors("linear", [a, b], weight=[0.25, 0.75])
    assert merged.dtype == {"float64": torch.float32, "float8_e4m3fn": torch.bfloat16, "float8_e5m2": torch.bfloat16}.get(name, dtype)
    exact = 0.25 * a.double() + 0.75 * b.double()
    if merged.dtype == torch.float32:
        torch.testing.assert_close(merged.double(), exact, rtol=1e-6, atol=1e-7)
    else:
        # Rounded once, or its neighbour: f32 lies between.
        step = 2**-7 if merged.dtype == torch.bfloat16 else 2**-10
        torch.testing.assert_close(merged.float(), exact.to(merged.dtype).float(), rtol=step, atol=1e-7)
        assert (merged == exact.to(merged.dtype)).double().mean() > 0.999


def test_bfloat16_parameters_that_require_gradients(torch: Any) -> None:
    a, b = (torch.nn.Parameter(torch.randn(64, 48).to(torch.bfloat16)) for _ in range(2))
    merged = ingot.merge_tensors("slerp", [b], base=a, t=0.4)
    assert merged.dtype == torch.bfloat16
    assert not merged.requires_grad
    with torch.no_grad():
        x, y = a.double().flatten(), b.double().flatten()
        angle = torch.arccos((x @ y) / (x.norm() * y.norm()))
        exact = ((torch.sin(0.6 * angle) * x + torch.sin(0.4 * angle) * y) / torch.sin(angle)).reshape(64, 48)
    torch.testing.assert_close(merged.double(), exact, rtol=2**-7, atol=1e-6)


def test_writing_tells_autograd(torch: Any) -> None:
    """What a backward pass has saved must not change unseen."""
    weight = torch.nn.Parameter(torch.ones(3))
    loss = (weight * weight).sum()
    ingot.merge_tensors("linear", [torch.zeros(3)], out=weight)
    assert weight.detach().tolist() == [0, 0, 0]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():
        assert ingot.merge_tensors("linear", [torch.ones(2)], out=torch.zeros(2)).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda torch: torch.empty(3, device="meta"), ingot.UnsupportedError, "has no data"),
        (lambda torch: torch.eye(3).to_sparse(), ingot.UnsupportedError, "sparse"),
        (lambda torch: torch._neg_view(torch.ones(3)), ingot.UnsupportedError, "resolve_neg"),
        (lambda torch: torch.zeros(3, dtype=torch.complex64).conj(), ingot.UnsupportedError, "conjugated"),
        (lambda torch: torch.zeros(3, dtype=torch.complex128), ingot.DTypeError, "complex128"),
        (lambda torch: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), ingot.DTypeError, "qint8"),
        (lambda torch: fake(), ingot.UnsupportedError, "memory"),
    ],
    ids=["meta", "sparse", "negated", "conjugated", "complex128", "quantised", "fake"],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_tensors_that_cannot_be(torch: Any, make: Any, kind: type[ingot.IngotError], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        ingot.merge_state_dicts("linear", [{"layer.weight": make(torch)}])
    assert caught.value.subject == "layer.weight"
    assert caught.value.hint


def fake() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        import torch

        return torch.ones(3)


def test_tensor_on_another_device(torch: Any) -> None:
    """There is no such device here: what the adapter looks at is what a CUDA tensor shows."""
    kind = type("device", (), {"type": "cuda", "__str__": lambda self: "cuda:0"})
    tensor = type("Tensor", (), {"device": kind()})()
    with pytest.raises(ingot.UnsupportedError, match="is on cuda:0") as caught:
        _tensors._Torch(torch).describe(tensor)
    assert "tensor.cpu()" in str(caught.value.hint)


def test_state_dicts(torch: Any) -> None:
    torch.manual_seed(0)
    models = [torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.BatchNorm1d(30), torch.nn.Linear(30, 4)) for _ in range(3)]
    merged = ingot.merge_state_dicts("ties", [models[1].state_dict(), models[2].state_dict()], base=models[0].state_dict(), density=0.5)
    assert list(merged) == list(models[0].state_dict())
    assert merged["1.num_batches_tracked"].dtype == torch.int64
    models[0].load_state_dict(merged)
    average = ingot.merge_state_dicts("linear", [model.state_dict() for model in models[1:]])
    torch.testing.assert_close(average["0.weight"], (models[1][0].weight + models[2][0].weight).detach() / 2)
    # Into the live model: its tensors stay where they are.
    target, places = models[0].state_dict(), [tensor.data_ptr() for tensor in models[0].state_dict().values()]
    ingot.merge_state_dicts("linear", [model.state_dict() for model in models[1:]], out=target)
    assert [tensor.data_ptr() for tensor in models[0].state_dict().values()] == places
    torch.testing.assert_close(models[0][0].weight.detach(), average["0.weight"], rtol=0, atol=0)


def test_tied_tensors(torch: Any) -> None:
    shared = torch.randn(8, 4)
    model = {"embed.weight": shared, "head.weight": shared}
    merged = ingot.merge_state_dicts("linear", [model, model])
    torch.testing.assert_close(merged["head.weight"], shared)
    with pytest.raises(ingot.InvalidArgumentError, match="overlap"):
        ingot.merge_state_dicts("linear", [model], out=dict.fromkeys(model, torch.zeros(8, 4)))


def test_mixed_libraries(torch: Any) -> None:
    merged = ingot.merge_tensors("linear", [torch.zeros(3), np.ones(3, "f")])
    assert isinstance(merged, torch.Tensor)
    assert merged.tolist() == [0.5, 0.5, 0.5]
    assert isinstance(ingot.merge_tensors("linear", [np.ones(3, "f"), torch.zeros(3)]), np.ndarray)


BESIDE = """
import sys
first, second = sys.argv[1].split()
for name in (first, second):
    if name == "torch":
        import torch
        a, b = torch.randn(500, 700), torch.randn(700, 600)
        product = a @ b
    else:
        import array, ingot
        merged = ingot.merge_tensors("linear", [array.array("f", [1, 2]), array.array("f", [3, 4])])
assert merged.tolist() == [2, 3]
for _ in range(5):
    torch.testing.assert_close(a @ b, product, rtol=1e-4, atol=1e-3)
    x = ingot.merge_tensors("linear", [a, a + 2], threads=2)
    torch.testing.assert_close(x, a + 1)
y = torch.nn.Linear(700, 3)
y(a).sum().backward()
with ingot.Engine() as engine:
    print(engine.info["team"])
"""


@pytest.mark.parametrize("order", ["torch ingot", "ingot torch"])
def test_beside_torch(torch: Any, order: str) -> None:
    assert output_of(BESIDE, order).strip()


def test_children_of_a_process_with_torch(torch: Any) -> None:
    """As DataLoader's workers."""
    code = """
import torch, ingot
class Merged(torch.utils.data.Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, index):
        a = torch.full((300, 300), float(index))
        return ingot.merge_tensors("linear", [a, a + 2])[0, 0]
a = torch.randn(400, 400)
a @ a
ingot.merge_tensors("linear", [a, a])
loader = torch.utils.data.DataLoader(Merged(), batch_size=2, num_workers=2, multiprocessing_context="fork")
print([batch.tolist() for batch in loader])
"""
    assert output_of(code) == "[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]\n"
