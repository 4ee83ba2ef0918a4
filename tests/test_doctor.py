"""What `weebill doctor` finds, on machines made of files."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import pytest

from weebill import _C, config, doctor
from weebill._machine import Machine, as_number, count_list
from weebill.doctor import Finding, examine

CPU = "sys/devices/system/cpu"


@pytest.fixture(autouse=True)
def _torch_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_try_torch", lambda: ("4", ""))


def write(root: Path, path: str, text: Any) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def finding(root: Path, name: str) -> Finding:
    return next(found for found in examine(root) if found.name == name)


def policy(root: Path, number: int, governor: str, current: int, maximum: int) -> None:
    folder = f"{CPU}/cpufreq/policy{number}"
    write(root, f"{folder}/scaling_governor", governor)
    write(root, f"{folder}/scaling_cur_freq", current)
    write(root, f"{folder}/cpuinfo_max_freq", maximum)
    write(root, f"{folder}/related_cpus", f"{number} {number + 1}")


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = examine(tmp_path)
    unknown = {entry.name for entry in found if entry.status == "unknown"}
    assert unknown >= {"memory", "clock", "temperature", "throttling", "load"}
    assert not [entry for entry in found if entry.status == "problem"]
    names = [entry.name for entry in found]
    assert names[:4] == ["weebill", "python", "libc", "processor"]
    assert "page size" in names
    assert json.loads(json.dumps([entry.to_dict() for entry in found]))


def test_this_machine() -> None:
    found = examine()
    assert {entry.status for entry in found} <= {"ok", "note", "problem", "unknown"}
    assert all(entry.value for entry in found)
    assert config.isa() in next(e.value for e in found if e.name == "instruction set")


@pytest.mark.parametrize("text", ["", "\0", "garbage", "-1", "nan", "1e400", "max", "\xff\xfe" * 9])
def test_garbage_is_not_known(tmp_path: Path, text: str) -> None:
    policy(tmp_path, 0, text, 0, 0)
    for name in ("scaling_cur_freq", "cpuinfo_max_freq"):
        write(tmp_path, f"{CPU}/cpufreq/policy0/{name}", text)
    for path in (
        "proc/meminfo",
        "proc/loadavg",
        "proc/self/cgroup",
        "sys/fs/cgroup/cpu.max",
        "sys/class/thermal/thermal_zone0/temp",
        "sys/class/thermal/thermal_zonex/temp",
        f"{CPU}/online",
        f"{CPU}/cpu0/thermal_throttle/package_throttle_count",
        "sys/devices/platform/soc/soc:firmware/get_throttled",
    ):
        write(tmp_path, path, text)
    assert all(entry.value for entry in examine(tmp_path))


def test_arm_extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = dict(_C.cpu_info(), neon=True, fp16=True, dotprod=False, i8mm=False, in_order=True)
    monkeypatch.setattr(_C, "cpu_info", lambda: cpu)
    value = finding(tmp_path, "vector arithmetic").value
    assert value.startswith("float32, half precision (asimdhp); issues in order")
    cpu.update(dotprod=True, i8mm=True, in_order=False)
    value = finding(tmp_path, "vector arithmetic").value
    assert "(asimddp), int8 matrix products (i8mm)." in value
    cpu["neon"] = False
    assert "vector arithmetic" not in [entry.name for entry in examine(tmp_path)]


def test_clocks(tmp_path: Path) -> None:
    policy(tmp_path, 0, "powersave", 600_000, 1_500_000)
    found = finding(tmp_path, "clock")
    assert found.status == "problem"
    assert found.value == "600 MHz, 1500 MHz at most, governor powersave"
    assert "cpupower frequency-set -g performance" in found.advice
    policy(tmp_path, 0, "performance", 1_500_000, 1_500_000)
    policy(tmp_path, 4, "schedutil", 1_800_000, 1_800_000)
    assert finding(tmp_path, "clock of cores 0 1").status == "ok"
    assert finding(tmp_path, "clock of cores 4 5").status == "note"


def test_temperature(tmp_path: Path) -> None:
    zone = "sys/class/thermal/thermal_zone0"
    write(tmp_path, f"{zone}/temp", 48_300)
    write(tmp_path, f"{zone}/type", "cpu-thermal")
    assert finding(tmp_path, "temperature") == Finding("temperature", "ok", "48 °C (cpu-thermal)")
    write(tmp_path, f"{zone}/trip_point_0_type", "passive")
    write(tmp_path, f"{zone}/trip_point_0_temp", 49_000)
    found = finding(tmp_path, "temperature")
    assert found.status == "problem"
    assert found.value == "48 °C (cpu-thermal), slows down at 49 °C"
    assert "cool it" in found.advice


@pytest.mark.parametrize(
    ("bits", "status", "value", "advice"),
    [
        ("0", "ok", "none since the start", ""),
        ("50005", "problem", "now: under-voltage, throttled", "power supply"),
        ("e0008", "problem", "now: soft temperature limit", "cool it"),
        ("50000", "note", "since the start: under-voltage, throttled", "power supply"),
    ],
)
@pytest.mark.parametrize("program", [False, True])
def test_a_raspberry_pi(
    tmp_path: Path, bits: str, status: str, value: str, advice: str, program: bool
) -> None:
    if program:
        write(tmp_path, "usr/bin/vcgencmd", f"#!/bin/sh\necho throttled=0x{bits}")
        os.chmod(tmp_path / "usr/bin/vcgencmd", 0o755)
    else:
        write(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", bits)
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    found = finding(tmp_path, "throttling")
    assert (found.status, found.value) == (status, value)
    assert advice in found.advice
    assert finding(tmp_path, "processor").value.endswith("(Raspberry Pi 4 Model B Rev 1.4)")


def test_vcgencmd_that_fails(tmp_path: Path) -> None:
    write(tmp_path, "usr/bin/vcgencmd", "#!/bin/sh\nexit 1")
    os.chmod(tmp_path / "usr/bin/vcgencmd", 0o755)
    assert finding(tmp_path, "throttling").status == "unknown"


def test_intel_counts(tmp_path: Path) -> None:
    path = f"{CPU}/cpu0/thermal_throttle/package_throttle_count"
    write(tmp_path, path, 0)
    assert finding(tmp_path, "throttling").status == "ok"
    write(tmp_path, path, 12)
    assert finding(tmp_path, "throttling").value == "12 times since the start"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/cpu.max": "50000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            },
            0.5,
        ),
        ({"proc/self/cgroup": "0::/../../etc", "sys/fs/cgroup/etc/cpu.max": "1 0"}, None),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            2.0,
        ),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for path, text in files.items():
        write(tmp_path, path, text)
    assert Machine(tmp_path).cpu_quota() == quota


def test_more_threads_than_processors(tmp_path: Path) -> None:
    write(tmp_path, f"{CPU}/online", "0-3")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "100000 100000")
    config.set_threads(3)
    try:
        found = finding(tmp_path, "threads")
    finally:
        config.set_threads(1)
    assert found.status == "problem"
    assert found.value.startswith("3 of weebill's own; 4 processors")
    assert found.value.endswith("control group limited to 1")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "50000 100000")
    assert finding(tmp_path, "threads").status == "note"


def test_load_and_memory(tmp_path: Path) -> None:
    write(tmp_path, f"{CPU}/online", "0-3")
    write(tmp_path, "proc/loadavg", "0.20 0.1 0.1 1/99 1234")
    write(tmp_path, "proc/meminfo", "MemTotal: 901120 kB\nMemFree: 5 kB\nMemAvailable: 512000 kB")
    assert finding(tmp_path, "load").status == "ok"
    assert finding(tmp_path, "memory").value == "880 MiB, 500 MiB available"
    write(tmp_path, "proc/loadavg", "3.50 0.1 0.1 1/99 1234")
    write(tmp_path, "proc/meminfo", "MemTotal: 901120 kB\nMemAvailable: 51200 kB")
    assert finding(tmp_path, "load").status == "note"
    assert finding(tmp_path, "memory").status == "problem"


def test_instruction_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = config.isas()[0]
    assert finding(tmp_path, "instruction set").value.startswith(f"{config.isa()}: the best")
    if best == "scalar":
        return
    with config.use_isa("scalar"):
        found = finding(tmp_path, "instruction set")
        assert found.status == "note"
        assert f"{best} would be faster" in found.value
        monkeypatch.setenv("WEEBILL_ISA", "scalar")
        assert finding(tmp_path, "instruction set").advice == "unset WEEBILL_ISA"


def test_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0+cpu"}
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: versions.get(name) or missing(name)
    )
    assert finding(tmp_path, "torch").value == "2.13.0+cpu, CPU build, 4 threads"
    versions["torch"] = "2.7.1+cu126"
    found = finding(tmp_path, "torch")
    assert (found.status, found.value) == ("note", "2.7.1+cu126, build cu126, 4 threads")
    versions["torch"] = "2.4.1"
    assert finding(tmp_path, "torch").status == "problem"
    versions["torch"] = "2.10.0+cpu"
    failure = "its import dies of an illegal instruction"
    monkeypatch.setattr(doctor, "_try_torch", lambda: ("", failure))
    found = finding(tmp_path, "torch")
    assert (found.status, found.value) == ("problem", f"2.10.0+cpu, CPU build: {failure}")
    assert "weebill.runtime" in found.advice
    versions.clear()
    assert finding(tmp_path, "torch").value.startswith("not installed")


def missing(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("code", "threads", "failure"),
    [
        ("def get_num_threads(): return 3", "3", ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "", "illegal instruction"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "", "dies of signal 9"),
        ("raise ImportError('libgomp is missing')", "", "fails: ImportError: libgomp is missing"),
    ],
)
def test_trying_torch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    threads: str,
    failure: str,
) -> None:
    monkeypatch.undo()
    write(tmp_path, "torch.py", code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor._try_torch()
    assert found[0] == threads
    assert failure in found[1]
    assert bool(failure) == bool(found[1])


def test_numbers_and_lists() -> None:
    assert as_number("1.5") == 1.5
    assert [as_number(text) for text in (None, "", "x", "inf", "nan")] == [None] * 5
    assert count_list("0-3,8,10-11") == 7
    assert [count_list(text) for text in ("", "a", "1-", "9" * 40)] == [None] * 4
