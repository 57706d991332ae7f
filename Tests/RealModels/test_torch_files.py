"""Files that torch.save wrote, in both of its formats, are read as the tensors that were saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, write_recipe

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch")

FORMATS = {"zip": True, "legacy": False}
PASSTHROUGH = {"merge_method": "passthrough"}


def save(value: object, path: Path, *, archive: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path, _use_new_zipfile_serialization=archive)


def state_dict() -> dict[str, Any]:
    """Every dtype and every way for a tensor to lie in its storage."""
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator)

    wide = random(300, 700)
    deep = random(6, 5, 4, 3)
    return {
        "plain": random(17, 33),
        "bf16": random(9, 5).bfloat16(),
        "f16": random(9, 5).half(),
        "f64": random(3, 3).double(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(random(8, 8).bfloat16()),
        "rows": wide[10:20],
        "columns": wide[:, 5:25],
        "stepped": wide[::3, ::7],
        "transposed": wide.t(),
        "transposed16": wide.bfloat16().t(),
        "permuted": deep.permute(3, 1, 0, 2),
        "permuted_slice": deep.permute(2, 0, 3, 1)[1:, ::2],
        "expanded": random(1, 40).expand(30, 40),
        "large": random(1500, 1100).t(),
        "int64": torch.arange(20).reshape(4, 5),
        "bool": torch.tensor([True, False, True]),
        "uint8": torch.arange(7, dtype=torch.uint8),
    }


def expected_copy(tensor: Any) -> Any:
    return tensor.detach().contiguous()


def passthrough(ingot: Command, folder: Path, model: Path, **more: object) -> dict[str, Any]:
    out = folder / "out"
    ingot.merge(write_recipe(folder / "r.yml", **PASSTHROUGH, models=[{"model": str(model)}], **more), out, "--force")
    tensors: dict[str, Any] = {}
    for path in sorted(out.glob("*.safetensors")):
        tensors |= safetensors_torch.load_file(path)
    return tensors


@pytest.mark.parametrize("archive", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_every_layout(ingot: Command, folder: Path, archive: bool, name: str) -> None:
    wanted = state_dict()
    save(wanted, folder / "model" / name, archive=archive)
    found = passthrough(ingot, folder, folder / "model")
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], expected_copy(tensor)), key


@pytest.mark.parametrize("archive", FORMATS.values(), ids=FORMATS)
def test_merge_of_strided_tensors_does_not_depend_on_threads(ingot: Command, folder: Path, archive: bool) -> None:
    save({"w": torch.randn(1300, 900).t()}, folder / "a" / "pytorch_model.bin", archive=archive)
    safetensors_torch.save_file({"w": torch.randn(900, 1300)}, folder / "b.safetensors")
    models = [{"model": str(folder / name), "parameters": {"weight": 0.5}} for name in ("a", "b.safetensors")]
    recipe = write_recipe(folder / "r.yml", merge_method="linear", models=models)
    outputs = []
    for threads in (1, 2, 5):
        ingot.merge(recipe, folder / f"out{threads}", "--threads", threads)
        outputs.append((folder / f"out{threads}" / "model.safetensors").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
    a = torch.load(folder / "a" / "pytorch_model.bin")["w"]
    b = safetensors_torch.load_file(folder / "b.safetensors")["w"]
    merged = safetensors_torch.load_file(folder / "out1" / "model.safetensors")["w"]
    assert torch.allclose(merged, (a + b) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize("archive", FORMATS.values(), ids=FORMATS)
def test_module_state_dict_and_training_checkpoint(ingot: Command, folder: Path, archive: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    checkpoint = {
        "state_dict": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "loss": 0.5, "name": "x",
        "betas": (0.9, 0.999), "extra": [1, None, True, {"deep": [2.5]}],
    }  # fmt: skip
    save(checkpoint, folder / "model" / "model.pt", archive=archive)
    out = folder / "out"
    recipe = write_recipe(folder / "r.yml", **PASSTHROUGH, models=[{"model": str(folder / "model")}])
    done = ingot("merge", recipe, out)
    assert 'taken from "state_dict"' in done.stderr
    found = safetensors_torch.load_file(out / "model.safetensors")
    for key, tensor in module.state_dict().items():
        assert torch.equal(found[key], tensor), key
    assert len(found) == len(module.state_dict())


def test_shards_and_tied_head(ingot: Command, folder: Path) -> None:
    embedding = torch.randn(11, 4)
    shards = {
        "pytorch_model-00001-of-00002.bin": {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding},
        "pytorch_model-00002-of-00002.bin": {"model.norm.weight": torch.randn(4)},
    }
    for name, tensors in shards.items():
        save(tensors, folder / "a" / name, archive=True)
    places = {key: name for name, tensors in shards.items() for key in tensors}
    (folder / "a" / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    # Not tied by a config: both are written. Tied: as safetensors hold them.
    assert passthrough(ingot, folder, folder / "a").keys() == places.keys()
    (folder / "a" / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    found = passthrough(ingot, folder, folder / "a")
    assert found.keys() == {"model.embed_tokens.weight", "model.norm.weight"}
    assert torch.equal(found["model.embed_tokens.weight"], embedding)


def test_float8_and_unsigned(ingot: Command, folder: Path) -> None:
    wanted = {"w": torch.randn(64, 8).to(torch.float8_e4m3fn), "u": torch.tensor([1, 2, 65535]).to(torch.uint16)}
    save(wanted, folder / "model" / "model.pt", archive=True)
    found = passthrough(ingot, folder, folder / "model")
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key].view(torch.uint8), tensor.view(torch.uint8))


class Malicious:
    """Runs a command when Python unpickles it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("archive", FORMATS.values(), ids=FORMATS)
def test_nothing_is_executed(ingot: Command, folder: Path, archive: bool) -> None:
    marker = folder / "executed"
    save({"w": torch.zeros(2), "x": Malicious(marker)}, folder / "model" / "model.pt", archive=archive)
    done = ingot("inspect", folder / "model", exit_code=None)
    assert done.returncode != 0
    assert "posix.system" in done.stderr
    assert "at byte" in done.stderr
    assert not marker.exists()


def test_compressed_and_truncated(ingot: Command, folder: Path) -> None:
    import zipfile

    save({"w": torch.zeros(200)}, folder / "m.pt", archive=True)
    data = (folder / "m.pt").read_bytes()
    (folder / "cut.pt").write_bytes(data[: len(data) // 2])
    with zipfile.ZipFile(folder / "m.pt") as source, zipfile.ZipFile(folder / "packed.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert "compressed" in ingot("inspect", folder / "packed.pt", exit_code=None).stderr
    assert "cut short" in ingot("inspect", folder / "cut.pt", exit_code=None).stderr
