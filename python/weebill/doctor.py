"""Looks at what makes a network slow or wrong on a machine, and says what to do about it.

`examine()` is behind `weebill doctor`. It needs neither torch nor the network, and changes nothing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import mmap
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from weebill import _C, config
from weebill._machine import Machine

__all__ = ["Finding", "examine"]

#: Below this share of its highest clock a processor is slow or asleep.
_SLOW_CLOCK = 0.7
_HOT = 80.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        status: "ok", "note" (worth knowing), "problem" (slow or wrong) or "unknown" (the machine
            does not tell).
        value: What was found.
        advice: What to do; empty if nothing is.
    """

    name: str
    status: Literal["ok", "note", "problem", "unknown"]
    value: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain strings, for JSON."""
        return asdict(self)


def examine(root: str | os.PathLike[str] = "/") -> list[Finding]:
    """All findings, in the order in which they matter to a bug report.

    Args:
        root: Where /sys and /proc are looked for; another one than "/" is for tests.
    """
    machine = Machine(root)
    return [finding for check in _CHECKS for finding in check(machine)]


def _versions(machine: Machine) -> Iterator[Finding]:
    tag = "no wheel: run from its sources"
    try:
        metadata = importlib.metadata.distribution("weebill").read_text("WHEEL") or ""
        tag = ", ".join(re.findall(r"^Tag: (.+)$", metadata, re.MULTILINE)) or tag
    except importlib.metadata.PackageNotFoundError:
        pass
    yield Finding("weebill", "ok", f"{_C.__version__} ({tag})")
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.machine()}")
    library, version = platform.libc_ver()
    yield Finding("libc", "ok" if version else "unknown", f"{library} {version}".strip() or "?")


def _processor(machine: Machine) -> Iterator[Finding]:
    cpu = _C.cpu_info()
    board = machine.board()
    yield Finding("processor", "ok", cpu["model"] + (f" ({board})" if board else ""))
    if cpu["neon"]:
        wider = [
            text
            for there, text in (
                (cpu["fp16"], "half precision (asimdhp)"),
                (cpu["dotprod"], "int8 dot products (asimddp)"),
                (cpu["i8mm"], "int8 matrix products (i8mm)"),
            )
            if there
        ]
        yield Finding(
            "vector arithmetic",
            "ok",
            ", ".join(["float32", *wider])
            + ("; issues in order: weights by 64-bit loads" if cpu["in_order"] else "")
            + ". The kernels use float32"
            + (", and half precision where it is asked for." if cpu["fp16"] else "."),
        )
    pages = mmap.PAGESIZE
    yield Finding("page size", "ok", f"{pages >> 10} KiB")
    total, free = machine.memory()
    if total is None:
        yield Finding("memory", "unknown", "the system does not tell")
    else:
        scarce = free is not None and free < 100
        yield Finding(
            "memory",
            "problem" if scarce else "ok",
            f"{total:.0f} MiB" + ("" if free is None else f", {free:.0f} MiB available"),
            "end other programs: a network and its photos take about 100 MiB" if scarce else "",
        )


def _isa(machine: Machine) -> Iterator[Finding]:
    runnable, built = config.isas(), _C.built_isas()
    wanted = os.environ.get("WEEBILL_ISA")
    try:
        chosen = config.isa()
    except ValueError as error:
        yield Finding("instruction set", "problem", str(error), "unset WEEBILL_ISA")
        return
    if chosen == runnable[0]:
        value = f"{chosen}: the best of this processor ({', '.join(runnable)})"
        only = chosen == "scalar"
        missing = sorted(set(built) - set(runnable))
        advice = (
            "this processor has no vector instructions that weebill knows"
            + (f" (built in: {', '.join(missing)})" if missing else "")
            + "; results are right, but slow"
            if only
            else ""
        )
        yield Finding("instruction set", "note" if only else "ok", value, advice)
        return
    reason = f"WEEBILL_ISA={wanted}" if wanted == chosen else "weebill.config.set_isa"
    yield Finding(
        "instruction set",
        "note",
        f"{chosen}, asked for by {reason}; {runnable[0]} would be faster",
        "unset WEEBILL_ISA" if wanted == chosen else "",
    )


def _clocks(machine: Machine) -> Iterator[Finding]:
    clocks = machine.clocks()
    if not clocks:
        yield Finding("clock", "unknown", "the system does not tell (as most virtual machines)")
    for clock in clocks:
        name = "clock" if len(clocks) == 1 else f"clock of cores {clock.cores}"
        speeds = [
            f"{value:.0f} MHz{what}"
            for value, what in ((clock.current, ""), (clock.maximum, " at most"))
            if value is not None
        ]
        slow = bool(clock.current and clock.maximum and clock.current < _SLOW_CLOCK * clock.maximum)
        value = ", ".join([*speeds, f"governor {clock.governor or 'unknown'}"])
        if clock.governor == "powersave" and slow:
            advice = "sudo cpupower frequency-set -g performance (or ondemand)"
            yield Finding(name, "problem", value, advice)
        elif clock.governor in ("powersave", "conservative", "ondemand", "schedutil") or slow:
            advice = (
                "a clock that is low while nothing runs is normal; for the first milliseconds of "
                "work to be fast: sudo cpupower frequency-set -g performance"
            )
            yield Finding(name, "note", value, advice)
        else:
            yield Finding(name, "ok", value)


def _heat(machine: Machine) -> Iterator[Finding]:
    zones = machine.temperatures()
    if not zones:
        yield Finding("temperature", "unknown", "the system does not tell")
    else:
        name, value, limit = max(zones, key=lambda zone: zone[1] - (zone[2] or _HOT))
        hot = value >= (limit or _HOT) - 2
        text = f"{value:.0f} °C ({name})" + (f", slows down at {limit:.0f} °C" if limit else "")
        advice = "cool it: a heat sink or a fan, and air around it" if hot else ""
        yield Finding("temperature", "problem" if hot else "ok", text, advice)
    throttling = machine.firmware_throttling()
    if throttling is not None:
        yield _firmware(*throttling)
        return
    count = machine.throttle_count()
    if count is None:
        yield Finding("throttling", "unknown", "the system does not tell")
    elif count:
        advice = "if the number grows while a network runs, cool the machine"
        yield Finding("throttling", "note", f"{count} times since the start", advice)
    else:
        yield Finding("throttling", "ok", "none since the start")


def _firmware(now: list[str], before: list[str]) -> Finding:
    cure = {
        True: "use the board's own power supply and a short cable",
        False: "cool it: a heat sink or a fan, and air around it",
    }
    if now:
        advice = cure["under-voltage" in now]
        return Finding("throttling", "problem", f"now: {', '.join(now)}", advice)
    if before:
        advice = cure["under-voltage" in before]
        return Finding("throttling", "note", f"since the start: {', '.join(before)}", advice)
    return Finding("throttling", "ok", "none since the start")


def _threads(machine: Machine) -> Iterator[Finding]:
    processors = machine.processors() or os.cpu_count() or 1
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else processors
    quota = machine.cpu_quota()
    limits = [f"{processors} processors"]
    if bound < processors:
        limits.append(f"bound to {bound}")
    if quota is not None:
        limits.append(f"control group limited to {quota:.3g}")
    try:
        threads = config.threads()
    except ValueError as error:
        yield Finding("threads", "problem", str(error), "unset WEEBILL_NUM_THREADS")
        return
    value = f"{threads} of weebill's own; {', '.join(limits)}"
    if threads > min(bound, _whole(quota) if quota is not None else bound):
        advice = "use fewer: threads that wait for each other's turn make every call slower"
        yield Finding("threads", "problem", value, advice)
    elif quota is not None and quota < 1:
        advice = "with less than one processor calls stop for tens of milliseconds at times"
        yield Finding("threads", "note", value, advice)
    else:
        yield Finding("threads", "ok", value)
    load = machine.load()
    if load is None:
        yield Finding("load", "unknown", "the system does not tell")
    else:
        busy = load > max(1.0, 0.75 * processors)
        value = f"{load:.1f} processes in the last minute"
        advice = "other programs want the processor too: expect slow and uneven calls"
        yield Finding("load", "note" if busy else "ok", value, advice if busy else "")


def _whole(value: float) -> int:
    """The next whole number, at least 1."""
    return max(1, -int(-value // 1))


def _torch(machine: Machine) -> Iterator[Finding]:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        value = "not installed: weebill.runtime and weebill classify --model FILE.weebill run"
        yield Finding("torch", "ok", value)
        return
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    local = version.partition("+")[2]
    kind = "CPU build" if local == "cpu" else f"build {local}" if local else _torch_build()
    value = f"{version}, {kind}"
    if number < (2, 5):
        yield Finding("torch", "problem", value, "weebill's torch ops need torch 2.5 or later")
        return
    threads, failure = _try_torch()
    if failure:
        advice = (
            "install one for this processor (the page on boards), or do without: weebill.runtime"
            if "illegal instruction" in failure
            else "reinstall it, or do without: weebill.runtime"
        )
        yield Finding("torch", "problem", f"{value}: {failure}", advice)
        return
    value += f", {threads} threads"
    if number < (2, 10):
        advice = "the ops are called through Python; torch 2.10 or later calls them faster"
        yield Finding("torch", "note", value, advice)
    elif importlib.util.find_spec("weebill._torch_ops") is None:
        advice = "this build of weebill has no ops for it: install a wheel, or build beside torch"
        yield Finding("torch", "problem", value, advice)
    else:
        yield Finding("torch", "ok", value)


def _torch_build() -> str:
    """Whether the installed torch brings libraries of a GPU; looked up, not imported."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if any(Path(folder).glob("lib/libtorch_cuda*")):
            return "CUDA build: a CPU one is a tenth of its size"
    return "CPU build"


def _try_torch() -> tuple[str, str]:
    """torch's threads, and how its import failed: in a process of its own, which it may kill."""
    code = "import torch; print(torch.get_num_threads())"
    try:
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return "", f"it can't be tried ({type(error).__name__})"
    if result.returncode == -signal.SIGILL:
        return "", "its import dies of an illegal instruction"
    if result.returncode < 0:
        return "", f"its import dies of signal {-result.returncode}"
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no reason given"]
        return "", f"its import fails: {lines[-1][:200]}"
    return result.stdout.strip(), ""


_CHECKS = (_versions, _processor, _isa, _clocks, _heat, _threads, _torch)
