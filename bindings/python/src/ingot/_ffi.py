"""The constants, structures and function types of include/ingot/ingot.h in ctypes, name by name, and nothing else. A test parses
the header and compares. Its functions are in _prototypes.

Structures and function types bear their C names. Handles are pointers to structures without fields, so that ctypes
refuses one kind in place of another.
"""

from __future__ import annotations

from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_int32,
    c_int64,
    c_uint32,
    c_uint64,
    c_void_p,
    sizeof,
)
from typing import Any

# The version of the header these prototypes are of. Until ABI 1 the minor version counts too.
INGOT_VERSION_MAJOR = 0
INGOT_VERSION_MINOR = 1
INGOT_VERSION_PATCH = 0
INGOT_ABI_VERSION = 0

INGOT_OK = 0
INGOT_E_INVALID_ARGUMENT = -1
INGOT_E_RECIPE = -2
INGOT_E_NOT_FOUND = -3
INGOT_E_IO = -4
INGOT_E_FORMAT = -5
INGOT_E_SHAPE = -6
INGOT_E_DTYPE = -7
INGOT_E_MEMORY = -8
INGOT_E_CANCELLED = -9
INGOT_E_CALLBACK = -10
INGOT_E_UNSUPPORTED = -11
INGOT_E_EXISTS = -12
INGOT_E_NO_SPACE = -13
INGOT_E_NONFINITE = -14
INGOT_E_BUSY = -15
INGOT_E_STALE = -16
INGOT_E_OUTPUT = -17
INGOT_E_INTERNAL = -99

INGOT_TEAM_AUTO = 0
INGOT_TEAM_OPENMP = 1
INGOT_TEAM_PTHREAD = 2

INGOT_LOG_DEFAULT = 0
INGOT_LOG_WARNING = 1
INGOT_LOG_INFO = 2

INGOT_DTYPE_F32 = 1
INGOT_DTYPE_F16 = 2
INGOT_DTYPE_BF16 = 3
INGOT_DTYPE_F64 = 4
INGOT_DTYPE_F8_E4M3 = 5
INGOT_DTYPE_F8_E5M2 = 6
INGOT_DTYPE_I64 = 10
INGOT_DTYPE_I32 = 11
INGOT_DTYPE_I16 = 12
INGOT_DTYPE_I8 = 13
INGOT_DTYPE_U64 = 14
INGOT_DTYPE_U32 = 15
INGOT_DTYPE_U16 = 16
INGOT_DTYPE_U8 = 17
INGOT_DTYPE_BOOL = 18
INGOT_DTYPE_F8_E8M0 = 20
INGOT_DTYPE_F4 = 21
INGOT_DTYPE_F6_E2M3 = 22
INGOT_DTYPE_F6_E3M2 = 23
INGOT_DTYPE_C64 = 24
INGOT_DTYPE_F8_E4M3FNUZ = 25
INGOT_DTYPE_F8_E5M2FNUZ = 26

INGOT_RANK_MAX = 32
INGOT_TENSOR_READ_ONLY = 1
INGOT_RECIPE_STRICT = 1
INGOT_PLAN_SEED = 1
INGOT_PLAN_NO_FILES = 2
INGOT_NUMERICS_OF_RECIPE = 0
INGOT_NUMERICS_ONCE = 1
INGOT_NUMERICS_STEPWISE = 2
INGOT_MISSING_OF_RECIPE = 0
INGOT_MISSING_ERROR = 1
INGOT_MISSING_INTERSECTION = 2
INGOT_MISSING_UNION = 3
INGOT_SHARD_SIZE_UNLIMITED = 2**64 - 1
INGOT_RUN_RESUME = 1
INGOT_RUN_OVERWRITE = 2
INGOT_RUN_ALLOW_NONFINITE = 4
INGOT_RUN_CACHED_WRITES = 8
INGOT_RUN_CHECK_FINITE = 16
INGOT_RUN_TENSORS_ONLY = 32
INGOT_RUN_CACHED_READS = 64
INGOT_SYNC_ALL = 0
INGOT_SYNC_NONE = 1
INGOT_SIDE_OF_BASE = 2**64 - 1
INGOT_AIM_OMEGA = 1
INGOT_MERGE_ALLOW_NONFINITE = 1


class _Extensible(Structure):
    """What every extensible structure begins with. One that is made here has the size it has here."""

    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
    ]

    def __init__(self, **fields: Any) -> None:
        super().__init__(**{"struct_size": sizeof(self), **fields})


class ingot_error(Structure):
    pass


class ingot_context(Structure):
    pass


class ingot_model(Structure):
    pass


class ingot_recipe(Structure):
    pass


class ingot_plan(Structure):
    pass


class DLManagedTensor(Structure):
    pass


class DLManagedTensorVersioned(Structure):
    pass


ingot_error_out = POINTER(POINTER(ingot_error))

ingot_log_fn = CFUNCTYPE(None, c_void_p, c_int32, c_char_p, c_char_p)


class ingot_context_options(_Extensible):
    _fields_ = [
        ("threads", c_int32),
        ("team", c_int32),
        ("memory_budget_bytes", c_uint64),
        ("isa", c_char_p),
        ("log", ingot_log_fn),
        ("log_user", c_void_p),
        ("log_level", c_int32),
        ("reserved", c_int32),
    ]


class ingot_tensor_view(_Extensible):
    _fields_ = [
        ("name", c_char_p),
        ("dtype", c_int32),
        ("rank", c_int32),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("data", c_void_p),
        ("byte_count", c_uint64),
    ]


class ingot_model_options(_Extensible):
    _fields_ = [
        ("config_json", c_char_p),
    ]


class ingot_source(_Extensible):
    _fields_ = [
        ("user", c_void_p),
        ("size", CFUNCTYPE(c_int32, c_void_p, POINTER(c_uint64))),
        ("read_at", CFUNCTYPE(c_int32, c_void_p, c_uint64, c_void_p, c_uint64)),
        ("map", CFUNCTYPE(c_void_p, c_void_p, c_uint64, c_uint64)),
        ("release", CFUNCTYPE(None, c_void_p)),
    ]


ingot_name_fn = CFUNCTYPE(c_int32, c_void_p, c_char_p)


class ingot_resolver(_Extensible):
    _fields_ = [
        ("user", c_void_p),
        ("open", CFUNCTYPE(c_int32, c_void_p, c_char_p, c_char_p, POINTER(ingot_source))),
        ("list", CFUNCTYPE(c_int32, c_void_p, c_char_p, ingot_name_fn, c_void_p)),
        ("release", CFUNCTYPE(None, c_void_p)),
    ]


class ingot_recipe_options(_Extensible):
    _fields_ = []


class ingot_plan_options(_Extensible):
    _fields_ = [
        ("shard_size_bytes", c_uint64),
        ("seed", c_uint64),
        ("models", POINTER(POINTER(ingot_model))),
        ("model_count", c_uint64),
        ("resolver", POINTER(ingot_resolver)),
        ("numerics", c_uint32),
        ("missing", c_uint32),
    ]


class ingot_progress(_Extensible):
    _fields_ = [
        ("bytes_done", c_uint64),
        ("bytes_total", c_uint64),
        ("tensors_done", c_uint64),
        ("tensors_total", c_uint64),
        ("tensor", c_char_p),
        ("elapsed_ns", c_uint64),
    ]


ingot_progress_fn = CFUNCTYPE(c_int32, c_void_p, POINTER(ingot_progress))


class ingot_run_options(_Extensible):
    _fields_ = [
        ("progress", ingot_progress_fn),
        ("progress_user", c_void_p),
        ("progress_interval_ms", c_uint32),
        ("sync", c_uint32),
        ("cancel", POINTER(c_int32)),
    ]


class ingot_sink(_Extensible):
    _fields_ = [
        ("user", c_void_p),
        ("reserve", CFUNCTYPE(c_int32, c_void_p, c_char_p, c_uint64)),
        ("write_at", CFUNCTYPE(c_int32, c_void_p, c_char_p, c_uint64, c_void_p, c_uint64)),
        ("commit", CFUNCTYPE(c_int32, c_void_p)),
        ("release", CFUNCTYPE(None, c_void_p)),
    ]


class ingot_side_input(_Extensible):
    _fields_ = [
        ("name", c_char_p),
        ("input", c_uint64),
        ("tensor", POINTER(ingot_tensor_view)),
    ]


class ingot_aim(_Extensible):
    _fields_ = [
        ("norms", POINTER(ingot_tensor_view)),
        ("base", POINTER(ingot_tensor_view)),
        ("omega", c_double),
    ]


class ingot_merge_options(_Extensible):
    _fields_ = [
        ("seed", c_uint64),
        ("cancel", POINTER(c_int32)),
        ("sides", POINTER(POINTER(ingot_side_input))),
        ("side_count", c_uint64),
        ("aim", POINTER(ingot_aim)),
    ]


class ingot_delta_options(_Extensible):
    _fields_ = [
        ("task", c_char_p),
        ("scale", c_double),
        ("shard_size_bytes", c_uint64),
    ]
