"""The machine and the software, in the shape of google-benchmark's ``context``."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

from bench.options import Options, native_isa

VARIABLES = (
    "WEEBILL_ISA",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "KMP_BLOCKTIME",
)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def cpu_model() -> str:
    """The CPU's marketing name, or the architecture where the kernel gives none."""
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def cpu_mhz() -> float | None:
    """Current clock of the first core, where the kernel tells."""
    if (khz := _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")) is not None:
        return float(khz) / 1000.0
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("cpu MHz"):
            return float(line.partition(":")[2])
    return None


def caches() -> list[dict[str, object]]:
    """Caches of the first core."""
    found: list[dict[str, object]] = []
    for index in range(8):
        base = f"/sys/devices/system/cpu/cpu0/cache/index{index}"
        if (level := _read(f"{base}/level")) is None:
            break
        shared = _read(f"{base}/shared_cpu_list") or ""
        found.append(
            {
                "type": _read(f"{base}/type"),
                "level": int(level),
                "size": _read(f"{base}/size"),
                "shared_cpu_list": shared,
            }
        )
    return found


def commit() -> str | None:
    """This repository's commit, with a mark when the work tree differs from it."""
    root = Path(__file__).resolve().parents[1]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def describe_environment(options: Options) -> dict[str, object]:
    """Everything needed to judge or repeat a result.

    Args:
        options: The run's options.
    """
    governor = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "host_name": platform.node(),
        "executable": " ".join(sys.orig_argv),
        "cpu_model": cpu_model(),
        "num_cpus": os.cpu_count(),
        "mhz_per_cpu": cpu_mhz(),
        "cpu_scaling_enabled": governor is not None and governor != "performance",
        "scaling_governor": governor,
        "caches": caches(),
        "load_avg": list(os.getloadavg()),
        "library_build_type": "release",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "clock": "time.perf_counter_ns",
        "isa": options.isa or native_isa(),
        "isa_forced": options.isa is not None,
        "pinned_cpus": list(options.cpus),
        "rounds": options.rounds,
        "turn_ms": options.turn_ms,
        "metric": options.metric,
        "wait_policy": options.wait_policy,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "commit": commit(),
    }
