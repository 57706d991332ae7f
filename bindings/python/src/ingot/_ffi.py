"""include/ingot/ingot.h in ctypes, name by name, and nothing else. A test parses the header and compares.

Structures and function types bear their C names. Handles are pointers to structures without fields, so that ctypes
refuses one kind in place of another.
"""

from __future__ import annotations

import ctypes
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
INGOT_SYNC_ALL = 0
INGOT_SYNC_NONE = 1
INGOT_SIDE_OF_BASE = 2**64 - 1
INGOT_AIM_OMEGA = 1
INGOT_MERGE_ALLOW_NONFINITE = 1


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


class ingot_context_options(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("threads", c_int32),
        ("team", c_int32),
        ("memory_budget_bytes", c_uint64),
        ("isa", c_char_p),
        ("log", ingot_log_fn),
        ("log_user", c_void_p),
        ("log_level", c_int32),
        ("reserved", c_int32),
    ]


class ingot_tensor_view(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("name", c_char_p),
        ("dtype", c_int32),
        ("rank", c_int32),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("data", c_void_p),
        ("byte_count", c_uint64),
    ]


class ingot_model_options(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("config_json", c_char_p),
    ]


class ingot_source(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("user", c_void_p),
        ("size", CFUNCTYPE(c_int32, c_void_p, POINTER(c_uint64))),
        ("read_at", CFUNCTYPE(c_int32, c_void_p, c_uint64, c_void_p, c_uint64)),
        ("map", CFUNCTYPE(c_void_p, c_void_p, c_uint64, c_uint64)),
        ("release", CFUNCTYPE(None, c_void_p)),
    ]


ingot_name_fn = CFUNCTYPE(c_int32, c_void_p, c_char_p)


class ingot_resolver(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("user", c_void_p),
        ("open", CFUNCTYPE(c_int32, c_void_p, c_char_p, c_char_p, POINTER(ingot_source))),
        ("list", CFUNCTYPE(c_int32, c_void_p, c_char_p, ingot_name_fn, c_void_p)),
        ("release", CFUNCTYPE(None, c_void_p)),
    ]


class ingot_recipe_options(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
    ]


class ingot_plan_options(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("shard_size_bytes", c_uint64),
        ("seed", c_uint64),
        ("models", POINTER(POINTER(ingot_model))),
        ("model_count", c_uint64),
        ("resolver", POINTER(ingot_resolver)),
        ("numerics", c_uint32),
        ("missing", c_uint32),
    ]


class ingot_progress(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("bytes_done", c_uint64),
        ("bytes_total", c_uint64),
        ("tensors_done", c_uint64),
        ("tensors_total", c_uint64),
        ("tensor", c_char_p),
        ("elapsed_ns", c_uint64),
    ]


ingot_progress_fn = CFUNCTYPE(c_int32, c_void_p, POINTER(ingot_progress))


class ingot_run_options(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("progress", ingot_progress_fn),
        ("progress_user", c_void_p),
        ("progress_interval_ms", c_uint32),
        ("sync", c_uint32),
        ("cancel", POINTER(c_int32)),
    ]


class ingot_sink(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("user", c_void_p),
        ("reserve", CFUNCTYPE(c_int32, c_void_p, c_char_p, c_uint64)),
        ("write_at", CFUNCTYPE(c_int32, c_void_p, c_char_p, c_uint64, c_void_p, c_uint64)),
        ("commit", CFUNCTYPE(c_int32, c_void_p)),
        ("release", CFUNCTYPE(None, c_void_p)),
    ]


class ingot_side_input(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("name", c_char_p),
        ("input", c_uint64),
        ("tensor", POINTER(ingot_tensor_view)),
    ]


class ingot_aim(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("norms", POINTER(ingot_tensor_view)),
        ("base", POINTER(ingot_tensor_view)),
        ("omega", c_double),
    ]


class ingot_merge_options(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("seed", c_uint64),
        ("cancel", POINTER(c_int32)),
        ("sides", POINTER(POINTER(ingot_side_input))),
        ("side_count", c_uint64),
        ("aim", POINTER(ingot_aim)),
    ]


class ingot_delta_options(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("task", c_char_p),
        ("scale", c_double),
        ("shard_size_bytes", c_uint64),
    ]


_views = POINTER(POINTER(ingot_tensor_view))
_delta_plan: list[Any] = [
    POINTER(ingot_context),
    c_char_p,
    c_char_p,
    POINTER(POINTER(ingot_plan)),
    POINTER(ingot_delta_options),
    ingot_error_out,
]

# Name → result, parameters; `char *` that the caller releases is c_char_p like `const char *`: the pointer stays in it.
PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "ingot_version_number": (c_uint32, []),
    "ingot_version_string": (c_char_p, []),
    "ingot_abi_version": (c_uint32, []),
    "ingot_build_info_json": (c_char_p, []),
    "ingot_status_name": (c_char_p, [c_int32]),
    "ingot_error_status": (c_int32, [POINTER(ingot_error)]),
    "ingot_error_message": (c_char_p, [POINTER(ingot_error)]),
    "ingot_error_hint": (c_char_p, [POINTER(ingot_error)]),
    "ingot_error_subject": (c_char_p, [POINTER(ingot_error)]),
    "ingot_error_origin": (c_char_p, [POINTER(ingot_error)]),
    "ingot_error_position": (c_int32, [POINTER(ingot_error), POINTER(c_int32), POINTER(c_int32)]),
    "ingot_error_user_code": (c_int32, [POINTER(ingot_error)]),
    "ingot_error_json": (c_char_p, [POINTER(ingot_error)]),
    "ingot_error_destroy": (None, [POINTER(ingot_error)]),
    "ingot_string_destroy": (None, [c_char_p]),
    "ingot_isa_count": (c_uint32, []),
    "ingot_isa_name": (c_char_p, [c_uint32]),
    "ingot_methods_json": (c_char_p, []),
    "ingot_context_create": (c_int32, [POINTER(POINTER(ingot_context)), POINTER(ingot_context_options), ingot_error_out]),
    "ingot_context_json": (c_char_p, [POINTER(ingot_context)]),
    "ingot_context_destroy": (None, [POINTER(ingot_context)]),
    "ingot_dtype_name": (c_char_p, [c_int32]),
    "ingot_dtype_bits": (c_uint32, [c_int32]),
    "ingot_tensor_view_from_dlpack": (c_int32, [POINTER(DLManagedTensor), POINTER(ingot_tensor_view), ingot_error_out]),
    "ingot_tensor_view_from_dlpack_versioned": (
        c_int32,
        [POINTER(DLManagedTensorVersioned), POINTER(ingot_tensor_view), ingot_error_out],
    ),
    "ingot_model_create": (
        c_int32,
        [c_char_p, _views, c_uint64, POINTER(POINTER(ingot_model)), POINTER(ingot_model_options), ingot_error_out],
    ),
    "ingot_model_name": (c_char_p, [POINTER(ingot_model)]),
    "ingot_model_destroy": (None, [POINTER(ingot_model)]),
    "ingot_recipe_parse": (
        c_int32,
        [c_char_p, c_uint64, c_char_p, POINTER(POINTER(ingot_recipe)), POINTER(ingot_recipe_options), ingot_error_out],
    ),
    "ingot_recipe_notices_json": (c_char_p, [POINTER(ingot_recipe)]),
    "ingot_recipe_method": (c_char_p, [POINTER(ingot_recipe)]),
    "ingot_recipe_model_count": (c_uint64, [POINTER(ingot_recipe)]),
    "ingot_recipe_model": (c_char_p, [POINTER(ingot_recipe), c_uint64]),
    "ingot_recipe_destroy": (None, [POINTER(ingot_recipe)]),
    "ingot_plan_create": (
        c_int32,
        [
            POINTER(ingot_context),
            POINTER(ingot_recipe),
            POINTER(POINTER(ingot_plan)),
            POINTER(ingot_plan_options),
            ingot_error_out,
        ],
    ),
    "ingot_plan_json": (c_char_p, [POINTER(ingot_plan)]),
    "ingot_plan_table": (c_char_p, [POINTER(ingot_plan)]),
    "ingot_plan_digest": (c_char_p, [POINTER(ingot_plan)]),
    "ingot_plan_tensor_count": (c_uint64, [POINTER(ingot_plan)]),
    "ingot_plan_tensor": (c_int32, [POINTER(ingot_plan), c_uint64, POINTER(ingot_tensor_view), ingot_error_out]),
    "ingot_plan_destroy": (None, [POINTER(ingot_plan)]),
    "ingot_plan_run_to_directory": (
        c_int32,
        [
            POINTER(ingot_context),
            POINTER(ingot_plan),
            c_char_p,
            POINTER(c_char_p),
            POINTER(ingot_run_options),
            ingot_error_out,
        ],
    ),
    "ingot_plan_run_to_sink": (
        c_int32,
        [
            POINTER(ingot_context),
            POINTER(ingot_plan),
            POINTER(ingot_sink),
            POINTER(c_char_p),
            POINTER(ingot_run_options),
            ingot_error_out,
        ],
    ),
    "ingot_plan_run_to_tensors": (
        c_int32,
        [
            POINTER(ingot_context),
            POINTER(ingot_plan),
            _views,
            c_uint64,
            POINTER(c_char_p),
            POINTER(ingot_run_options),
            ingot_error_out,
        ],
    ),
    "ingot_merge_tensors": (
        c_int32,
        [
            POINTER(ingot_context),
            c_char_p,
            c_char_p,
            POINTER(ingot_tensor_view),
            _views,
            c_uint64,
            POINTER(ingot_tensor_view),
            POINTER(ingot_merge_options),
            ingot_error_out,
        ],
    ),
    "ingot_checkpoint_inspect": (c_int32, [c_char_p, POINTER(c_char_p), ingot_error_out]),
    "ingot_checkpoint_compare": (
        c_int32,
        [
            POINTER(ingot_context),
            c_char_p,
            c_char_p,
            c_char_p,
            POINTER(c_char_p),
            POINTER(ingot_run_options),
            ingot_error_out,
        ],
    ),
    "ingot_delta_pack": (
        c_int32,
        [
            POINTER(ingot_context),
            c_char_p,
            c_char_p,
            c_char_p,
            POINTER(c_char_p),
            c_uint64,
            c_char_p,
            POINTER(c_char_p),
            POINTER(ingot_run_options),
            ingot_error_out,
        ],
    ),
    "ingot_delta_inspect": (c_int32, [c_char_p, POINTER(c_char_p), ingot_error_out]),
    "ingot_delta_plan_apply": (c_int32, _delta_plan),
    "ingot_delta_plan_unpack": (c_int32, _delta_plan),
    "ingot_directory_verify": (
        c_int32,
        [POINTER(ingot_context), c_char_p, POINTER(c_char_p), POINTER(ingot_run_options), ingot_error_out],
    ),
}


def declare(library: ctypes.CDLL) -> None:
    """Sets result and parameter types of every function; AttributeError names one that the library lacks."""
    for name, (result, parameters) in PROTOTYPES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = parameters
