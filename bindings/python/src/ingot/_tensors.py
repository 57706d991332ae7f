"""Tensors of other libraries as views of the C API: nothing is copied, and nothing is imported that is not loaded already.

A Loan keeps every object, name and shape alive that C has been given an address in; whoever passes views to the library
holds their loan until the library has let go of them.
"""

from __future__ import annotations

import ctypes
import math
import sys
from array import array
from collections.abc import Sequence
from ctypes import POINTER, byref, c_int64, c_void_p, cast, pointer
from typing import Any, Protocol

from . import _ffi
from ._dtypes import BY_CODE, BY_TORCH, DType
from ._errors import DTypeError, InvalidArgumentError, UnsupportedError, check, subject
from ._library import library


class Described:
    """Where a tensor's elements lie. `strides` are in elements, None for row-major; `keep` owns the memory."""

    __slots__ = ("address", "dtype", "keep", "read_only", "shape", "strides")

    def __init__(
        self,
        dtype: DType,
        shape: Sequence[int],
        address: int,
        keep: object,
        strides: Sequence[int] | None = None,
        read_only: bool = False,
    ) -> None:
        self.dtype = dtype
        self.shape = tuple(shape)
        self.strides = None if strides is None else tuple(strides)
        self.address = address
        self.keep = keep
        self.read_only = read_only


class Framework(Protocol):
    """What is needed of a tensor library."""

    def describe(self, tensor: Any) -> Described:
        """Borrows a tensor. Raises an IngotError that says why it cannot be."""

    def empty(self, dtype: DType, shape: Sequence[int], like: Any) -> Any:
        """A new row-major tensor of the kind of `like`."""

    def written(self, tensor: Any) -> None:
        """Says that the elements of a tensor the library knows were changed behind its back."""

    def finished(self, tensor: Any, like: Any) -> Any:
        """What `empty` made, now filled, as the caller's kind of tensor."""


class _Torch:
    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.dtypes = {getattr(torch, name): dtype for name, dtype in BY_TORCH.items() if hasattr(torch, name)}

    def describe(self, tensor: Any) -> Described:
        if tensor.device.type != "cpu":
            hint = "load the weights first" if tensor.device.type == "meta" else "copy it to the CPU first: tensor.cpu()"
            what = "has no data (device meta)" if tensor.device.type == "meta" else f"is on {tensor.device}"
            raise UnsupportedError(f"the tensor {what}, expected memory of the CPU", hint=hint)
        if tensor.layout != self.torch.strided:
            raise UnsupportedError(f"the tensor's layout is {tensor.layout}, expected torch.strided", hint="convert it: tensor.to_dense()")
        dtype = self.dtypes.get(tensor.dtype)
        if dtype is None:
            raise DTypeError(f"the tensor is of {tensor.dtype}, which safetensors does not have", hint="dequantise or convert it first")
        if tensor.is_conj() or tensor.is_neg():
            raise UnsupportedError(
                "the tensor is a lazily negated or conjugated view",
                hint="make it real: tensor.resolve_neg().resolve_conj()",
            )
        try:
            address = int(tensor.data_ptr())
        except RuntimeError as error:  # FakeTensor, functorch and other wrappers
            address = 0
            reason = f": {error}"
        else:
            reason = ""
        if not address and tensor.numel():
            raise UnsupportedError(
                f"the tensor ({type(tensor).__name__}) has no memory of its own{reason}",
                hint="pass a plain tensor; of a DTensor, tensor.full_tensor()",
            )
        return Described(dtype, tensor.shape, address, tensor, tensor.stride())

    def empty(self, dtype: DType, shape: Sequence[int], like: Any) -> Any:
        return self.torch.empty(tuple(shape), dtype=getattr(self.torch, dtype.torch or ""))

    def written(self, tensor: Any) -> None:
        # So that a backward pass that saved the old values fails instead of using the new ones.
        increment = getattr(getattr(self.torch.autograd, "graph", None), "increment_version", None)
        if increment is not None and not tensor.is_inference():
            increment(tensor)

    def finished(self, tensor: Any, like: Any) -> Any:
        return tensor


class _Numpy:
    def __init__(self, numpy: Any) -> None:
        self.numpy = numpy

    def describe(self, tensor: Any) -> Described:
        if isinstance(tensor, self.numpy.ma.MaskedArray):
            raise UnsupportedError("the array is masked", hint="fill it: array.filled(0)")
        is_scalar = isinstance(tensor, self.numpy.generic)  # what arithmetic makes of arrays without axes
        if is_scalar:
            tensor = self.numpy.asarray(tensor)
        # ml_dtypes' names are torch's; all of numpy's are, too, but for the integers' aliases, which .name resolves.
        dtype = BY_TORCH.get(tensor.dtype.name)
        if dtype is None:
            raise DTypeError(f"the array is of {tensor.dtype}, which safetensors does not have", hint="convert it: array.astype(...)")
        if not tensor.dtype.isnative:
            raise DTypeError(
                f"the array is of {tensor.dtype.str}, expected this machine's byte order",
                hint="convert it: array.astype(array.dtype.newbyteorder('='))",
            )
        width = tensor.itemsize
        if tensor.size and any(step % width for step in tensor.strides):
            raise UnsupportedError(
                f"the array's strides {tensor.strides} are not whole elements of {width} bytes",
                hint="copy it: numpy.ascontiguousarray(array)",
            )
        address, read_only = tensor.__array_interface__["data"]
        strides = [step // width for step in tensor.strides]
        return Described(dtype, tensor.shape, address, tensor, strides, read_only or is_scalar)

    def empty(self, dtype: DType, shape: Sequence[int], like: Any) -> Any:
        return self.numpy.empty(tuple(shape), dtype=self.dtype(dtype))

    def dtype(self, dtype: DType) -> Any:
        native = getattr(self.numpy, dtype.torch or "", None)
        if native is not None:
            return native
        try:
            import ml_dtypes  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ImportError:
            raise UnsupportedError(
                f"numpy has no {dtype.torch or dtype.name}", hint='install ml_dtypes, or ask for another type: dtype="float32"'
            ) from None
        return getattr(ml_dtypes, dtype.torch or "")

    def written(self, tensor: Any) -> None:
        pass

    def finished(self, tensor: Any, like: Any) -> Any:
        return tensor


class _Exchange:
    """Libraries that hand out DLPack capsules: jax, tensorflow, paddle, cupy."""

    def describe(self, tensor: Any) -> Described:
        device = int(tensor.__dlpack_device__()[0])
        if device == _DLPACK_CPU or device in _DLPACK_HOST:
            try:
                capsule = tensor.__dlpack__(max_version=(1, 0))
            except TypeError:  # written before version 1
                capsule = tensor.__dlpack__()
        else:
            raise UnsupportedError(
                f"the tensor is on {_DLPACK_DEVICES.get(device, f'DLPack device type {device}')}, expected memory of the CPU",
                hint="copy it to the CPU first",
            )
        view = _ffi.ingot_tensor_view()
        if _capsule_is_valid(capsule, b"dltensor_versioned"):
            versioned = cast(_capsule_pointer(capsule, b"dltensor_versioned"), POINTER(_ffi.DLManagedTensorVersioned))
            check(library.ingot_tensor_view_from_dlpack_versioned, versioned, byref(view))
        else:
            managed = cast(_capsule_pointer(capsule, b"dltensor"), POINTER(_ffi.DLManagedTensor))
            check(library.ingot_tensor_view_from_dlpack, managed, byref(view))
        strides = view.strides[: view.rank] if view.strides else None
        read_only = bool(view.flags & _ffi.INGOT_TENSOR_READ_ONLY)
        # The capsule was not consumed: it frees its tensor when it goes.
        return Described(BY_CODE[view.dtype], view.shape[: view.rank], view.data or 0, (capsule, tensor), strides, read_only)

    def empty(self, dtype: DType, shape: Sequence[int], like: Any) -> Any:
        if not hasattr(like, "__array_namespace__"):
            raise UnsupportedError(
                f"there is no standard way to make a {type(like).__name__}",
                hint="give out=, or pass numpy arrays or torch tensors",
            )
        import numpy  # what such libraries exchange arrays through

        return _Numpy(numpy).empty(dtype, shape, like)

    def written(self, tensor: Any) -> None:
        pass

    def finished(self, tensor: Any, like: Any) -> Any:
        return like.__array_namespace__().asarray(tensor)


_DLPACK_CPU = 1
_DLPACK_HOST = (3, 11)  # pinned memory of CUDA, of ROCm
_DLPACK_DEVICES = {2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 13: "cuda (managed memory)", 14: "oneapi"}
_capsule_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_capsule_is_valid.restype = ctypes.c_int
_capsule_is_valid.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


class _PyBuffer(ctypes.Structure):
    """Py_buffer, part of the stable ABI since Python 3.11 and unchanged since 3.3."""

    _fields_ = [
        ("buf", c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", POINTER(ctypes.c_ssize_t)),
        ("strides", POINTER(ctypes.c_ssize_t)),
        ("suboffsets", POINTER(ctypes.c_ssize_t)),
        ("internal", c_void_p),
    ]


def _address(view: memoryview) -> int:
    """Where a buffer begins; read-only ones too, which ctypes' from_buffer refuses."""
    raw = _PyBuffer()
    strided_read_only = 0x18
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), byref(raw), strided_read_only)
    try:
        return raw.buf or 0
    finally:
        ctypes.pythonapi.PyBuffer_Release(byref(raw))


# What a buffer's format letter is: with its width, the name in safetensors.
_KINDS = {"f": "F", "d": "F", "e": "F", "?": "BOOL"} | dict.fromkeys("bhilqn", "I") | dict.fromkeys("BHILQN", "U")
# What memoryview.cast can make.
_LETTERS = dict(zip(("F32", "F64", "BOOL", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"), "fd?bBhHiIqQ"))


class _Buffer:
    """The buffer protocol: array.array, memoryview, bytearray, mmap."""

    def describe(self, tensor: Any) -> Described:
        view = memoryview(tensor)
        order, letter = ("", view.format) if len(view.format) == 1 else (view.format[:-1], view.format[-1])
        native = "<" if sys.byteorder == "little" else ">"
        kind = _KINDS.get(letter)
        if kind is None or order not in ("", "@", "=", native):
            raise DTypeError(
                f"the buffer's format is {view.format!r}, expected one number of this machine's byte order",
                hint="of bfloat16, pass a torch tensor or an array of ml_dtypes",
            )
        name = kind if kind == "BOOL" else f"{kind}{view.itemsize * 8}"
        dtype = next(dtype for dtype in BY_CODE.values() if dtype.name == name)
        shape = view.shape or ()
        strides = [step // view.itemsize for step in view.strides or ()]
        # An exported buffer can be neither resized nor freed; `view` is the export.
        return Described(dtype, shape, _address(view), view, strides, view.readonly)

    def empty(self, dtype: DType, shape: Sequence[int], like: Any) -> Any:
        letter: Any = _LETTERS.get(dtype.name)
        if letter is None:
            raise UnsupportedError(
                f"Python's buffers have no {dtype.torch or dtype.name}",
                hint='ask for another type, dtype="float32", or pass numpy arrays or torch tensors',
            )
        data = bytearray(math.prod(shape) * dtype.bits // 8)
        if isinstance(like, array) and len(shape) == 1:
            return array(letter, data)
        # A view cannot have an axis of no elements.
        return memoryview(data).cast(letter, list(shape)) if data else memoryview(data).cast(letter)

    def written(self, tensor: Any) -> None:
        pass

    def finished(self, tensor: Any, like: Any) -> Any:
        return tensor


_exchange = _Exchange()
_buffer = _Buffer()
_loaded: dict[str, Framework] = {}


def _known(name: str, make: Any) -> Framework | None:
    """The adapter of a library, if the program has imported it: without that nobody can hold a tensor of it."""
    module = sys.modules.get(name)
    if module is None or not hasattr(module, "Tensor" if name == "torch" else "ndarray"):
        return None
    if name not in _loaded:
        _loaded[name] = make(module)
    return _loaded[name]


def framework(tensor: Any) -> Framework:
    """The library a tensor is of. TypeError for what is no tensor."""
    torch = _known("torch", _Torch)
    if torch is not None and isinstance(tensor, sys.modules["torch"].Tensor):
        return torch
    numpy = _known("numpy", _Numpy)
    if numpy is not None and isinstance(tensor, (sys.modules["numpy"].ndarray, sys.modules["numpy"].generic)):
        return numpy
    if hasattr(tensor, "__dlpack__") and hasattr(tensor, "__dlpack_device__"):
        return _exchange
    try:
        memoryview(tensor).release()
    except TypeError:
        raise TypeError(
            f"{type(tensor).__name__} is not a tensor: expected a torch tensor, a numpy array, or an object with __dlpack__ or a buffer"
        ) from None
    return _buffer


class Loan:
    """Views of tensors, and all that must stay alive while C may look at them."""

    def __init__(self) -> None:
        self.views: list[_ffi.ingot_tensor_view] = []
        self._keep: list[object] = []

    def __len__(self) -> int:
        return len(self.views)

    def borrow(self, name: str, tensor: Any, *, output: bool = False) -> Described:
        """Adds a tensor. Raises TypeError or an IngotError about `name`; `output`: also when it cannot be written."""
        try:
            kind = framework(tensor)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        with subject(name):
            described = kind.describe(tensor)
            if output and described.read_only:
                raise InvalidArgumentError("the output is read-only", hint="give it memory of its own")
        self.add(name, described)
        return described

    def add(self, name: str, described: Described) -> None:
        extents = c_int64 * len(described.shape)
        shape = extents(*described.shape)
        # Strides of a tensor without elements mean nothing, and numpy's are zeros.
        strides = None if described.strides is None or 0 in described.shape else extents(*described.strides)
        text = _c_text(name)
        self.views.append(
            _ffi.ingot_tensor_view(
                flags=_ffi.INGOT_TENSOR_READ_ONLY if described.read_only else 0,
                name=text,
                dtype=described.dtype.code,
                rank=len(described.shape),
                shape=cast(shape, POINTER(c_int64)),
                strides=None if strides is None else cast(strides, POINTER(c_int64)),
                data=described.address or None,
            )
        )
        self._keep.append((described.keep, text, shape, strides))

    def array(self) -> Any:
        """The array of pointers to views that the C functions take; valid as long as the loan is."""
        pointers = (POINTER(_ffi.ingot_tensor_view) * max(len(self.views), 1))(*map(pointer, self.views))
        self._keep.append(pointers)
        return pointers


def _c_text(name: str) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"the name of a tensor is {name!r}, expected a str")
    if "\0" in name:
        raise InvalidArgumentError("the name has a NUL in it", subject=name)
    return name.encode("utf-8", "surrogateescape")
