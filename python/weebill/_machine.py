"""What a Linux machine tells about itself in /sys and /proc. Every source may be missing.

All paths are below a root, so that tests can make machines. Nothing here is an error: what cannot
be read is None, or left out.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

#: Bits of the firmware's answer on a Raspberry Pi: what happens now, and (16 higher) since boot.
THROTTLED_BITS = {
    0: "under-voltage",
    1: "arm frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}


@dataclass(frozen=True)
class Clock:
    """Of one policy (a cluster of cores): MHz."""

    cores: str
    governor: str | None
    current: float | None
    maximum: float | None


class Machine:
    """The machine below `root`.

    Args:
        root: "/" for the real one.
    """

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self.root = Path(root)

    def text(self, path: str) -> str | None:
        """A small file, stripped; None if it can't be read or is empty."""
        try:
            with open(self.root / path.lstrip("/"), "rb") as file:
                text = file.read(1 << 16).decode("utf-8", "replace")
        except (OSError, ValueError):
            return None
        return text.strip("\0 \t\n") or None

    def number(self, path: str) -> float | None:
        """A file that holds one finite number."""
        return as_number(self.text(path))

    def paths(self, folder: str, pattern: str) -> list[str]:
        """Entries of a folder, in the order of their numbers."""
        try:
            names = [entry.name for entry in (self.root / folder.lstrip("/")).iterdir()]
        except OSError:
            return []
        found = [name for name in names if re.fullmatch(pattern, name)]
        return [
            f"{folder}/{name}"
            for name in sorted(found, key=lambda n: (int(re.sub(r"\D", "", n) or 0), n))
        ]

    def board(self) -> str | None:
        """The board's name from its device tree, or a PC's from its firmware."""
        product = self.text("/sys/class/dmi/id/product_name")
        return self.text("/proc/device-tree/model") or product

    def processors(self) -> int | None:
        """Processors that are online."""
        online = self.text("/sys/devices/system/cpu/online")
        return None if online is None else count_list(online)

    def clocks(self) -> list[Clock]:
        """A clock per cluster of cores; empty on most virtual machines."""
        found = []
        for policy in self.paths("/sys/devices/system/cpu/cpufreq", r"policy\d+"):
            khz = [self.number(f"{policy}/{name}") for name in _FREQUENCIES]
            current = khz[0] if khz[0] is not None else khz[1]
            found.append(
                Clock(
                    self.text(f"{policy}/related_cpus") or "?",
                    self.text(f"{policy}/scaling_governor"),
                    None if current is None else current / 1000,
                    None if khz[2] is None else khz[2] / 1000,
                )
            )
        return found

    def temperatures(self) -> list[tuple[str, float, float | None]]:
        """(zone, degrees Celsius, where it begins to throttle if that is known)."""
        found = []
        for zone in self.paths("/sys/class/thermal", r"thermal_zone\d+"):
            value = self.number(f"{zone}/temp")
            if value is None or not -50_000 < value < 200_000:
                continue
            limits = [
                limit / 1000
                for point in self.paths(zone, r"trip_point_\d+_type")
                if self.text(point) == "passive"
                and (limit := self.number(point.removesuffix("_type") + "_temp")) is not None
                and limit > 0
            ]
            name = self.text(f"{zone}/type") or zone.rpartition("/")[2]
            found.append((name, value / 1000, min(limits, default=None)))
        return found

    def throttle_count(self) -> int | None:
        """How often an Intel core was slowed down for its temperature since boot."""
        value = self.number("/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count")
        return None if value is None else int(value)

    def firmware_throttling(self) -> tuple[list[str], list[str]] | None:
        """What a Raspberry Pi's firmware reports: now, and since boot. None elsewhere."""
        text = self.text("/sys/devices/platform/soc/soc:firmware/get_throttled")
        if text is None:
            text = self._vcgencmd()
        match = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})", text or "")
        if match is None:
            return None
        bits = int(match[1], 16)
        now = [name for bit, name in THROTTLED_BITS.items() if bits >> bit & 1]
        before = [name for bit, name in THROTTLED_BITS.items() if bits >> (16 + bit) & 1]
        return now, before

    def _vcgencmd(self) -> str | None:
        # below another root too, so that a test can bring its own
        folders = [str(self.root / folder) for folder in ("usr/bin", "opt/vc/bin")]
        program = shutil.which("vcgencmd", path=os.pathsep.join(folders))
        if program is None:
            return None
        try:
            result = subprocess.run(
                [program, "get_throttled"], capture_output=True, text=True, timeout=5, check=False
            )
        except (OSError, subprocess.SubprocessError, UnicodeError):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    def cpu_quota(self) -> float | None:
        """Processors' worth of time that the control group may use; None without a limit."""
        found = []
        groups = self.text("/proc/self/cgroup") or ""
        own = next((line[3:] for line in groups.splitlines() if line.startswith("0::")), "")
        parts = [part for part in own.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            folder = "/".join(["/sys/fs/cgroup", *parts[:depth]])
            quota, _, period = (self.text(f"{folder}/cpu.max") or "").partition(" ")
            found.append(_share(as_number(quota), as_number(period)))
        for folder in ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"):
            found.append(
                _share(
                    self.number(f"{folder}/cpu.cfs_quota_us"),
                    self.number(f"{folder}/cpu.cfs_period_us"),
                )
            )
        return min((share for share in found if share is not None), default=None)

    def memory(self) -> tuple[float | None, float | None]:
        """(all, available), MiB."""
        text = self.text("/proc/meminfo") or ""
        found = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", text, re.MULTILINE))
        total, free = (as_number(found.get(name)) for name in ("MemTotal", "MemAvailable"))
        return (
            None if total is None else total / 1024,
            None if free is None else free / 1024,
        )

    def load(self) -> float | None:
        """Mean number of processes that ran or waited during the last minute."""
        return as_number((self.text("/proc/loadavg") or "").partition(" ")[0])


_FREQUENCIES = ("scaling_cur_freq", "cpuinfo_cur_freq", "cpuinfo_max_freq")


def as_number(text: str | None) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def count_list(text: str) -> int | None:
    """Entries of a list such as "0-3,8"."""
    total = 0
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if match is None:
            return None
        total += int(match[2] or match[1]) - int(match[1]) + 1
    return total


def _share(quota: float | None, period: float | None) -> float | None:
    if quota is None or period is None or quota <= 0 or period <= 0:
        return None
    return quota / period
