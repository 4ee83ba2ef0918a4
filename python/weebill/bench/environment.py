"""The machine and the software, in the shape of google-benchmark's ``context``."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

from weebill import config
from weebill.bench.interference import throttle_count
from weebill.bench.options import Options

__all__ = ["describe_environment"]

VARIABLES = (
    "WEEBILL_ISA",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "KMP_BLOCKTIME",
)
CPU0 = "/sys/devices/system/cpu/cpu0"


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def cpu_mhz() -> float | None:
    """Current clock of the first core, where the kernel tells."""
    if (khz := _read(f"{CPU0}/cpufreq/scaling_cur_freq")) is not None:
        return float(khz) / 1000.0
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("cpu MHz"):
            return float(line.partition(":")[2])
    return None


def caches() -> list[dict[str, object]]:
    """Caches of the first core."""
    found: list[dict[str, object]] = []
    for index in range(8):
        base = f"{CPU0}/cache/index{index}"
        if (level := _read(f"{base}/level")) is None:
            break
        found.append(
            {
                "type": _read(f"{base}/type"),
                "level": int(level),
                "size": _read(f"{base}/size"),
                "shared_cpu_list": _read(f"{base}/shared_cpu_list") or "",
            }
        )
    return found


def commit() -> str | None:
    """The commit of a source tree, with a mark when the work tree differs from it."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None  # an installed package
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_environment(options: Options) -> dict[str, object]:
    """Everything needed to judge or repeat a result.

    Args:
        options: The run's options.
    """
    governor = _read(f"{CPU0}/cpufreq/scaling_governor")
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "host_name": platform.node(),
        "executable": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "cpu_model": config.info()["cpu"]["model"],
        "num_cpus": os.cpu_count(),
        "mhz_per_cpu": cpu_mhz(),
        "cpu_scaling_enabled": governor is not None and governor != "performance",
        "scaling_governor": governor,
        "throttle_count": throttle_count(),
        "caches": caches(),
        "load_avg": list(os.getloadavg()),
        "library_build_type": "release",
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("weebill", "numpy", "torch")},
        "clock": "time.perf_counter_ns around every call, in Python",
        "kind": options.kind,
        "mode": options.mode,
        "isa": config.isa(),
        "isa_forced": [isa for isa in options.isas if isa is not None],
        "pinned_cpus": list(options.cpus),
        "min_time_s": options.min_time,
        "budget_s": options.budget if math.isfinite(options.budget) else None,
        "turn_ms": options.turn_ms,
        "rounds": options.rounds,
        "wait_policy": options.wait_policy,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "commit": commit(),
    }


def describe_end() -> dict[str, object]:
    """What may have changed during a run: clock, throttling, load."""
    return {
        "mhz_per_cpu_end": cpu_mhz(),
        "throttle_count_end": throttle_count(),
        "load_avg_end": list(os.getloadavg()),
    }
