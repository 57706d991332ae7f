"""Checkpoints made here, where a test needs sizes that no published one has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import weights

CONFIG = {"architectures": ["SomeForCausalLM"], "model_type": "some", "tie_word_embeddings": False, "torch_dtype": "float32"}
Shapes = dict[str, tuple[int, ...]]

# The arguments of `ingot merge` for every method and for the variants that need other memory or take other steps. {0} is the base.
METHODS: dict[str, list[str]] = {
    "linear": ["-m", "linear", "{0}=0.4", "{1}=0.3", "{2}=0.3"],
    "slerp": ["-m", "slerp", "-b", "{0}", "{1}", "-p", "t=0.3"],
    "task_arithmetic": ["-m", "task_arithmetic", "-b", "{0}", "{1}=0.5", "{2}=0.3"],
    "ties": ["-m", "ties", "-b", "{0}", "{1}=0.5", "{2}=0.3", "-p", "density=0.4"],
    "ties-model": ["-m", "ties", "-b", "{0}", "{1}=0.5", "{2}=0.3", "-p", "density=0.4", "-p", "scope=model"],
    "dare_linear": ["-m", "dare_linear", "-b", "{0}", "{1}=0.5", "{2}=0.3", "-p", "density=0.4"],
    "dare_ties": ["-m", "dare_ties", "-b", "{0}", "{1}=0.5", "{2}=0.3", "-p", "density=0.4"],
    "della": ["-m", "della", "-b", "{0}", "{1}=0.5", "{2}=0.3", "-p", "density=0.4", "-p", "epsilon=0.1"],
    "della_linear": ["-m", "della_linear", "-b", "{0}", "{1}=0.5", "{2}=0.3", "-p", "density=0.4", "-p", "epsilon=0.1"],
    "breadcrumbs": ["-m", "breadcrumbs", "-b", "{0}", "{1}=0.5", "{2}=0.3", "-p", "density=0.4"],
    "breadcrumbs_ties": ["-m", "breadcrumbs_ties", "-b", "{0}", "{1}=0.5", "{2}=0.3", "-p", "density=0.4"],
    "model_stock": ["-m", "model_stock", "-b", "{0}", "{1}", "{2}"],
    "model_stock-rows": ["-m", "model_stock", "-b", "{0}", "{1}", "{2}", "-p", "filter_wise=true"],
    "multislerp": ["-m", "multislerp", "{0}=0.4", "{1}=0.3", "{2}=0.3"],
    "karcher": ["-m", "karcher", "{0}", "{1}", "{2}"],
    "nuslerp": ["-m", "nuslerp", "{0}=0.4", "{1}=0.6"],
    "nuslerp-columns": ["-m", "nuslerp", "{0}=0.4", "{1}=0.6", "-p", "nuslerp_flatten=false", "-p", "nuslerp_row_wise=true"],
    "sce": ["-m", "sce", "-b", "{0}", "{1}", "{2}", "-p", "select_topk=0.4"],
    "arcee_fusion": ["-m", "arcee_fusion", "-b", "{0}", "{1}"],
    "nearswap": ["-m", "nearswap", "-b", "{0}", "{1}", "-p", "t=0.001"],
    "ram": ["-m", "ram", "-b", "{0}", "{1}", "{2}"],
    "ramplus_tl": ["-m", "ramplus_tl", "-b", "{0}", "{1}", "{2}"],
    "passthrough": ["-m", "passthrough", "{0}"],
    "uniform_soup": ["-m", "uniform_soup", "{0}", "{1}", "{2}"],
    "metrics_weighted": ["-m", "metrics_weighted", "{0}", "{1}", "-p", "loss=2"],
    "lm_cocktail": ["-m", "lm_cocktail", "{0}", "{1}", "{2}", "-p", "loss=2"],
    "ema": ["-m", "ema", "{0}", "{1}", "{2}"],
    "swa": ["-m", "swa", "{0}", "{1}", "{2}"],
    "lawa": ["-m", "lawa", "{0}", "{1}", "{2}"],
    "wma": ["-m", "wma", "{0}", "{1}", "{2}"],
    "merge_chain": ["-m", "merge_chain", "{0}", "{1}", "{2}", "-p", "coefficient=0.5"],
    "layer_swap": ["-m", "layer_swap", "{1}", "{2}", "-p", "bottom=2"],
    "sparse_soup": ["-m", "sparse_soup", "{0}", "{1}", "{2}", "-p", "check=warn"],
    "varm": ["-m", "varm", "-b", "{0}", "{1}", "{2}"],
    "evo_merging": ["-m", "evo_merging", "{1}=0.4", "{2}=-0.3", "-p", "density=0.4"],
    "magmax": ["-m", "magmax", "-b", "{0}", "{1}", "{2}"],
    "pcb": ["-m", "pcb", "-b", "{0}", "{1}", "{2}"],
    "consensus": ["-m", "consensus", "-b", "{0}", "{1}", "{2}"],
    "consensus-ties": ["-m", "consensus", "-b", "{0}", "{1}", "{2}", "-p", "merge=ties"],
    "onebit": ["-m", "onebit", "-b", "{0}", "{1}", "{2}", "-p", "task=1"],
    "emr": ["-m", "emr", "-b", "{0}", "{1}", "{2}"],
    "widen": ["-m", "widen", "-b", "{0}", "{1}", "{2}"],
    "ties_sv": ["-m", "ties_sv", "-b", "{0}", "{1}=0.5", "{2}=0.3", "-p", "density=0.4"],
    "hi_merging": ["-m", "hi_merging", "-b", "{0}", "{1}=0.5", "{2}=0.3"],
    "mediator": ["-m", "mediator", "-b", "{0}", "{1}", "{2}"],
    "twin": ["-m", "twin", "-b", "{0}", "{1}", "{2}"],
}
# Measured elsewhere: they hold whole matrices, whose bytes the plan says, or read side files.
OTHERS = {"iso_c", "iso_cts", "tsv_m", "r_tsvm", "wudi", "optmerge", "opcm", "dop", "regmean", "fisher", "ota", "rcp", "wise", "twin_svd"}


def arguments(method: str, models: list[Path]) -> list[str]:
    return [word.format(*models) for word in METHODS[method]]


def layered(layers: int, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    return {f"model.layers.{layer}.{name}": shape for layer in range(layers) for name, shape in shapes.items()}


def floats(folder: Path, shapes: Shapes, layers: int, seed: int) -> Path:
    """A float32 model of normal values."""
    generator = np.random.default_rng(seed)
    tensors = {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    return weights.write_model(folder, tensors, {**CONFIG, "num_hidden_layers": layers})


def large(folder: Path, shapes: Shapes, layers: int, seed: int) -> Path:
    """A bfloat16 model, written from one run of a few million values so that gigabytes take seconds."""
    folder.mkdir(parents=True)
    config = {**CONFIG, "num_hidden_layers": layers, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    values = np.random.default_rng(seed).standard_normal(4_194_301, dtype=np.float32).astype(ml_dtypes.bfloat16).tobytes()
    sizes = {name: 2 * int(np.prod(shape)) for name, shape in shapes.items()}
    with (folder / "model.safetensors").open("wb") as file:
        file.write(weights.header_bytes({name: ("BF16", shape, sizes[name]) for name, shape in shapes.items()}))
        left = sum(sizes.values())
        while left > 0:
            left -= file.write(values[:left])
    return folder
