"""Tensors as they come: nothing is copied on the way in or out, whatever the strides, types and libraries."""

from __future__ import annotations

import gc
import weakref
from array import array
from typing import Any

import ingot
import numpy as np
import pytest
from ingot import _tensors
from support import output_of


def borrowed(tensor: Any, *, output: bool = False) -> Any:
    loan = _tensors.Loan()
    loan.borrow("x", tensor, output=output)
    view = loan.views[0]
    view.loan = loan
    return view


@pytest.mark.parametrize("cut", [np.s_[:], np.s_[::-1], np.s_[1:, 2:5], np.s_[::2, ::-3], np.s_[3], np.s_[..., None]])
def test_numpy_addresses_are_equal(cut: Any) -> None:
    whole = np.arange(80, dtype="f").reshape(8, 10)
    part = whole[cut]
    view = borrowed(part)
    assert view.data == part.__array_interface__["data"][0]
    assert tuple(view.shape[: view.rank]) == part.shape
    assert tuple(view.strides[: view.rank]) == tuple(step // 4 for step in part.strides)
    assert whole.ctypes.data <= view.data < whole.ctypes.data + whole.nbytes


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x[::-1],
        lambda x: x[:, ::-1],
        lambda x: x.T,
        lambda x: x[3:7, 5:],
        lambda x: np.broadcast_to(x[:1], (6, x.shape[1])),
        lambda x: np.broadcast_to(x[:, :1], x.shape),
        lambda x: x[0, 0],
        lambda x: x[:0],
        lambda x: x.reshape(3, 4, 5, 10)[:, ::-2, 1:, ::3],
        lambda x: np.lib.stride_tricks.sliding_window_view(x, (3, 3)),
    ],
    ids=["whole", "flipped", "mirrored", "transposed", "cut", "repeated rows", "repeated columns", "one", "none", "4-D", "overlapping"],
)
def test_strides(view: Any) -> None:
    generator = np.random.default_rng(5)
    a, b = (view(generator.standard_normal((60, 10)).astype("f")) for _ in range(2))
    a, b = np.asarray(a), np.asarray(b)
    merged = ingot.merge_tensors("linear", [a, b], weight=[0.25, 0.75])
    assert merged.shape == a.shape
    assert merged.flags.c_contiguous
    np.testing.assert_allclose(merged, 0.25 * a + 0.75 * b, rtol=1e-6, atol=1e-7)
    # The same as for packed copies, to the last bit.
    packed = ingot.merge_tensors("linear", [np.ascontiguousarray(a).reshape(a.shape), b.copy()], weight=[0.25, 0.75])
    assert merged.tobytes() == packed.tobytes()


def test_strided_output() -> None:
    a, b = np.ones((4, 6), "f"), np.full((4, 6), 3, "f")
    memory = np.zeros((6, 8), "f")
    out = memory.T[1:7, ::-1][:, 1:5].T
    assert ingot.merge_tensors("linear", [a, b], out=out) is out
    assert (out == 2).all()
    assert memory.sum() == 2 * out.size


def test_out_must_not_be_an_input() -> None:
    a, b = np.ones(8, "f"), np.ones(8, "f")
    for out in (a, b, a[::-1]):
        with pytest.raises(ingot.InvalidArgumentError, match="overlap"):
            ingot.merge_tensors("linear", [a, b], out=out)
    half = np.zeros(16, "f")
    with pytest.raises(ingot.InvalidArgumentError, match="overlap"):
        ingot.merge_tensors("linear", [half[:8], half[8:]], out=half[4:12])
    assert (a == 1).all()
    assert ingot.merge_tensors("linear", [half[:4], half[4:8]], out=half[8:12]).base is half


@pytest.mark.parametrize("strides", [(0, 0), (4, 0), (-(2**62), 2**62)])
def test_empty_outputs_may_have_any_strides(strides: tuple[int, int]) -> None:
    """Without elements no two of them are one."""
    empty = np.zeros((0, 3), "f")
    out = np.lib.stride_tricks.as_strided(np.zeros(1, "f"), (0, 3), strides)
    assert ingot.merge_tensors("linear", [empty, empty], out=out) is out


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: np.broadcast_to(np.zeros(1, "f"), (8,)), "read-only"),
        (lambda: np.lib.stride_tricks.as_strided(np.zeros(1, "f"), (8,), (0,)), "twice"),
        (lambda: np.frombuffer(bytes(32), "f"), "read-only"),
        (lambda: bytes(32), "read-only"),
        (lambda: np.zeros(7, "f"), "shape"),
        (lambda: np.zeros(8, "d"), "F64"),
        (lambda: np.zeros(8, "i4"), "I32"),
    ],
)
def test_outputs_that_cannot_be(make: Any, said: str) -> None:
    one = np.ones(8, "f")
    with pytest.raises(ingot.IngotError, match=said):
        ingot.merge_tensors("linear", [one, one], out=make())


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda: np.zeros(4, ">f4"), ingot.DTypeError, "byte order"),
        (lambda: np.zeros(4, "U3"), ingot.DTypeError, "safetensors does not have"),
        (lambda: np.zeros(4, object), ingot.DTypeError, "safetensors does not have"),
        (lambda: np.zeros(4, "c16"), ingot.DTypeError, "safetensors does not have"),
        (lambda: np.zeros(4, [("x", "f4"), ("y", "i2")])["x"], ingot.UnsupportedError, "not whole elements"),
        (lambda: np.ma.masked_array(np.zeros(4, "f"), mask=True), ingot.UnsupportedError, "masked"),
        (lambda: [1.0, 2.0], TypeError, "not a tensor"),
        (lambda: 1.5, TypeError, "not a tensor"),
        (lambda: None, TypeError, "not a tensor"),
    ],
)
def test_inputs_that_cannot_be(make: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        ingot.merge_state_dicts("linear", [{"layer.weight": make()}])
    assert "layer.weight" in str(caught.value)


def test_arguments_of_the_wrong_kind() -> None:
    one = np.ones(2, "f")
    for wrong in (lambda: ingot.merge_tensors("linear", one), lambda: ingot.merge_state_dicts("linear", {"x": one})):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(TypeError, match="name"):
        ingot.merge_state_dicts("linear", [{1: one}])  # type: ignore[dict-item]
    with pytest.raises(ingot.InvalidArgumentError, match="NUL"):
        ingot.merge_state_dicts("linear", [{"a\0b": one}])


@pytest.mark.parametrize(
    ("inputs", "asked", "given"),
    [
        ("float32", None, "float32"),
        ("float16", None, "float16"),
        ("float64", None, "float32"),
        ("float32", "float16", "float16"),
        ("float32", np.float16, "float16"),
        ("float16", np.dtype("float32"), "float32"),
        ("float64", "F32", "float32"),
    ],
)
def test_dtypes(inputs: str, asked: Any, given: str) -> None:
    a, b = np.linspace(-3, 3, 31, dtype=inputs), np.linspace(1, 2, 31, dtype=inputs)
    merged = ingot.merge_tensors("linear", [a, b], dtype=asked)
    assert merged.dtype == given
    np.testing.assert_allclose(merged, (a.astype("d") + b) / 2, rtol=2**-10 if given == "float16" else 1e-6)


@pytest.mark.parametrize("asked", ["int8", "float8_e5m2", "float64", "bfloat", 3, int])
def test_dtypes_that_cannot_be(asked: Any) -> None:
    with pytest.raises(ingot.DTypeError, match="expected one of float32, float16, bfloat16"):
        ingot.merge_tensors("linear", [np.ones(2, "f")], dtype=asked)


def test_bfloat16_in_numpy() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    a = np.linspace(-3, 3, 1000).astype(ml_dtypes.bfloat16)
    b = np.linspace(1, 2, 1000).astype(ml_dtypes.bfloat16)
    merged = ingot.merge_tensors("linear", [a, b], weight=[0.25, 0.75])
    assert merged.dtype == ml_dtypes.bfloat16
    exact = 0.25 * a.astype("d") + 0.75 * b.astype("d")
    np.testing.assert_array_equal(merged.astype("f"), exact.astype("f").astype(ml_dtypes.bfloat16).astype("f"))
    narrow = ingot.merge_tensors("linear", [a.astype(ml_dtypes.float8_e4m3fn)])
    assert narrow.dtype == ml_dtypes.bfloat16
    assert ingot.merge_tensors("linear", [a.astype("f")], dtype=ml_dtypes.bfloat16).dtype == ml_dtypes.bfloat16


def test_bfloat16_without_ml_dtypes() -> None:
    code = """
import sys
sys.modules["ml_dtypes"] = None
import ingot, numpy
try:
    ingot.merge_tensors("linear", [numpy.ones(2, "f")], dtype="bfloat16")
except ingot.UnsupportedError as error:
    print(error)
"""
    assert "install ml_dtypes" in output_of(code)


@pytest.mark.parametrize(("letter", "given"), [("f", "f"), ("d", "f")])
def test_array_module(letter: str, given: str) -> None:
    merged = ingot.merge_tensors("linear", [array(letter, [1, 2, 3]), array(letter, [3, 4, 5])])
    assert isinstance(merged, array)
    assert merged == array(given, [2, 3, 4])


def test_buffers() -> None:
    whole = memoryview(array("f", range(12))).cast("B").cast("f", [3, 4])
    merged = ingot.merge_tensors("linear", [whole, whole])
    assert isinstance(merged, memoryview)
    assert merged.shape == (3, 4)
    assert merged.tolist() == whole.tolist()
    flipped = memoryview(array("f", [1, 2, 3]))[::-1]
    assert ingot.merge_tensors("linear", [flipped]).tolist() == [3, 2, 1]
    assert ingot.merge_tensors("linear", [memoryview(bytes(8)).cast("f")]).tolist() == [0, 0]  # read-only input
    out = bytearray(8)
    ingot.merge_tensors("linear", [array("f", [1, 2])], out=memoryview(out).cast("f"))
    assert array("f", out) == array("f", [1, 2])
    with pytest.raises(ingot.DTypeError, match="format"):
        ingot.merge_tensors("linear", [memoryview(np.zeros(3, ">f4"))])


class Exchange:
    """A tensor of a library that nobody knows: DLPack and nothing else."""

    def __init__(self, values: np.ndarray, device: int = 1, versioned: bool = True) -> None:
        self.values = values
        self.device = device
        self.versioned = versioned

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self, **options: Any) -> Any:
        if not self.versioned:
            if options:
                raise TypeError("this library knows no options")
            return self.values.__dlpack__()
        return self.values.__dlpack__(**options)


class Namespaced(Exchange):
    def __array_namespace__(self) -> Any:
        class Namespace:
            asarray = staticmethod(Namespaced)

        return Namespace


@pytest.mark.parametrize("versioned", [True, False])
def test_dlpack(versioned: bool) -> None:
    values = np.arange(12, dtype="f").reshape(3, 4)[:, ::-1]
    out = np.zeros((3, 4), "f")
    assert borrowed(Exchange(values, versioned=versioned)).data == values.__array_interface__["data"][0]
    ingot.merge_tensors("linear", [Exchange(values, versioned=versioned)], out=out)
    np.testing.assert_array_equal(out, values)
    target = Exchange(np.zeros((3, 4), "f"), versioned=versioned)
    assert ingot.merge_tensors("linear", [values], out=target) is target
    np.testing.assert_array_equal(target.values, values)


def test_dlpack_results() -> None:
    with pytest.raises(ingot.UnsupportedError, match="give out="):
        ingot.merge_tensors("linear", [Exchange(np.ones(3, "f"))])
    merged = ingot.merge_tensors("linear", [Namespaced(np.ones(3, "f"))])
    assert isinstance(merged, Namespaced)
    np.testing.assert_array_equal(merged.values, 1)


def test_dlpack_elsewhere_and_read_only() -> None:
    with pytest.raises(ingot.UnsupportedError, match="is on cuda") as caught:
        ingot.merge_state_dicts("linear", [{"w": Exchange(np.ones(3, "f"), device=2)}])
    assert caught.value.subject == "w"
    assert caught.value.hint is not None
    frozen = np.ones(3, "f")
    frozen.flags.writeable = False
    with pytest.raises(ingot.InvalidArgumentError, match="read-only"):
        ingot.merge_tensors("linear", [np.ones(3, "f")], out=Exchange(frozen))


def test_results_follow_the_first_model_and_its_library() -> None:
    one = {"b": np.ones(3, "f"), "a": array("f", [1, 2])}
    two = {"a": np.ones(2, "f"), "b": array("f", [3, 3, 3])}
    merged = ingot.merge_state_dicts("linear", [one, two])
    assert list(merged) == ["b", "a"]
    assert isinstance(merged["b"], np.ndarray)
    assert isinstance(merged["a"], array)
    np.testing.assert_array_equal(merged["b"], 2)


def test_integers_are_copied() -> None:
    one = {"w": np.ones(3, "f"), "positions": np.arange(5), "mask": np.array([True, False])}
    merged = ingot.merge_state_dicts("linear", [one, {**one, "w": np.zeros(3, "f")}])
    for name in ("positions", "mask"):
        assert merged[name].dtype == one[name].dtype
        np.testing.assert_array_equal(merged[name], one[name])
    np.testing.assert_array_equal(merged["w"], 0.5)


def test_out_of_state_dicts() -> None:
    one = {"w": np.ones((2, 2), "f"), "v": np.zeros(3, "f")}
    out = {"w": np.zeros((2, 2), "float16"), "v": np.zeros(3, "float16")}
    merged = ingot.merge_state_dicts("linear", [one, one], out=out)
    assert merged["w"] is out["w"]
    np.testing.assert_array_equal(out["w"], 1)
    with pytest.raises(ingot.NotFoundError, match="v"):
        ingot.merge_state_dicts("linear", [one], out={"w": np.zeros((2, 2), "f")})
    with pytest.raises(ingot.InvalidArgumentError, match="does not give"):
        ingot.merge_state_dicts("linear", [one], out={**one, "x": np.zeros(1, "f")})


def test_plan_keeps_its_tensors_alive() -> None:
    values = np.full((64, 64), 2, "f")
    gone = weakref.ref(values)
    plan = ingot.plan({"merge_method": "linear", "models": [{"model": "x", "parameters": {"weight": 1}}]}, models={"x": {"w": values}})
    del values
    gc.collect()
    assert gone() is not None
    del plan
    gc.collect()
    assert gone() is None


def test_garbage_collection_during_calls() -> None:
    """Views of temporaries: only the loan holds them."""
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for size in (1, 100, 70_000):
            inputs = {index: {f"t{n}": np.full(size, index, "f")[::-1] for n in range(20)} for index in range(3)}
            merged = ingot.merge_state_dicts("linear", {key: dict(value) for key, value in inputs.items()}, progress=lambda _: gc.collect())
            assert all((tensor == 1).all() for tensor in merged.values())
    finally:
        gc.set_threshold(*threshold)


MEMORY = """
import ingot, numpy

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])

a, b = numpy.ones((8192, 8192), "f"), numpy.full((8192, 8192), 3, "f")  # 256 MiB each
out = numpy.empty_like(a)
out.fill(7)
with ingot.Engine(memory="8MiB") as engine:
    engine.merge_tensors("linear", [a[:1024], b[:1024]], out=out[:1024])  # code, threads and the engine's own tiles
    before = resident()
    seen = []
    engine.merge_tensors("linear", [a, b], out=out, progress=lambda _: seen.append(resident()))
    after = resident()
assert (out == 2).all() and seen
print(max(after, *seen) - before)
"""


def test_resident_memory_does_not_grow() -> None:
    assert int(output_of(MEMORY)) < 1024
