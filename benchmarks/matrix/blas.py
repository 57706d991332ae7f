"""The rate of OpenBLAS's products on this machine now: the unit that the benchmarks count in.

It is the library that the engine opens, on the same kernels: importing `ingot` has set OPENBLAS_CORETYPE before it is loaded.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import ingot
import numpy as np

ROW_MAJOR, PLAIN = 101, 111


class OpenBLAS:
    def __init__(self, threads: int) -> None:
        # Loads it, as the first matrix method of a process does.
        weight = {"model.layers.0.mlp.up_proj.weight": np.eye(2, dtype="f")}
        ingot.merge_state_dicts("iso_c", [weight], base=weight)
        self._library = ctypes.CDLL("libopenblas.so.0")
        self._threads = threads
        self._library.openblas_get_corename.restype = ctypes.c_char_p
        self.core = self._library.openblas_get_corename().decode()

    def seconds(self, m: int, n: int, k: int, dtype: str = "float32", rounds: int = 3) -> float:
        """The best of a few products of m × k and k × n."""
        rng = np.random.default_rng(1)
        a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
        c = np.zeros((m, n), dtype)
        is_single = dtype == "float32"
        call: Any = self._library.cblas_sgemm if is_single else self._library.cblas_dgemm
        number = ctypes.c_float if is_single else ctypes.c_double

        def pointer(matrix: np.ndarray) -> ctypes.c_void_p:
            return ctypes.c_void_p(matrix.ctypes.data)

        before = self._library.openblas_get_num_threads()
        self._library.openblas_set_num_threads(self._threads)
        best = float("inf")
        for _ in range(rounds):
            start = time.perf_counter()
            call(ROW_MAJOR, PLAIN, PLAIN, m, n, k, number(1), pointer(a), k, pointer(b), n, number(0), pointer(c), n)
            best = min(best, time.perf_counter() - start)
        self._library.openblas_set_num_threads(before)
        return best

    def rate(self, dtype: str, n: int = 2048) -> float:
        """Floating-point operations in a second."""
        return 2 * n**3 / self.seconds(n, n, n, dtype)
