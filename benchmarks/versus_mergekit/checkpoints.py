"""Synthetic checkpoints in Llama layout: one base and N fine-tunes, sharded safetensors in bfloat16.

Every tensor of every model is drawn from its own generator, keyed by (seed, model, tensor name), so the bytes do
not depend on the number of threads or models. A fine-tune is the base plus a change whose standard deviation is
`change` of the base tensor's own, with another scale for each row: some rows of a real fine-tune move far more than
others, and after rounding to bfloat16 many of the changes are zero or equal, as they are in practice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]

FORMAT = 1  # raise it when the bytes of the same preset change: an old set is then made anew


@dataclass(frozen=True)
class Preset:
    """Sizes of a Llama-layout model; `shard_bytes` is where a new file begins."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    key_value_heads: int
    shard_bytes: int

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in the order in which they are stored."""
        head = self.hidden // self.heads
        key_value = self.key_value_heads * head
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            yield prefix + "input_layernorm.weight", (self.hidden,)
            yield prefix + "mlp.down_proj.weight", (self.hidden, self.intermediate)
            yield prefix + "mlp.gate_proj.weight", (self.intermediate, self.hidden)
            yield prefix + "mlp.up_proj.weight", (self.intermediate, self.hidden)
            yield prefix + "post_attention_layernorm.weight", (self.hidden,)
            yield prefix + "self_attn.k_proj.weight", (key_value, self.hidden)
            yield prefix + "self_attn.o_proj.weight", (self.hidden, self.heads * head)
            yield prefix + "self_attn.q_proj.weight", (self.heads * head, self.hidden)
            yield prefix + "self_attn.v_proj.weight", (key_value, self.hidden)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocabulary, self.hidden)

    def parameters(self) -> int:
        return sum(math.prod(shape) for _, shape in self.tensors())

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 2048,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.key_value_heads,
            "rms_norm_eps": 1e-05,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocabulary,
        }


PRESETS = {
    "tiny": Preset(2, 64, 176, 256, 4, 2, 200_000),
    "small": Preset(8, 512, 1536, 32000, 8, 4, 50_000_000),
    "large": Preset(22, 2048, 5632, 32000, 32, 4, 1_000_000_000),  # 1.1 billion parameters
}


def to_bfloat16(values: Floats) -> Bits:
    """Bits of the nearest bfloat16, ties to even, for finite values."""
    bits = values.view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    bits16: Bits = rounded.astype(np.uint16)
    return bits16


def generator(seed: int, model: str, name: str) -> np.random.Generator:
    """The draws of one tensor of one model."""
    digest = hashlib.sha256(f"{seed}/{model}/{name}".encode()).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(digest[:16], "little")))


def _base(seed: int, name: str, shape: Sequence[int]) -> tuple[Floats, float]:
    sigma = 0.05 if "norm" in name else 0.02
    values = generator(seed, "base", name).standard_normal(shape, dtype=np.float32)
    values *= np.float32(sigma)
    if "norm" in name:
        values += np.float32(1)
    return values, sigma


def _add_change(target: Floats, seed: int, model: str, name: str, scale: float) -> None:
    draws = generator(seed, model, name)
    change = draws.standard_normal(target.shape, dtype=np.float32)
    if change.ndim == 2:
        spread = np.exp(0.7 * draws.standard_normal((change.shape[0], 1), dtype=np.float32))
        change *= spread / np.sqrt(np.mean(spread * spread))
    change *= np.float32(scale)
    target += change


def _tensor_bits(seed: int, model: str, name: str, shape: Sequence[int], change: float) -> Bits:
    values, sigma = _base(seed, name, shape)
    if model != "base":
        _add_change(values, seed, model, name, change * sigma)
    return to_bfloat16(values)


def _shards(preset: Preset) -> list[list[tuple[str, tuple[int, ...]]]]:
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = 0
    for name, shape in preset.tensors():
        size = 2 * math.prod(shape)
        if shards[-1] and filled + size > preset.shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape))
        filled += size
    return shards


def header(tensors: Sequence[tuple[str, tuple[int, ...]]], dtype: str = "BF16", **metadata: str) -> bytes:
    """What stands before the data of a safetensors file of these tensors, BF16 or F32, in this order."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for name, shape in tensors:
        size = {"BF16": 2, "F32": 4}[dtype] * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _tokenizer(vocabulary: int) -> dict[str, object]:
    """A valid tokenizer of made-up words: tools that load one find one, and its content does not matter here."""
    words = ["<unk>", "<s>", "</s>"] + [f"w{index}" for index in range(3, vocabulary)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": words[index],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index in range(3)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"},
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_weights(directory: Path, preset: Preset, bits: Callable[[str, tuple[int, ...]], Bits], pool: ThreadPoolExecutor) -> None:
    """Shards and their index of tensors like the model's, whose bits `bits` makes from name and shape."""
    directory.mkdir(parents=True, exist_ok=True)
    shards = _shards(preset)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map.update({name: file_name for name, _ in shard})
        with open(directory / file_name, "wb", buffering=0) as file:
            write_all(file.fileno(), header(shard))
            waiting = []
            for name, shape in shard:
                waiting.append(pool.submit(bits, name, shape))
                if len(waiting) > 3:  # a few tensors ahead keep both cores busy and memory small
                    write_all(file.fileno(), waiting.pop(0).result())
            for result in waiting:
                write_all(file.fileno(), result.result())
    if len(shards) > 1:
        index = {"metadata": {"total_size": 2 * preset.parameters()}, "weight_map": weight_map}
        _write_json(directory / "model.safetensors.index.json", index)


def _write_model(root: Path, model: str, preset: Preset, seed: int, change: float, pool: ThreadPoolExecutor) -> None:
    directory = root / model
    write_weights(directory, preset, lambda name, shape: _tensor_bits(seed, model, name, shape, change), pool)
    _write_json(directory / "config.json", preset.config())
    _write_json(directory / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    _write_json(directory / "tokenizer.json", _tokenizer(preset.vocabulary))
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "model_max_length": 2048,
        },
    )


def write_all(descriptor: int, data: bytes | Bits | Floats) -> None:
    view = memoryview(data).cast("B") if isinstance(data, bytes) else data.reshape(-1).data.cast("B")
    while view:
        view = view[os.write(descriptor, view[: 1 << 30]) :]


def make(root: Path, preset_name: str, fine_tunes: int = 3, change: float = 0.05, seed: int = 1) -> Path:
    """Writes `root/PRESET/{base,ft1,…}` unless the same set is there already, and returns `root/PRESET`."""
    directory = root / preset_name
    stamp = directory / "set.json"
    wanted = {"format": FORMAT, "preset": preset_name, "fine_tunes": fine_tunes, "change": change, "seed": seed}
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
        return directory
    stamp.unlink(missing_ok=True)
    preset = PRESETS[preset_name]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for model in ["base"] + [f"ft{number}" for number in range(1, fine_tunes + 1)]:
            _write_model(directory, model, preset, seed, change, pool)
    _write_json(stamp, wanted)
    return directory


def main() -> None:
    """`checkpoints.py ROOT PRESET` prints the set's directory and the bytes of one model's weights, as JSON."""
    root, preset = sys.argv[1:3]
    directory = make(Path(root).resolve(), preset)
    print(json.dumps([str(directory), 2 * PRESETS[preset].parameters()]))


if __name__ == "__main__":
    main()
