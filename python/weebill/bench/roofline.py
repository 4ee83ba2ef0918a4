"""How fast the cores under us could be at most, and what share of that a row reached.

The roof at an arithmetic intensity of I operations per byte is min(peak, I * bandwidth) (Williams
et al., CACM 52(4), 2009), with the read bandwidth of the cache that the case's data fits into:
input, weights and output, each moved once, which no implementation can do without. A network's
intermediates come on top of that, so its share of the roof is a bound, not a goal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weebill.bench.results import Row

__all__ = ["Peaks", "measure_peaks", "set_shares"]


@dataclass(frozen=True)
class Level:
    """One cache level, or memory."""

    name: str  # L1, L2, L3, DRAM
    capacity: int  # bytes; 0 for memory
    gbps: float  # 1e9 bytes read per second by one core


@dataclass(frozen=True)
class Peaks:
    """Of one core, with one instruction set."""

    isa: str
    gflops: float
    levels: tuple[Level, ...]

    def roof(self, macs: int, size: int, threads: int) -> float:
        """GFLOP/s that `threads` cores can reach at most.

        Args:
            macs: Multiply-adds.
            size: Bytes that must be moved.
            threads: Each with a core and private caches of its own; L3 and memory are counted per
                core too, so for several threads the roof is generous.
        """
        level = next((lv for lv in self.levels if 0 < size <= lv.capacity), self.levels[-1])
        return threads * min(self.gflops, 2.0 * macs / max(size, 1) * level.gbps)

    def as_json(self) -> dict[str, Any]:
        """For a result's context."""
        return asdict(self)


def peaks_from_json(entry: dict[str, Any]) -> Peaks:
    """The reverse of `Peaks.as_json`."""
    levels = tuple(Level(**level) for level in entry["levels"])
    return Peaks(entry["isa"], entry["gflops"], levels)


def measure_peaks(seconds: float) -> dict[str, Any]:
    """Measure on the core that this process runs on; `seconds` per figure."""
    from weebill import _C, config

    info = _C.cpu_info()
    capacity = {"L1": info["l1d_bytes"], "L2": info["l2_bytes"], "L3": info["l3_bytes"]}
    levels = tuple(
        Level(name, capacity.get(name, 0), gbps)
        for name, gbps in _C.read_bandwidth(config.isa(), seconds)
    )
    return Peaks(config.isa(), _C.peak_gflops(config.isa(), seconds), levels).as_json()


def machine_peaks(cpus: tuple[int, ...], isa: str | None, seconds: float = 0.1) -> Peaks:
    """Measure in a process pinned to one of `cpus`."""
    from weebill.bench.options import worker_environment
    from weebill.bench.worker import Worker

    core = cpus[-1:] or (max(os.sched_getaffinity(0)),)
    worker = Worker("weebill_native", worker_environment(isa, 1, "default"), core)
    try:
        return peaks_from_json(worker.call("peaks", seconds))
    finally:
        worker.close()


def set_shares(rows: Iterable[Row], peaks: Peaks) -> None:
    """Fill in the rows' shares of the FMA peak and of the roof."""
    for row in rows:
        if row.gflops is not None:
            row.peak_share = row.gflops / (peaks.gflops * row.threads)
            row.roof_share = row.gflops / peaks.roof(row.macs, row.bytes, row.threads)
