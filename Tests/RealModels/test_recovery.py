"""A merge may be killed at any moment, interrupted, or run twice at once: nothing is lost, and OUT is whole or not there."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import preload
import pytest
import synthetic
import weights
from conftest import Command, Record
from preload import Preload

LAYERS = 6
SHAPES = synthetic.layered(LAYERS, {"mlp": (512, 300), "attention": (256, 256), "norm": (256,), "long": (400_001,)})
KILLS = int(os.environ.get("INGOT_TEST_KILLS", "25"))
# Slow enough to be hit in the middle, and all that a method can have: rounds, masks, draws, sharded output.
SLOW = ["--isa", "scalar", "--threads", "1", "--shard-size", "3MB", "--sync", "none"]
# What may be different from run to run without a different result.
SETTINGS = [[], ["--threads", "1", "--isa", "scalar"], ["--threads", "2", "--memory", "32MiB"], ["--sync", "all"]]
METHODS = ["linear", "ties", "della", "ties-model", "passthrough"]

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def models(session_folder: Path) -> list[Path]:
    return [synthetic.floats(session_folder / f"recovery-{name}", SHAPES, LAYERS, seed) for seed, name in enumerate(["base", "a", "b"])]


@pytest.fixture(scope="module")
def whole(ingot: Command, models: list[Path], session_folder: Path) -> Callable[[str], Files]:
    """The files of an uninterrupted merge."""
    known: dict[str, Files] = {}

    def files(method: str) -> Files:
        if method not in known:
            out = session_folder / f"whole-{method}"
            ingot("merge", *synthetic.arguments(method, models), "-o", out, *SLOW)
            known[method] = weights.output_files(out)
            assert len(weights.files_of(out)) > 3
        return known[method]

    return files


def journalled(partial: Path) -> set[int]:
    """The tensors that an interrupted run noted as finished: complete lines only. While it publishes, the journal lies beside."""
    inside, beside = partial / ".ingot-journal", partial.with_name(partial.name + ".journal")
    journal = inside if inside.exists() or not partial.exists() else beside
    if not journal.exists():
        return set()
    text = journal.read_bytes().decode("ascii", "replace")
    return {int(number) for number in re.findall(r"^tensor (\d+) [0-9a-f]{32}\n", text, re.M)}


def wait_for_lines(process: subprocess.Popen[str], journal: Path, lines: int) -> bool:
    """Until that many tensors are finished; false when the process ended first."""
    while process.poll() is None:
        try:
            if journal.read_bytes().count(b"\n") >= lines + 2:
                return True
        except FileNotFoundError:
            pass
        time.sleep(0.001)
    return False


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


def assert_absent_or_whole(out: Path, expected: Files) -> bool:
    """True when OUT is there; then with every byte."""
    if not out.exists():
        return False
    assert weights.output_files(out) == expected
    return True


def assert_nothing_left_beside(out: Path) -> None:
    assert [path.name for path in out.parent.iterdir() if path.name.startswith((f"{out.name}.", f".{out.name}"))] == []


def resume(ingot: Command, method: str, models: list[Path], out: Path, settings: list[str]) -> Record:
    """Goes on, under other settings than before, and checks that only what was missing was made again."""
    finished = journalled(out.with_name(out.name + ".partial"))
    ingot("merge", "--resume", *synthetic.arguments(method, models), "-o", out, "--shard-size", "3MB", "--sync", "none", *settings)
    record = Record(out)
    sizes = list(record.bytes.values())
    assert record.run["resumed_tensors"] == len(finished)
    assert record.run["bytes_written"] == sum(size for number, size in enumerate(sizes) if number not in finished)
    return record


@pytest.fixture(scope="module")
def kills() -> Iterator[list[tuple[int, int]]]:
    """For each kill at random: how many tensors the journal had, and how many there are."""
    seen: list[tuple[int, int]] = []
    yield seen
    between = sum(1 for done, count in seen if 0 < done < count)
    print(f"\n{len(seen)} kills, {between} of them between the first and the last tensor of the journal")


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_at_random(
    ingot: Command, models: list[Path], whole: Callable[[str], Files], folder: Path, kills: list[tuple[int, int]], number: int
) -> None:
    choices = random.Random(number)
    method = METHODS[number % len(METHODS)]
    expected, out = whole(method), folder / "out"
    journal = folder / "out.partial" / ".ingot-journal"
    for attempt in range(choices.choice([1, 1, 2, 3])):
        # From before the first line on; model scope finishes everything near its end.
        lines = choices.randrange(-2, 18) if attempt == 0 else len(journalled(journal.parent)) + choices.randrange(1, 6)
        process = ingot.start("merge", "--resume", *synthetic.arguments(method, models), "-o", out, *SLOW)
        if lines > 0:
            wait_for_lines(process, journal, lines)
        time.sleep(choices.random() * 0.02 if lines > 0 else choices.random() * 0.3)
        process.kill()
        code, _, stderr = end(process)
        assert code in (-signal.SIGKILL, 0), stderr
        if code == -signal.SIGKILL:
            kills.append((len(journalled(journal.parent)), len(SHAPES)))
        if assert_absent_or_whole(out, expected):
            break
    else:
        resume(ingot, method, models, out, SETTINGS[number % len(SETTINGS)])
    assert weights.output_files(out) == expected
    assert_nothing_left_beside(out)
    ingot("verify", out)


def derived_models(folder: Path) -> tuple[Path, Path]:
    """An FP8 checkpoint and an adapter on it: everything that a merge of them reads is computed."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    files = pytest.importorskip("safetensors.torch")
    torch.manual_seed(2)
    tensors, adapter = {}, {}
    for layer in range(12):
        name = f"model.layers.{layer}.mlp.up_proj"
        tensors[f"{name}.weight"] = (torch.randn(384, 512) * 0.5).to(torch.float8_e4m3fn)
        tensors[f"{name}.weight_scale_inv"] = torch.rand(3, 4) + 0.1
        adapter[f"base_model.model.{name}.lora_A.weight"] = torch.randn(4, 512)
        adapter[f"base_model.model.{name}.lora_B.weight"] = torch.randn(384, 4)
    base, lora = folder / "fp8", folder / "lora"
    for place in (base, lora):
        place.mkdir()
    files.save_file(tensors, base / "model.safetensors")
    quantisation = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (base / "config.json").write_text(json.dumps({"model_type": "test", "quantization_config": quantisation}))
    files.save_file(adapter, lora / "adapter_model.safetensors")
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    return base, lora


def test_killed_with_decoded_and_adapted_inputs(ingot: Command, folder: Path) -> None:
    """What finished before the kill is used again, the rest is computed under other settings: the bytes are those of one run."""
    base, lora = derived_models(folder)
    entries = [{"model": f"{base}+{lora}", "parameters": {"weight": 0.5}}, {"model": str(base), "parameters": {"weight": 0.75}}]
    recipe = folder / "r.yml"
    recipe.write_text(json.dumps({"merge_method": "linear", "models": entries, "parameters": {"normalize": False}}))
    ingot("merge", recipe, folder / "whole", "--sync", "none", "--threads", 3)
    expected = weights.output_files(folder / "whole")
    out, partial = folder / "out", folder / "out.partial"
    for lines in (1, 5):
        process = ingot.start("merge", "--resume", recipe, out, "--threads", 1, "--memory", "2MiB", "--sync", "none")
        if wait_for_lines(process, partial / ".ingot-journal", lines):
            process.kill()
        code, _, stderr = end(process)
        assert code in (-signal.SIGKILL, 0), stderr
        # It was done before the kill came.
        if code == 0:
            break
    if not out.exists():
        finished = journalled(partial)
        assert finished
        ingot("merge", "--resume", recipe, out, "--sync", "none", "--isa", "scalar")
        assert Record(out).run["resumed_tensors"] == len(finished)
    assert weights.output_files(out) == expected
    ingot("verify", out)


def test_an_adapter_that_changed_does_not_resume(ingot: Command, folder: Path) -> None:
    base, lora = derived_models(folder)
    # The last tensor is not finite: the run stops there, and leaves what it has.
    content = weights.read_file(lora / "adapter_model.safetensors", writable=True)
    last = content["base_model.model.model.layers.9.mlp.up_proj.lora_B.weight"].data
    last[:4] = (0, 0, 0xC0, 0x7F)
    recipe = folder / "r.yml"
    entries = [{"model": f"{base}+{lora}", "parameters": {"weight": 1}}]
    recipe.write_text(json.dumps({"merge_method": "linear", "dtype": "float32", "models": entries}))
    assert "NaN" in ingot("merge", recipe, folder / "out", "--sync", "none", exit_code=None).stderr
    assert (folder / "out.partial").exists()
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 9}))
    refused = ingot("merge", "--resume", recipe, folder / "out", "--sync", "none", exit_code=None)
    assert refused.returncode != 0
    assert "the sources" in refused.stderr or "changed" in refused.stderr, refused.stderr
    assert "NaN" not in refused.stderr
    assert not (folder / "out").exists()


def test_most_kills_came_in_the_middle(kills: list[tuple[int, int]]) -> None:
    """Else the test above would show little: kills before the first tensor and after the last are the easy ones."""
    if len(kills) < max(KILLS, 100):
        pytest.skip("asked of a hundred kills at random; a few say nothing")
    between = sum(1 for done, count in kills if 0 < done < count)
    assert between >= 0.6 * KILLS, f"{between} of {len(kills)}"


# Every step


@pytest.fixture(scope="module")
def stopper(tmp_path_factory: pytest.TempPathFactory) -> Preload:
    return preload.build(tmp_path_factory.mktemp("preload"))


def test_the_command_changes_files_by_calls_that_are_counted(ingot: Command) -> None:
    """Else the test below would step over some."""
    imports = subprocess.run(["nm", "-D", "--undefined-only", ingot.path], capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].partition("@")[0] for line in imports.splitlines()}
    suspects = {
        name for name in names if re.search(r"write|open|mkdir|rename|unlink|rmdir|truncate|fallocate|sync$|sync_|link(at)?$", name)
    }
    suspects -= {"dlopen", "fts_open", "opendir", "sem_open", "readlink", "symlink", "link", "mkdtemp"}
    assert suspects - preload.CHANGING <= preload.NOT_COUNTED
    assert names >= preload.CHANGING


@pytest.mark.parametrize("force", [False, True])
def test_killed_at_every_change_of_the_file_system(ingot: Command, stopper: Preload, folder: Path, force: bool) -> None:
    """A small merge dies in place of its 1st, 2nd, … call that changes a file or a directory, and goes on from there."""
    shapes = synthetic.layered(2, {"mlp": (16, 8), "norm": (8,)})
    models = [synthetic.floats(folder / name, shapes, 2, seed) for seed, name in enumerate(["base", "a", "b"])]
    merge = ["merge", *synthetic.arguments("ties", models), "--threads", "1", "--team", "pthread", "--shard-size", "400"]
    ingot(*merge, "-o", folder / "whole", env=stopper.environment())
    steps = stopper.counts()["changes"]
    expected = weights.output_files(folder / "whole")
    assert steps > 20
    if force:
        ingot("merge", *synthetic.arguments("linear", models), "-o", folder / "old")
    before = weights.output_files(folder / "old") if force else None
    out, flags = folder / "out", ["--force"] if force else []
    choices = random.Random(steps)
    published = 0
    for step in range(1, 2 * steps):
        if force:
            shutil.copytree(folder / "old", out)
        code, _, stderr = end(ingot.start(*merge, "-o", out, *flags, env=stopper.environment(step)))
        if code == 0:
            break
        # The first run that goes on is killed as well.
        again = ["-o", out, "--resume", *flags]
        for variables in (stopper.environment(choices.randrange(1, steps)), {}):
            assert code in (0, -signal.SIGKILL), f"after step {step}: {stderr}"
            found = weights.output_files(out) if out.exists() else None
            if found == expected:
                break
            assert found == before, f"half of an output after step {step}"
            finished = journalled(folder / "out.partial")
            code, _, stderr = end(ingot.start(*merge, *again, env=variables))
        assert weights.output_files(out) == expected, f"after step {step}: {stderr}"
        if variables:
            published += 1
        else:
            assert Record(out).run["resumed_tensors"] == len(finished), f"after step {step}"
        # A journal that was left beside a finished output must not confuse the next run; the rest is cleared for the next step.
        for path in folder.iterdir():
            if path.name == "out" or (path.name.startswith("out.") and path.is_dir()):
                shutil.rmtree(path)
    else:
        pytest.fail(f"still killed after {step} steps, expected about {steps}")
    assert step > steps / 2
    # The last calls come after the rename.
    assert published > 0


def test_finished_tensors_that_were_damaged_are_made_again(
    ingot: Command, models: list[Path], whole: Callable[[str], Files], folder: Path
) -> None:
    """A digest that does not fit, a torn line and a line of nonsense cost the tensors that they speak of, nothing else."""
    expected, out, partial = whole("ties"), folder / "out", folder / "out.partial"
    process = ingot.start("merge", *synthetic.arguments("ties", models), "-o", out, *SLOW)
    assert wait_for_lines(process, partial / ".ingot-journal", 8)
    process.kill()
    end(process)
    finished = journalled(partial)
    assert 8 <= len(finished) < len(SHAPES)
    # The journal counts tensors in the plan's order, which is that of the files.
    places = [(path, name) for path in sorted(partial.glob("*.safetensors")) for name in weights.read_file(path)]
    path, name = places[max(finished)]
    weights.read_file(path, writable=True)[name].data[0] ^= 1
    with (partial / ".ingot-journal").open("ab") as journal:
        journal.write(b"tensor 0 zzz\ntensor 1 0123")
    ingot("merge", "--resume", *synthetic.arguments("ties", models), "-o", out, *SLOW)
    assert Record(out).run["resumed_tensors"] == len(finished) - 1
    assert weights.output_files(out) == expected


# Interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(ingot: Command, models: list[Path], whole: Callable[[str], Files], folder: Path, number: signal.Signals) -> None:
    expected, out = whole("della"), folder / "out's"
    process = ingot.start("merge", *synthetic.arguments("della", models), "-o", out, *SLOW)
    assert wait_for_lines(process, folder / "out's.partial" / ".ingot-journal", 5)
    process.send_signal(number)
    code, stdout, stderr = end(process)
    assert (code, stdout) == (130, "")
    assert not out.exists()
    match = re.search(r"^ *resume: (.+)$", stderr, re.M)
    assert match, stderr
    finished = journalled(folder / "out's.partial")
    subprocess.run(match.group(1), shell=True, check=True, env=ingot.environment, capture_output=True, timeout=60)
    assert weights.output_files(out) == expected
    assert Record(out).run["resumed_tensors"] == len(finished) >= 5
    assert_nothing_left_beside(out)


# Seen from outside


def watch(out: Path, expected: dict[str, int], stop: threading.Event, problems: list[str], sightings: list[float]) -> None:
    """At the first sight of OUT everything must be in it, in full length."""
    while not stop.is_set():
        if out.exists():
            sizes = {path.relative_to(out).as_posix(): path.stat().st_size for path in out.rglob("*") if path.is_file()}
            sizes.pop("ingot.json", None)
            if sizes != expected:
                problems.append(f"{sizes} instead of {expected}")
            sightings.append(time.monotonic())
            return


@pytest.fixture
def watched(whole: Callable[[str], Files], folder: Path) -> Iterator[Callable[[], None]]:
    expected = {name: len(content) for name, content in whole("linear").items()}
    problems: list[str] = []
    sightings: list[float] = []
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(folder / "out", expected, stop, problems, sightings))
    watcher.start()

    def seen() -> None:
        watcher.join(10)
        assert sightings
        assert not problems

    yield seen
    stop.set()
    watcher.join()


def test_out_appears_whole(ingot: Command, models: list[Path], watched: Callable[[], None], folder: Path) -> None:
    ingot("merge", *synthetic.arguments("linear", models), "-o", folder / "out", *SLOW)
    watched()


BUSY = re.compile(r"error: .*(is writing this output|the destination exists|destination was made by something else|partial output)")


@pytest.mark.parametrize("flags", [(), ("--force",), ("--resume",)])
def test_two_merges_into_one_output(
    ingot: Command, models: list[Path], whole: Callable[[str], Files], folder: Path, flags: tuple[str, ...]
) -> None:
    """Started at the same moment, and a little apart: one makes the output, the other says why it does not."""
    expected = whole("linear")
    choices = random.Random(len(flags))
    outcomes = set()
    for round_number in range(8):
        out = folder / f"out-{round_number}"
        arguments = ["merge", *synthetic.arguments("linear", models), "-o", out, "--shard-size", "3MB", "--sync", "none", *flags]
        first = ingot.start(*arguments)
        time.sleep(0 if round_number < 3 else choices.random() * 0.06)
        second = ingot.start(*arguments)
        results = [end(process) for process in (first, second)]
        codes = sorted(code for code, _, _ in results)
        outcomes.add(tuple(codes))
        # With --force the one that comes later may find the output finished, and replace it.
        assert codes[0] == 0, results
        assert codes[1] in ((0, 1, 5) if "--force" in flags else (1, 5)), results
        for code, stdout, stderr in results:
            assert code == 0 or (BUSY.search(stderr) and stdout == ""), results
        assert weights.output_files(out) == expected
        assert_nothing_left_beside(out)
    assert outcomes - {(0, 0)}


# Sources that do not hold still


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("change", [grow, overwrite, cut, cut_to_nothing])
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_a_source_that_changes_is_refused(
    ingot: Command, models: list[Path], folder: Path, change: Callable[[Path], None], method: str
) -> None:
    mine = [models[0], weights.copy_model(models[1], folder / "mine"), models[2]]
    process = ingot.start("merge", *synthetic.arguments(method, mine), "-o", folder / "out", *SLOW)
    assert wait_for_lines(process, folder / "out.partial" / ".ingot-journal", 2)
    change(folder / "mine" / "model.safetensors")
    code, stdout, stderr = end(process)
    assert code in (1, 3), (code, stderr)
    assert stdout == ""
    assert re.search(r"error: .*(changed while it was read|found \d+ bytes at offset)", stderr), stderr
    assert "mine/model.safetensors" in stderr
    assert not (folder / "out").exists()
    # Nor may the rest be made of the new bytes.
    done = ingot("merge", "--resume", *synthetic.arguments(method, mine), "-o", folder / "out", *SLOW, exit_code=None)
    assert done.returncode in (1, 3), done.stderr
    assert not (folder / "out").exists()


def test_a_source_that_is_exchanged_under_its_name(ingot: Command, models: list[Path], whole: Callable[[str], Files], folder: Path) -> None:
    """The open file is still the old one: the merge is of the old model, or it is refused. It is never a mixture."""
    mine = [models[0], weights.copy_model(models[1], folder / "mine"), models[2]]
    shutil.copyfile(models[2] / "model.safetensors", folder / "other")
    process = ingot.start("merge", *synthetic.arguments("linear", mine), "-o", folder / "out", *SLOW)
    assert wait_for_lines(process, folder / "out.partial" / ".ingot-journal", 2)
    os.replace(folder / "other", folder / "mine" / "model.safetensors")
    code, _, stderr = end(process)
    if code == 0:
        found = weights.output_files(folder / "out")
        expected = whole("linear")
        names = [name for name in expected if name.endswith(".safetensors")]
        assert all(found[name] == expected[name] for name in names)
    else:
        assert "changed" in stderr
        assert not (folder / "out").exists()
