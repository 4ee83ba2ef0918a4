"""What runs here: the instruction set (ISA) and the threads. Needs no torch.

The ISA is chosen when the library loads: the one named by the environment variable `WEEBILL_ISA`,
otherwise the best that this machine runs. It holds for the whole process.

The torch ops use torch's threads (`torch.set_num_threads`). Without torch, `weebill.runtime` uses a
pool of the library's own: `set_threads`, or the environment variable `WEEBILL_NUM_THREADS`, or one
thread for each core that the process may use. The number never changes a result.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from weebill import _C

__all__ = [
    "CpuInfo",
    "Info",
    "KernelInfo",
    "info",
    "isa",
    "isas",
    "set_isa",
    "set_threads",
    "show",
    "threads",
    "use_isa",
]


class CpuInfo(TypedDict):
    """The machine: model name, instruction sets, cache sizes in bytes (0: none).

    `two_passes`: units of 256 bits compute what AVX-512 asks for, in two passes (Zen 4);
    `two_ports`: its operations of every kind take one of the FMAs' two ports (Intel);
    `banked_l2`: cache lines an even number apart share banks of the second cache (Intel), and
    pixels of scratch memory lie an odd number apart.

    Of ARM cores, beside Advanced SIMD (`neon`): whether they have half-precision arithmetic
    (`fp16`, for `weebill.runtime.load(..., precision="float16")`), int8 dot products and int8
    matrix products, which no kernel uses yet, and whether all usable ones issue in order
    (`in_order`: Cortex-A35, A53, A55).
    """

    model: str
    avx2: bool
    avx512: bool
    two_passes: bool
    two_ports: bool
    banked_l2: bool
    neon: bool
    fp16: bool
    dotprod: bool
    i8mm: bool
    in_order: bool
    l1d_bytes: int
    l2_bytes: int
    l3_bytes: int


class KernelInfo(TypedDict):
    """One entry of the kernel table."""

    name: str
    summary: str


class Info(TypedDict):
    """All of `info()`."""

    versions: dict[str, str | None]
    cpu: CpuInfo
    threads: int
    isa: str
    isas: list[str]
    built_isas: list[str]
    kernels: list[KernelInfo]


def isas() -> list[str]:
    """ISAs that this build holds and this machine runs, the best first, "scalar" last."""
    return _C.isas()


def isa() -> str:
    """The ISA in use.

    Raises:
        ValueError: The environment variable WEEBILL_ISA names none that runs here.
    """
    return _C.isa()


def set_isa(name: str) -> None:
    """Uses the kernels of another ISA from the next call on, in the whole process.

    Results of two ISAs differ by rounding. Not to be called while an op runs in another thread.

    Args:
        name: One of `isas()`.

    Raises:
        TypeError: Not a string.
        ValueError: No ISA of this name runs here.
    """
    if not isinstance(name, str):
        raise TypeError(f"set_isa: name must be a string, got {type(name).__name__}")
    try:
        _C.set_isa(name)
    except ValueError as error:
        near = difflib.get_close_matches(name, isas(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{error}{hint}") from None


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Uses an ISA inside a `with` block, as `set_isa`, and the former one after it."""
    before = isa()
    set_isa(name)
    try:
        yield
    finally:
        set_isa(before)


def threads() -> int:
    """The threads that a call of `weebill.runtime` may use. Small work takes fewer.

    Raises:
        ValueError: The environment variable WEEBILL_NUM_THREADS is no number from 1 to 256.
    """
    return _C.max_threads()


def set_threads(number: int | None) -> None:
    """How many threads calls of `weebill.runtime` may use from now on, in the whole process.

    Args:
        number: From 1 to 256; None for the default, see the module.

    Raises:
        TypeError: No integer.
        ValueError: Out of range.
    """
    if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
        raise TypeError(f"set_threads: number must be an int or None, got {type(number).__name__}")
    if number is not None and not 1 <= number <= 256:
        raise ValueError(f"set_threads: number must be from 1 to 256, got {number}")
    _C.set_threads(number or 0)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def info() -> Info:
    """What runs here: versions, processor, threads, ISAs and kernels."""
    versions: dict[str, str | None] = {
        "weebill": _C.__version__,
        "python": platform.python_version(),
    }
    versions.update({package: _version(package) for package in ("numpy", "torch")})
    cpu = _C.cpu_info()
    return {
        "versions": versions,
        "cpu": cpu,
        "threads": _C.max_threads(),
        "isa": isa(),
        "isas": isas(),
        "built_isas": _C.built_isas(),
        "kernels": [{"name": name, "summary": summary} for name, summary in _C.kernel_list()],
    }


def show() -> str:
    """`info()` as text, for bug reports: `print(weebill.config.show())`."""
    facts = info()
    cpu = facts["cpu"]
    caches = {"L1d": cpu["l1d_bytes"], "L2": cpu["l2_bytes"], "L3": cpu["l3_bytes"]}
    lines = [f"{name} {version or 'not installed'}" for name, version in facts["versions"].items()]
    lines += [
        f"processor: {cpu['model']}",
        "caches: " + ", ".join(f"{n} {size >> 10} KiB" for n, size in caches.items() if size),
        f"threads: {facts['threads']}",
        f"isa: {facts['isa']}",
        f"runs here: {' '.join(facts['isas'])}; in this build: {' '.join(facts['built_isas'])}",
        "kernels: " + " ".join(kernel["name"] for kernel in facts["kernels"]),
    ]
    return "\n".join(lines)
