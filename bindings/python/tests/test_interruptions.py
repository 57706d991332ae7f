"""Calls that are stopped, that others run beside, and that happen in children of fork()."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from support import output_of

# Long enough to be interrupted, whatever the machine: one thread, no vector instructions.
SLOW: dict[str, Any] = {"threads": 1, "isa": "scalar"}


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """However the tests were started: where SIGINT is ignored (behind `&` in a script), Python and its children have no handler for it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def large() -> list[np.ndarray]:
    return [np.random.default_rng(seed).standard_normal((4096, 4096), dtype="f") for seed in range(2)]


def send_interrupt(_: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_keyboard_interrupt(large: list[np.ndarray]) -> None:
    told: list[ingot.Progress] = []
    with pytest.raises(KeyboardInterrupt):
        ingot.merge_tensors("linear", large, progress=lambda state: (told.append(state), send_interrupt(state)), **SLOW)
    assert told[-1].bytes_done < told[-1].bytes_total
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    np.testing.assert_allclose(ingot.merge_tensors("linear", [one[0] for one in large]), (large[0][0] + large[1][0]) / 2, atol=1e-6)


def test_interrupted_without_a_progress_function() -> None:
    """From outside, as Ctrl-C does it, while no line of Python runs; what it printed and how it died."""
    code = """
import os, signal, threading, numpy, ingot
large = [numpy.ones((8192, 4096), "f") for _ in range(2)]
with ingot.Engine(threads=1, isa="scalar") as engine:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        for count in range(1000):
            engine.merge_tensors("ties", large, base=large[0], density=0.5)
    except KeyboardInterrupt as error:
        assert error.__cause__ is None
        print("interrupted")
    print(engine.merge_tensors("linear", [large[0][:1]])[0, 0])
"""
    assert output_of(code) == "interrupted\n1.0\n"


def test_interrupt_leaves_a_partial_directory(models: dict[str, Path], tmp_path: Path) -> None:
    recipe = {"merge_method": "linear", "models": [{"model": models[name], "parameters": {"weight": 1}} for name in "ab"]}
    with pytest.raises(KeyboardInterrupt):
        ingot.merge(recipe, tmp_path / "out", progress=send_interrupt)
    assert not (tmp_path / "out").exists()
    ingot.merge(recipe, tmp_path / "out", resume=True)


class UserError(Exception):
    pass


@pytest.mark.parametrize("raised", [UserError("mine"), SystemExit(3), GeneratorExit(), ValueError("x")])
def test_exceptions_of_progress_come_out_as_themselves(large: list[np.ndarray], raised: BaseException) -> None:
    calls = []

    def fail(state: ingot.Progress) -> None:
        calls.append(state)
        raise raised

    with pytest.raises(type(raised)) as caught:
        ingot.merge_tensors("linear", large, progress=fail, **SLOW)
    assert caught.value is raised
    assert len(calls) == 1


def test_signals_with_handlers_of_the_program(large: list[np.ndarray]) -> None:
    """One that returns changes nothing; one that raises stops the call and comes out."""
    seen = []

    def note(number: int, _: object) -> None:
        seen.append(number)

    def fail(number: int, _: object) -> None:
        raise UserError(number)

    before = signal.signal(signal.SIGUSR1, note)
    try:
        merged = ingot.merge_tensors("linear", large, progress=lambda _: os.kill(os.getpid(), signal.SIGUSR1))
        assert seen
        np.testing.assert_allclose(merged, (large[0] + large[1]) / 2, atol=1e-6)
        signal.signal(signal.SIGUSR1, fail)
        with pytest.raises(UserError):
            ingot.merge_tensors("linear", large, progress=lambda _: os.kill(os.getpid(), signal.SIGUSR1), **SLOW)
        assert signal.getsignal(signal.SIGUSR1) is fail
    finally:
        signal.signal(signal.SIGUSR1, before)


def merge_again_and_again(engine: ingot.Engine, large: list[np.ndarray], started: threading.Event) -> None:
    for _ in range(1000):
        engine.merge_tensors("ties", large, base=large[0], density=0.5, progress=lambda _: started.set())


def test_cancel(large: list[np.ndarray]) -> None:
    with ingot.Engine(**SLOW) as engine:
        with pytest.raises(ingot.CancelledError):
            engine.merge_tensors("linear", large, progress=lambda _: engine.cancel())
        started = threading.Event()

        def cancel() -> None:
            started.wait()
            engine.cancel()

        other = threading.Thread(target=cancel)
        other.start()
        with pytest.raises(ingot.CancelledError):
            merge_again_and_again(engine, large, started)
        other.join()
        engine.cancel()  # nothing is under way
        assert engine.merge_tensors("linear", [large[0][:2]]).shape == (2, 4096)


def test_busy(large: list[np.ndarray]) -> None:
    with ingot.Engine(**SLOW) as engine:
        with pytest.raises(ingot.BusyError):
            engine.merge_tensors("linear", large, progress=lambda _: engine.merge_tensors("linear", [large[0][:1]]))
        # The module's functions take another engine.
        results = []
        engine.merge_tensors("linear", large, progress=lambda _: results.append(ingot.merge_tensors("linear", [large[0][:1]])))
        assert results


def test_closed_engine() -> None:
    engine = ingot.Engine(threads=1)
    assert "1 threads" in repr(engine)
    engine.close()
    engine.close()
    assert "closed" in repr(engine)
    with pytest.raises(ingot.InvalidArgumentError, match="closed"):
        engine.merge_tensors("linear", [np.ones(1, "f")])


def test_the_lock_is_released(large: list[np.ndarray]) -> None:
    """Another thread goes on while the library works; it could not take one step if the call kept Python's lock."""
    steps = 0
    running = True

    def walk() -> None:
        nonlocal steps
        while running:
            steps += 1
            time.sleep(0.0005)

    other = threading.Thread(target=walk)
    other.start()
    try:
        with ingot.Engine(**SLOW) as engine:
            plan = engine.plan(
                {
                    "merge_method": "ties",
                    "base_model": "x",
                    "models": [{"model": "y", "parameters": {"weight": 1}}],
                    "parameters": {"density": 0.5},
                },
                models={"x": {"w": large[0]}, "y": {"w": large[1]}},
            )
            out = np.zeros_like(large[0])
            from ctypes import byref

            from ingot import _ffi, _tensors
            from ingot._library import library

            loan = _tensors.Loan()
            loan.borrow("w", out, output=True)
            outputs, error = loan.array(), _ffi.ingot_error_out._type_()
            before = steps
            status = library.ingot_plan_run_to_tensors(engine._pointer, plan.pointer, outputs, 1, None, None, byref(error))
            after = steps
    finally:
        running = False
        other.join()
    assert status == 0
    assert out.any()
    assert after - before > 3


def test_threads_at_once() -> None:
    results: dict[int, np.ndarray] = {}

    def work(index: int) -> None:
        a = np.full((300, 700), index, "f")
        for _ in range(20):
            results[index] = ingot.merge_tensors("linear", [a, a + 2], threads=1 + index % 2)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((results[index] == index + 1).all() for index in range(6))


FORK = """
import os, sys, numpy, ingot
a = numpy.ones((600, 700), "f")
engine = ingot.Engine(threads=2, team=sys.argv[1])
assert (engine.merge_tensors("linear", [a, a]) == 1).all()
plan = ingot.plan({"merge_method": "linear", "models": [{"model": "x", "parameters": {"weight": 1}}]}, models={"x": {"w": a}})
for generation in range(2):
    child = os.fork()
    if child == 0:
        try:
            assert (engine.merge_tensors("linear", [a, 3 * a]) == 2).all()
            assert (ingot.merge_tensors("ties", [a, 3 * a], base=a) == 3).all()
            assert len(repr(plan)) > 10
            engine.close()
        except BaseException as error:
            print("child:", error, flush=True)
            os._exit(1)
        if generation == 0:
            os._exit(0)
        sys.exit(0)  # with the finalizers
    assert os.waitpid(child, 0)[1] == 0
assert (engine.merge_tensors("linear", [a, 3 * a]) == 2).all()
print("both", engine.info["team"])
"""


@pytest.mark.parametrize("team", ["auto", "pthread"])
def test_fork(team: str) -> None:
    assert output_of(FORK, team).startswith("both")


def test_fork_during_a_call() -> None:
    """A lock of the runtime may be held by a thread that the child does not have: it must hear of it and not wait."""
    code = """
import os, numpy, ingot
a = numpy.ones((2048, 2048), "f")
children = []
def fork(_):
    if children:
        return
    child = os.fork()
    if child == 0:
        try:
            ingot.merge_tensors("linear", [a[:8], 3 * a[:8]])
        except ingot.UnsupportedError as error:
            os._exit(0 if "forked" in str(error) else 2)
        os._exit(1)
    children.append(os.waitpid(child, 0)[1])
assert (ingot.merge_tensors("linear", [a, 3 * a], progress=fork) == 2).all()
print(children)
"""
    for _ in range(10):
        assert output_of(code) == "[0]\n"


def test_pool_of_processes() -> None:
    code = """
import multiprocessing, sys, numpy, ingot
def work(value):
    a = numpy.full((300, 300), value, "f")
    return float(ingot.merge_tensors("linear", [a, a + 2])[0, 0])
if __name__ == "__main__":
    ingot.merge_tensors("linear", [numpy.ones((300, 300), "f")])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(work, range(6)))
"""
    assert output_of(code) == "[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]\n"


def test_end_of_the_interpreter_with_a_call_under_way() -> None:
    code = """
import threading, numpy, ingot
a = numpy.ones((4096, 4096), "f")
began = threading.Event()
def work():
    while True:
        ingot.merge_tensors("linear", [a, a], threads=1, isa="scalar", progress=lambda _: began.set())
threading.Thread(target=work, daemon=True).start()
began.wait()
print("end")
"""
    assert output_of(code) == "end\n"
