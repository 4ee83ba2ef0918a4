"""Tells whether somebody else used the measured cores during a turn.

Two counters of the kernel say it:

* ``/proc/<pid>/task/*/schedstat``: nanoseconds that our threads were runnable but not
  running, because another task had the core.  Precise enough for one turn.
* ``/proc/stat``, column *steal*: ticks (10 ms) in which the hypervisor ran another guest on
  the core.  Coarse, so any tick taints the turn that saw it.

A hyper-thread or a neighbour that fills the shared cache leaves no trace in either; that is
what interleaving and minima are for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WAIT_LIMIT = 0.02  # tolerated share of a turn spent waiting for the core


@dataclass(frozen=True)
class Counters:
    """Both counters at one moment; `known` is False where the kernel has neither."""

    wait_ns: int
    steal_ticks: int
    known: bool = True


@dataclass(frozen=True)
class Interference:
    """What happened between two moments."""

    wait_share: float  # of the wall time, may exceed 1 with several threads
    steal_ticks: int

    @property
    def tainted(self) -> bool:
        """Whether samples taken meanwhile are to be distrusted."""
        return self.wait_share > WAIT_LIMIT or self.steal_ticks > 0


def parse_schedstat(text: str) -> int:
    """Run-queue wait in nanoseconds: the second of the three numbers of a schedstat file."""
    return int(text.split()[1])


def parse_steal(text: str, cpus: Iterable[int]) -> int:
    """Steal ticks of `cpus`, summed, from the text of ``/proc/stat``."""
    wanted = {f"cpu{cpu}" for cpu in cpus}
    total = 0
    for line in text.splitlines():
        fields = line.split()
        # cpuN user nice system idle iowait irq softirq steal ...
        if fields and fields[0] in wanted and len(fields) > 8:
            total += int(fields[8])
    return total


def read_counters(cpus: Iterable[int], proc: Path = Path("/proc")) -> Counters:
    """Counters of this process's threads and of `cpus` now."""
    try:
        wait = 0
        for task in (proc / str(os.getpid()) / "task").iterdir():
            try:
                wait += parse_schedstat((task / "schedstat").read_text())
            except FileNotFoundError:
                continue  # the thread ended between listing and reading
        return Counters(wait, parse_steal((proc / "stat").read_text(), cpus))
    except (OSError, IndexError, ValueError):
        return Counters(0, 0, known=False)  # no Linux, or schedstat not built in


def interference(before: Counters, after: Counters, elapsed_ns: int) -> Interference:
    """The difference of two readings over `elapsed_ns` of wall time."""
    if not (before.known and after.known):
        return Interference(0.0, 0)
    # A thread that ended takes its wait along, which may turn the difference negative.
    wait = max(0, after.wait_ns - before.wait_ns)
    return Interference(wait / max(1, elapsed_ns), after.steal_ticks - before.steal_ticks)


def throttle_count() -> int | None:
    """How often the first core was slowed down for heat since the start, where the kernel tells."""
    path = Path("/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count")
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
