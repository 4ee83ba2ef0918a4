"""What a run is asked to do. Nothing here imports an engine or torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weebill import config
from weebill.bench.engines import ENGINES

__all__ = [
    "ISA_ENVIRONMENT",
    "Options",
    "Progress",
    "parse_cpus",
    "parse_names",
    "parse_positives",
    "parse_size",
    "worker_environment",
]

# Called with what is being done, and the share of the run that is done.
Progress = Callable[[str, float], None]

_AVX512 = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx512"}
# For each tier: what the engines that can be limited read.
ISA_ENVIRONMENT = {
    "avx512": {"WEEBILL_ISA": "avx512", **_AVX512},
    "avx512_twoport": {"WEEBILL_ISA": "avx512_twoport", **_AVX512},
    "avx512_256": {"WEEBILL_ISA": "avx512_256", **_AVX512},
    "avx2": {
        "WEEBILL_ISA": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    },
    "neon": {"WEEBILL_ISA": "neon"},
    "neon_inorder": {"WEEBILL_ISA": "neon_inorder"},
    "scalar": {"WEEBILL_ISA": "scalar", "ATEN_CPU_CAPABILITY": "default"},
}


@dataclass(frozen=True)
class Options:
    """A run; `cpus` are the cores that it may use, the last ones are taken first."""

    kind: str  # "models", "blocks" or "ops"
    select: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ((224, 224),)  # (height, width)
    batches: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (1,)
    backends: tuple[str, ...] = tuple(ENGINES)
    slow: bool = False  # run engines that are slow to prepare, too
    isas: tuple[str | None, ...] = (None,)  # None: each engine's own choice
    cpus: tuple[int, ...] = ()
    min_time: float = 0.6  # seconds of timed calls per row
    budget: float = math.inf  # seconds that the run may take, with fewer rounds if it must
    turn_ms: float = 15.0
    wait_policy: str = "default"
    tolerance: float = 1e-4
    mode: str = "steady"  # or "cold", "single-stream" or "stages"
    cache: Path = Path()

    @property
    def rounds(self) -> int:
        """Turns of a row."""
        return max(3, round(self.min_time * 1e3 / self.turn_ms))


def parse_names(what: str, text: str, known: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """``"a,b"`` -> ("a", "b"), each of them known.

    Raises:
        ValueError: One is not.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in known:
            raise ValueError(f"{what} must be one of {', '.join(known)}, got {name!r}")
    return names


def parse_positives(what: str, text: str) -> tuple[int, ...]:
    """``"1,8"`` -> (1, 8).

    Raises:
        ValueError: Not a list of positive integers.
    """
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = (0,)
    if min(values) < 1:
        raise ValueError(f"{what} must be positive integers, such as 1,2, got {text!r}")
    return tuple(dict.fromkeys(values))


def parse_size(text: str) -> tuple[int, int]:
    """``"224"`` -> (224, 224); ``"320x256"`` -> (320, 256), height first.

    Raises:
        ValueError: Not a size.
    """
    height, _, width = text.lower().partition("x")
    return (
        parse_positives("--size", height)[0],
        parse_positives("--size", width or height)[0],
    )


def parse_cpus(text: str) -> tuple[int, ...]:
    """``"1"`` -> (1,); ``"0-2,5"`` -> (0, 1, 2, 5).

    Raises:
        ValueError: Not a list of cores, or cores that this process may not use.
    """
    cpus: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            cpus.extend(range(int(first), int(last or first) + 1))
    except ValueError:
        raise ValueError(f"--cpu must be cores, such as 1 or 0-2,5, got {text!r}") from None
    available = sorted(os.sched_getaffinity(0))
    if not cpus or not set(cpus) <= set(available):
        raise ValueError(f"--cpu must be among the cores {available}, got {text!r}")
    return tuple(dict.fromkeys(cpus))


def worker_environment(isa: str | None, threads: int, wait_policy: str) -> dict[str, str]:
    """Variables of a process that runs one engine with `threads` threads."""
    environment = {"OMP_NUM_THREADS": str(threads)}
    if isa is not None:
        environment |= ISA_ENVIRONMENT[isa]
    if wait_policy == "passive":
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    return environment


def known_isas() -> tuple[str, ...]:
    """What `--isa` takes here."""
    return tuple(config.isas())
