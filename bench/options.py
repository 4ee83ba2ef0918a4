"""Command-line options shared by ``bench.models`` and ``bench.blocks``.

Nothing here imports an engine or torch: several of them read the environment once,
at their import, so `apply_environment` has to come first.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.engines import ENGINES

DEFAULT_CACHE = Path(".cache/bench")
# For each tier: what the engines that can be limited read.
ISA_ENVIRONMENT = {
    "avx512": {
        "WEEBILL_ISA": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "ATEN_CPU_CAPABILITY": "avx512",
    },
    "avx2": {
        "WEEBILL_ISA": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    },
    "neon": {"WEEBILL_ISA": "neon"},
    "scalar": {"WEEBILL_ISA": "scalar", "ATEN_CPU_CAPABILITY": "default"},
}


@dataclass(frozen=True)
class Options:
    """Parsed options."""

    select: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]  # (height, width)
    batches: tuple[int, ...]
    threads: tuple[int, ...]
    engines: tuple[str, ...]
    isa: str | None
    cpus: tuple[int, ...]
    rounds: int
    turn_ms: float
    wait_policy: str
    metric: str
    tolerance: float
    json: Path | None
    cache: Path
    detail: bool
    cold: bool
    list: bool


def parse_size(text: str) -> tuple[int, int]:
    """``"224"`` -> (224, 224); ``"320x256"`` -> (320, 256), height first."""
    height, _, width = text.lower().partition("x")
    size = int(height), int(width or height)
    if min(size) < 1:
        raise ValueError(f"size must be positive, got {text!r}")
    return size


def parse_cpus(text: str) -> tuple[int, ...]:
    """``"1"`` -> (1,); ``"0-2,5"`` -> (0, 1, 2, 5)."""
    cpus: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(dict.fromkeys(cpus))


def native_isa() -> str:
    """The best tier of this CPU, from the kernel's list of its features."""
    if platform.machine() in ("aarch64", "arm64"):
        return "neon"
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return "scalar"
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= set(flags):
        return "avx512"
    return "avx2" if {"avx2", "fma"} <= set(flags) else "scalar"


def _positives(text: str) -> tuple[int, ...]:
    values = tuple(int(part) for part in text.split(","))
    if min(values) < 1:
        raise ValueError(f"values must be positive, got {text!r}")
    return values


def _engines(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in ENGINES]:
        raise argparse.ArgumentTypeError(
            f"engine must be one of {', '.join(ENGINES)}, got {unknown[0]!r}"
        )
    return names


def parse_options(
    program: str, description: str, what: str, argv: Sequence[str] | None = None
) -> Options:
    """Parse the command line; exits with 2 and one sentence when it is wrong.

    Args:
        program: Shown in the usage line.
        description: One sentence.
        what: What the positional arguments name.
        argv: Arguments, those of the process by default.
    """
    parser = argparse.ArgumentParser(program, description=description)
    add = parser.add_argument
    add("select", nargs="*", metavar=what, help=f"{what}s to measure (default: see --list)")
    add("--list", action="store_true", help=f"list {what}s and engines, and stop")
    add("--size", default="224", help="image sizes, e.g. 96,224,320x256 (height x width)")
    add("--batch", type=_positives, default=(1,), help="batch sizes, e.g. 1,8")
    add("--threads", type=_positives, default=(1,), help="thread counts, e.g. 1,2")
    add("--engine", type=_engines, default=tuple(ENGINES), help="engines, comma separated")
    add("--isa", choices=sorted(ISA_ENVIRONMENT), help="limit engines that can be limited")
    add("--cpu", type=parse_cpus, help="cores to pin to, e.g. 1 or 0-1 (default: the last ones)")
    add("--rounds", type=int, default=20, help="interleaved rounds (default 20)")
    add("--turn-ms", type=float, default=25.0, help="timed calls per turn, ms (default 25)")
    add(
        "--wait-policy",
        choices=("passive", "default"),
        default="default",
        help="OMP_WAIT_POLICY of rows with several threads (default: each engine's own)",
    )
    add(
        "--metric",
        choices=("wall", "cpu"),
        default="wall",
        help="time that tables and ratios use; cpu for one thread on a busy machine",
    )
    add("--tolerance", type=float, default=1e-4, help="relative error that makes an engine wrong")
    add("--json", type=Path, help="write rows and machine to this file")
    add("--cache", type=Path, default=DEFAULT_CACHE, help=f"exports (default {DEFAULT_CACHE})")
    add("--detail", action="store_true", help="print the full table of every case")
    add("--cold", action="store_true", help="cold start and memory instead of steady speed")
    given = parser.parse_args(argv)
    try:
        sizes = tuple(parse_size(part) for part in given.size.split(","))
    except ValueError as error:
        parser.error(f"argument --size: {error}")
    available = sorted(os.sched_getaffinity(0))
    cpus = given.cpu or tuple(available[-max(given.threads) :])
    if not set(cpus) <= set(available):
        parser.error(f"argument --cpu: cores must be among {available}, got {list(cpus)}")
    if given.rounds < 1:
        parser.error(f"argument --rounds: must be at least 1, got {given.rounds}")
    return Options(
        select=tuple(given.select),
        sizes=sizes,
        batches=given.batch,
        threads=given.threads,
        engines=given.engine,
        isa=given.isa,
        cpus=cpus,
        rounds=given.rounds,
        turn_ms=given.turn_ms,
        wait_policy=given.wait_policy,
        metric=given.metric,
        tolerance=given.tolerance,
        json=given.json,
        cache=given.cache,
        detail=given.detail,
        cold=given.cold,
        list=given.list,
    )


def apply_environment(options: Options) -> None:
    """Set what engines read at import, and pin this process.

    Raises:
        RuntimeError: An engine's library is loaded already, so that it is too late.
    """
    if "torch" in sys.modules or "openvino" in sys.modules:
        raise RuntimeError("apply_environment: must be called before engines are imported")
    if options.isa is not None:
        os.environ.update(ISA_ENVIRONMENT[options.isa])
    os.sched_setaffinity(0, options.cpus)


def thread_environment(threads: int, wait_policy: str) -> dict[str, str]:
    """Variables of a worker process that runs one engine with `threads` threads."""
    environment = {"OMP_NUM_THREADS": str(threads)}
    if wait_policy == "passive":
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    return environment
