"""Measured FMA peak of one core, the roof that shares are given of."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

_FLAGS = {
    "avx512": ["-mavx512f", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
    "neon": [],
    "scalar": [],
}


def measure_peak(isa: str, seconds: float = 0.3) -> float | None:
    """GFLOP/s of dependent-free float32 FMAs on the current core, or None without a compiler.

    Args:
        isa: ``avx512``, ``avx2``, ``neon`` or ``scalar`` (the architecture's baseline).
        seconds: Time to spend; the best of many short runs counts.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    flags = list(_FLAGS[isa])
    if platform.machine() in ("aarch64", "arm64"):
        flags = []
    source = Path(__file__).with_suffix(".c")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        command = [compiler, "-O3", "-ffp-contract=fast", "-shared", "-fPIC", *flags]
        done = subprocess.run(
            [*command, str(source), "-o", str(library)], capture_output=True, check=False
        )
        if done.returncode != 0:
            return None
        run = ctypes.CDLL(str(library)).fma_flops
    run.restype = ctypes.c_double
    run.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float, ctypes.c_void_p]
    sink = ctypes.c_float()
    best = 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        flops = run(200_000, 0.5, 1.0, ctypes.byref(sink))
        best = max(best, flops / (time.perf_counter_ns() - start))
    return best
