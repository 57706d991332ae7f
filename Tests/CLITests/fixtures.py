"""Small models and recipes for the command's tests, whole and broken in every way that the command must survive.

Standard library only: safetensors is eight bytes of length, a JSON header and the tensors' bytes.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

LAYERS = 2
HIDDEN = 8
VOCABULARY = 16

Tensor = tuple[str, list[int], bytes]  # dtype, shape, bytes
Model = dict[str, Tensor]


def count(shape: list[int]) -> int:
    product = 1
    for extent in shape:
        product *= extent
    return product


def floats(shape: list[int], seed: int) -> Tensor:
    """F32 values in -1 to 1, the same for one seed everywhere."""
    state = (seed * 2654435761 + 12345) & 0xFFFFFFFF
    values = []
    for _ in range(count(shape)):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values.append(state / 2**31 - 1)
    return "F32", shape, struct.pack(f"<{len(values)}f", *values)


def llama(seed: int, layers: int = LAYERS, vocabulary: int = VOCABULARY) -> Model:
    shapes = {"model.embed_tokens.weight": [vocabulary, HIDDEN]}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = [HIDDEN]
        shapes[prefix + "mlp.down_proj.weight"] = [HIDDEN, 2 * HIDDEN]
        shapes[prefix + "self_attn.q_proj.weight"] = [HIDDEN, HIDDEN]
    shapes["model.norm.weight"] = [HIDDEN]
    shapes["lm_head.weight"] = [vocabulary, HIDDEN]
    return {name: floats(shape, seed * 100 + number) for number, (name, shape) in enumerate(shapes.items())}


def config(layers: int = LAYERS, **more: object) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        **more,
    }


def header_of(model: Model) -> tuple[dict[str, object], bytes]:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, content) in model.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    return header, data


def container(header: dict[str, object] | bytes, data: bytes, length: int | None = None) -> bytes:
    """A safetensors file of a header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def write_model(folder: Path, model: Model, **more: object) -> None:
    write_raw(folder, container(*header_of(model)), **more)


def write_raw(folder: Path, content: bytes, **more: object) -> None:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    layers = more.pop("layers", LAYERS)
    assert isinstance(layers, int)
    (folder / "config.json").write_text(json.dumps(config(layers, **more), indent=2))


def write_sharded(folder: Path, model: Model, names: list[str], present: int | None = None) -> None:
    """A model over shards of these names; only the first `present` are written."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(), indent=2))
    tensors = list(model.items())
    share = -(-len(tensors) // len(names))
    weight_map: dict[str, str] = {}
    for number, name in enumerate(names):
        part = dict(tensors[number * share : (number + 1) * share])
        weight_map |= dict.fromkeys(part, name)
        if present is None or number < present:
            (folder / name).write_bytes(container(*header_of(part)))
    index = {"metadata": {"total_size": sum(len(tensor[2]) for tensor in model.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def write_large(folder: Path, tensors: int, elements: int, start: float) -> None:
    """A model that takes a second to merge with the scalar kernels."""
    header: dict[str, object] = {}
    for number in range(tensors):
        offsets = [number * elements * 4, (number + 1) * elements * 4]
        header[f"model.layers.{number}.weight"] = {"dtype": "F32", "shape": [elements], "data_offsets": offsets}
    write_raw(folder, container(header, b""), layers=tensors)
    pattern = struct.pack("<4093f", *(start + number / 4093 for number in range(4093)))
    block = (pattern * (elements * 4 // len(pattern) + 1))[: elements * 4]
    with (folder / "model.safetensors").open("ab") as file:
        for _ in range(tensors):
            file.write(block)


def write_sparse(folder: Path, tensors: int, elements: int) -> None:
    """A model of zeros that takes no space on the disk."""
    header: dict[str, object] = {}
    for number in range(tensors):
        offsets = [number * elements * 4, (number + 1) * elements * 4]
        header[f"model.layers.{number}.weight"] = {"dtype": "F32", "shape": [elements], "data_offsets": offsets}
    write_raw(folder, container(header, b""), layers=tensors)
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + tensors * elements * 4)


def replaced(model: Model, name: str, tensor: Tensor | None) -> Model:
    """A copy with one tensor exchanged, added, or (None) removed."""
    changed = {key: value for key, value in model.items() if key != name}
    return changed if tensor is None else {**changed, name: tensor}


def write_broken(models: Path) -> None:
    whole = llama(1)
    header, data = header_of(whole)
    first, second = "model.embed_tokens.weight", "lm_head.weight"

    def edited(name: str, offsets: list[int]) -> dict[str, object]:
        entry = {"dtype": "F32", "shape": whole[name][1], "data_offsets": offsets}
        return {**header, name: entry}

    write_sharded(models / "missing-shard", whole, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], 1)
    write_sharded(models / "traversal", whole, ["../base/model.safetensors"], 0)
    write_raw(models / "truncated", container(header, data[:-100]))
    write_raw(models / "long-header", container(header, data, length=1 << 40))
    write_raw(models / "empty-file", b"")
    write_raw(models / "not-json", container(b"{broken", data))
    write_raw(models / "overlapping", container(edited(second, [0, 512]), data))
    write_raw(models / "out-of-range", container(edited(second, [len(data), len(data) + 512]), data))
    text = json.dumps(header, separators=(",", ":"))
    entry = json.dumps(header[first], separators=(",", ":"))
    write_raw(models / "duplicate", container((text[:-1] + f',"{first}":{entry}}}').encode(), data))
    write_model(models / "other-shape", replaced(whole, "model.layers.0.self_attn.q_proj.weight", floats([HIDDEN, 4], 7)))
    write_model(models / "lacking", replaced(whole, "model.norm.weight", None))
    write_model(models / "quantised", whole, quantization_config={"quant_method": "gptq", "bits": 4})
    scale = "model.layers.0.self_attn.q_proj.weight_scale_inv"
    write_model(models / "quantised-names", {**whole, scale: floats([1, 1], 9)})
    hole = bytearray(whole[second][2])
    hole[0:4] = struct.pack("<f", float("nan"))
    hole[8:12] = struct.pack("<f", float("inf"))
    write_model(models / "nonfinite", replaced(whole, second, ("F32", whole[second][1], bytes(hole))))
    (models / "pickled").mkdir()
    (models / "pickled" / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    (models / "bare").mkdir()
    escape = "model.layers.0.\x1b[2J\u202eevil.weight"
    write_model(models / "escapes", {**whole, escape: floats([2], 3)})


def write_adapter(folder: Path, seed: int, rank: int, **more: object) -> None:
    """A PEFT adapter of two modules of llama()."""
    model: Model = {}
    for number, (module, outputs, inputs) in enumerate([("self_attn.q_proj", HIDDEN, HIDDEN), ("mlp.down_proj", HIDDEN, 2 * HIDDEN)]):
        name = f"base_model.model.model.layers.0.{module}"
        model[f"{name}.lora_A.weight"] = floats([rank, inputs], seed * 10 + number)
        model[f"{name}.lora_B.weight"] = floats([outputs, rank], seed * 10 + number + 5)
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(container(*header_of(model)))
    content = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"], **more}
    (folder / "adapter_config.json").write_text(json.dumps(content))


def write_hub(root: Path) -> None:
    """A Hugging Face cache with one model."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = root / "models--tiny--llama"
    write_model(repository / "snapshots" / commit, llama(1))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)


def recipe(method: str, models: list[str], base: str | None = None, parameters: str = "", **more: object) -> str:
    lines = [f"merge_method: {method}"]
    if base:
        lines.append(f"base_model: {base}")
    lines.append("models:")
    for model in models:
        lines.append(f"  - model: {model}")
        if parameters:
            lines += ["    parameters:", f"      {parameters}"]
    lines += [f"{key}: {value}" for key, value in more.items()]
    return "\n".join(lines) + "\n"


def write_recipes(folder: Path) -> None:
    folder.mkdir()
    half = "weight: 0.5"
    (folder / "linear.yml").write_text(recipe("linear", ["models/a", "models/b"], parameters=half, dtype="float32"))
    (folder / "ties.yml").write_text(recipe("ties", ["models/a", "models/b"], "models/base", half, dtype="bfloat16"))
    for broken in [
        "missing-shard", "traversal", "truncated", "long-header", "empty-file", "not-json", "overlapping", "out-of-range", "duplicate",
        "other-shape", "lacking", "quantised", "quantised-names", "nonfinite", "pickled", "bare", "absent", "escapes",
    ]:  # fmt: skip
        (folder / f"{broken}.yml").write_text(recipe("linear", ["models/base", f"models/{broken}"], parameters=half, dtype="float32"))


def write_all(root: Path) -> None:
    models = root / "models"
    for name, seed in [("base", 1), ("a", 2), ("b", 3)]:
        write_model(models / name, llama(seed))
    write_sharded(models / "sharded", llama(2), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
    write_model(models / "wide", {"w": floats([256, 512], 5)}, layers=1)
    write_model(models / "wide-tuned", {"w": floats([256, 512], 6)}, layers=1)
    write_model(models / "a=0.5", llama(4))
    write_large(models / "large", 64, 1 << 19, 0.25)
    write_large(models / "large-tuned", 64, 1 << 19, -0.5)
    write_sparse(models / "huge", 1, 1 << 41)
    for name, seed, rank in [("lora-a", 1, 2), ("lora-b", 2, 2), ("lora-c", 3, 3)]:
        write_adapter(models / name, seed, rank)
    write_adapter(models / "loha", 1, 2, peft_type="LOHA")
    write_broken(models)
    write_hub(root / "hub")
    write_recipes(root / "recipes")
