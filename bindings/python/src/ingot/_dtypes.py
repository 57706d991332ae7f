"""Element types, by the names that safetensors, recipes, numpy and torch give them."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import _ffi
from ._errors import DTypeError


class DType(NamedTuple):
    """One element type."""

    code: int
    name: str  # in a safetensors header
    torch: str | None  # also numpy's and ml_dtypes', where they have it
    bits: int

    @property
    def merges(self) -> bool:
        """Whether Ingot has arithmetic for it."""
        return self.code <= _ffi.INGOT_DTYPE_F8_E5M2

    @property
    def result(self) -> DType:
        """What a merge of it gives when nothing else is asked for."""
        if self.code == _ffi.INGOT_DTYPE_F64:
            return F32
        return BF16 if self.name.startswith("F8_E") and self.merges else self


_ALL = [
    DType(_ffi.INGOT_DTYPE_F32, "F32", "float32", 32),
    DType(_ffi.INGOT_DTYPE_F16, "F16", "float16", 16),
    DType(_ffi.INGOT_DTYPE_BF16, "BF16", "bfloat16", 16),
    DType(_ffi.INGOT_DTYPE_F64, "F64", "float64", 64),
    DType(_ffi.INGOT_DTYPE_F8_E4M3, "F8_E4M3", "float8_e4m3fn", 8),
    DType(_ffi.INGOT_DTYPE_F8_E5M2, "F8_E5M2", "float8_e5m2", 8),
    DType(_ffi.INGOT_DTYPE_I64, "I64", "int64", 64),
    DType(_ffi.INGOT_DTYPE_I32, "I32", "int32", 32),
    DType(_ffi.INGOT_DTYPE_I16, "I16", "int16", 16),
    DType(_ffi.INGOT_DTYPE_I8, "I8", "int8", 8),
    DType(_ffi.INGOT_DTYPE_U64, "U64", "uint64", 64),
    DType(_ffi.INGOT_DTYPE_U32, "U32", "uint32", 32),
    DType(_ffi.INGOT_DTYPE_U16, "U16", "uint16", 16),
    DType(_ffi.INGOT_DTYPE_U8, "U8", "uint8", 8),
    DType(_ffi.INGOT_DTYPE_BOOL, "BOOL", "bool", 8),
    DType(_ffi.INGOT_DTYPE_F8_E8M0, "F8_E8M0", "float8_e8m0fnu", 8),
    DType(_ffi.INGOT_DTYPE_F4, "F4", None, 4),
    DType(_ffi.INGOT_DTYPE_F6_E2M3, "F6_E2M3", None, 6),
    DType(_ffi.INGOT_DTYPE_F6_E3M2, "F6_E3M2", None, 6),
    DType(_ffi.INGOT_DTYPE_C64, "C64", "complex64", 64),
    DType(_ffi.INGOT_DTYPE_F8_E4M3FNUZ, "F8_E4M3FNUZ", "float8_e4m3fnuz", 8),
    DType(_ffi.INGOT_DTYPE_F8_E5M2FNUZ, "F8_E5M2FNUZ", "float8_e5m2fnuz", 8),
]
BY_CODE = {dtype.code: dtype for dtype in _ALL}
BY_TORCH = {dtype.torch: dtype for dtype in _ALL if dtype.torch}
_BY_ANY = {dtype.name.lower(): dtype for dtype in _ALL} | BY_TORCH
F32 = BY_CODE[_ffi.INGOT_DTYPE_F32]
BF16 = BY_CODE[_ffi.INGOT_DTYPE_BF16]
OUTPUTS = [dtype for dtype in _ALL if dtype.code <= _ffi.INGOT_DTYPE_BF16]


def output_dtype(asked: Any) -> DType:
    """A type that a merge can give, from "bfloat16", "BF16", torch.bfloat16, numpy.float32, …"""
    if isinstance(asked, str):
        name = asked
    elif isinstance(asked, type):
        name = asked.__name__  # numpy.float32, ml_dtypes.bfloat16
    else:
        name = getattr(asked, "name", None) or str(asked)  # numpy.dtype, torch.dtype
    found = _BY_ANY.get(name.lower().removeprefix("torch."))
    if found is None or found not in OUTPUTS:
        raise DTypeError(
            f"dtype is {name!r}, expected one of {', '.join(dtype.torch or dtype.name for dtype in OUTPUTS)}",
            subject="dtype",
        )
    return found
