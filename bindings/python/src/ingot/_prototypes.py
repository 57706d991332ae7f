"""The functions of include/ingot/ingot.h in ctypes. A test parses the header and compares."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int32, c_uint32, c_uint64
from typing import Any

from ._ffi import (
    DLManagedTensor,
    DLManagedTensorVersioned,
    ingot_context,
    ingot_context_options,
    ingot_delta_options,
    ingot_error,
    ingot_error_out,
    ingot_merge_options,
    ingot_model,
    ingot_model_options,
    ingot_plan,
    ingot_plan_options,
    ingot_recipe,
    ingot_recipe_options,
    ingot_run_options,
    ingot_sink,
    ingot_tensor_view,
)

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
    "ingot_rolling_step": (
        c_int32,
        [
            POINTER(ingot_context),
            c_char_p,
            c_char_p,
            c_char_p,
            c_char_p,
            c_char_p,
            POINTER(c_char_p),
            POINTER(ingot_run_options),
            ingot_error_out,
        ],
    ),
    "ingot_rolling_finish": (
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
    "ingot_lora_merge": (
        c_int32,
        [
            POINTER(ingot_context),
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
    "ingot_lora_extract": (
        c_int32,
        [
            POINTER(ingot_context),
            c_char_p,
            c_char_p,
            c_char_p,
            c_char_p,
            POINTER(c_char_p),
            POINTER(ingot_run_options),
            ingot_error_out,
        ],
    ),
    "ingot_lora_resize": (
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
    "ingot_lora_inspect": (c_int32, [c_char_p, POINTER(c_char_p), c_uint64, POINTER(c_char_p), ingot_error_out]),
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
