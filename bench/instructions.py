"""Guards the number of instructions that the kernels and blocks execute.

Instruction counts repeat exactly on a busy machine, where times do not. Every row of the
micro-benchmark runs twice, in a process that does nothing else, and the second run counts (the
first makes what is made once): under callgrind, or for aarch64 under qemu (bench/emulated.py).

    python -m bench.instructions check BENCH_KERNELS     # 2 % more than the baseline fails
    python -m bench.instructions update BENCH_KERNELS    # a new baseline
    python -m bench.instructions plot history.svg

BENCH_KERNELS is build/PRESET/bench/csrc/bench_kernels of the preset release or arm64.

The baseline names the compiler. Another compiler's counts are printed beside it and fail nothing:
they differ by more than a change of ours would.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

from bench import emulated

HERE = Path(__file__).resolve().parent
# By architecture.
BASELINES = {
    "x86_64": HERE / "baselines" / "instructions.json",
    "aarch64": HERE / "baselines" / "instructions_aarch64.json",
}
HISTORY = HERE / "baselines" / "history.csv"
# neon_fp16 is neon's float16 kernels, on a processor that has such arithmetic.
ISAS = {"x86_64": ("avx2", "scalar"), "aarch64": ("neon", "neon_inorder", "neon_fp16")}
LIMIT = 0.02  # more instructions than that fail
# Rows that take long to emulate and whose code other rows cover.
LARGE = ("m12544_", "m3136_", "m784_", "_n672", "k672_")  # products
NETWORKS = (
    *("mobilenet_v1/", "mobilenet_v2/", "mobilenet_v3_large/", "efficientnet_lite0/"),
    *("xnnpack_separable/", "shufflenet_v2_x1_0/"),
)
SKIP = {
    "avx2": NETWORKS,
    "scalar": (
        *("mobilenet_", "efficientnet_lite0/", "xnnpack_separable/", "published/"),
        *("shufflenet_", *LARGE),
    ),
    "neon": (*NETWORKS, "published/", "shufflenet_v1_g3/28_", "shufflenet_v1_g3/56", *LARGE),
    # Differs from neon in products and depthwise rows alone.
    "neon_inorder": (
        *LARGE,
        *(
            f"kernel/{stem}"
            for stem in ("conv2d", "depthwise_any", "depthwise_backward", "moments")
        ),
        *(f"kernel/{stem}" for stem in ("normalize", "pointwise_backward", "max_pool", "channel")),
        *(
            f"kernel/{stem}"
            for stem in ("sum", "scale", "copy", "block_copy", "interleave", "activate")
        ),
        "_f16/",
    ),
    "neon_fp16": LARGE,
}
ONLY = {"neon_inorder": "kernel/", "neon_fp16": "_f16/"}

Counts = dict[str, int]


def count(binary: Path, isa: str, select: str = "") -> Counts:
    """Instructions of one iteration of every row."""
    skipped = [word for part in SKIP[isa] for word in ("--skip", part)]
    half = isa == "neon_fp16"
    arguments = ["--isa", "neon" if half else isa, "--filter", ONLY.get(isa, select), *skipped]
    if emulated.is_aarch64(binary):
        cpu = emulated.HALF_CPU if half else emulated.CPU
        counts = emulated.count_rows(binary, arguments, cpu)
    else:
        counts = {name: events["Ir"] for name, events in callgrind(binary, arguments).items()}
    return {name: n for name, n in counts.items() if select in name}


def count_all(binary: Path, isas: Sequence[str], select: str = "") -> dict[str, Counts]:
    """The counts of several instruction sets, at the same time."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda isa: count(binary, isa, select), isas)
        return dict(zip(isas, found, strict=True))


def callgrind(
    binary: Path, arguments: Sequence[str], tool: Sequence[str] = ()
) -> dict[str, dict[str, int]]:
    """What callgrind counts in one iteration of every row: events by name.

    Args:
        binary: The micro-benchmark.
        arguments: Which rows.
        tool: Options of callgrind.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *tool]
        command += ["--collect-atstart=no", "--dump-instr=no", str(binary), "--count", *arguments]
        # on one thread: how threads share work out is not the same twice
        environment = {**os.environ, "WEEBILL_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-400:]}")
        rows: dict[str, dict[str, int]] = {}
        for path in Path(scratch).iterdir():
            text = path.read_text()
            name = re.search(r"^desc: Trigger: Client Request: (\S+)$", text, re.M)
            events = re.search(r"^events: (.*)$", text, re.M)
            totals = re.search(r"^(?:totals|summary): (.*)$", text, re.M)
            if name and events and totals:
                # zeros at the end of a line are left out
                counts = zip_longest(events[1].split(), map(int, totals[1].split()), fillvalue=0)
                rows[name[1]] = {str(event): int(count) for event, count in counts}
    if not rows:
        raise RuntimeError(
            f"{binary} counts nothing: it was built without valgrind's headers, or nothing matches"
        )
    return rows


def compiler_of(binary: Path) -> str:
    """What the binary was built with, as it says itself."""
    command = [str(binary), "--compiler"]
    if emulated.is_aarch64(binary):
        command = emulated.emulated(binary, command[1:])
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def compare(before: Mapping[str, int], after: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Rows whose count changed beyond the limit, or that only one side has (0 there)."""
    changed = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, 0), after.get(name, 0)
        if abs(new - old) > LIMIT * old:
            changed.append((name, old, new))
    return changed


def judge(baseline: Mapping[str, Any], compiler: str, counts: Mapping[str, Counts]) -> int:
    """Print what changed; 1 if something got worse."""
    same_compiler = baseline["compiler"] == compiler
    worse = 0
    for isa, rows in counts.items():
        for name, old, new in compare(baseline["instructions"][isa], rows):
            change = f"{new / old - 1:+.1%}" if old else "new"
            print(f"{isa:14}{name:50}{old:12}{new:12}  {change}")
            worse += new > old or new == 0
    total = sum(map(len, counts.values()))
    print(f"{total} counts, {worse} more than {LIMIT:.0%} above the baseline, or not in both")
    if worse and not same_compiler:
        print(f"not failed: the baseline is {baseline['compiler']}'s, this binary is {compiler}'s")
        return 0
    if worse:
        print("if that is meant: make instruction-baseline[-aarch64], and say why in the commit")
    return int(worse > 0)


def changes(before: Mapping[str, int], after: Mapping[str, int]) -> list[list[Any]]:
    """Of each group: its name, rows, sum, and the mean change of the rows that were there before.

    Rows come and go, so sums of two baselines do not compare; the geometric mean of the remaining
    rows' quotients does.
    """
    groups: dict[str, list[str]] = {}
    for name in after:
        groups.setdefault(name.partition("/")[0], []).append(name)
    found = []
    for group, names in sorted(groups.items()):
        quotients = [after[name] / before[name] for name in names if name in before]
        change = statistics.geometric_mean(quotients) if quotients else 1.0
        total = sum(after[name] for name in names)
        found.append([group, len(names), total, f"{change:.4f}"])
    return found


def store(baseline: Path, compiler: str, counts: Mapping[str, Counts]) -> None:
    """Write the baseline, and to the history what changed."""
    before = json.loads(baseline.read_text())["instructions"] if baseline.exists() else {}
    document = {"compiler": compiler, "instructions": counts}
    baseline.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    day, commit = datetime.date.today().isoformat(), done.stdout.strip()
    with HISTORY.open("a", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        for isa, rows in counts.items():
            for entry in changes(before.get(isa, {}), rows):
                writer.writerow([day, commit, compiler, isa, *entry])


def plot(path: Path) -> None:
    """The changes of every group over the history, multiplied up from its first entry."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with HISTORY.open() as stream:
        entries = list(csv.DictReader(stream))
    isas = list(dict.fromkeys(entry["isa"] for entry in entries))
    size = (5 * len(isas), 4)
    figure, panels = pyplot.subplots(1, len(isas), figsize=size, sharey=True, squeeze=False)
    for panel, isa in zip(panels[0], isas, strict=True):
        series: dict[str, list[float]] = {}
        for entry in entries:
            if entry["isa"] == isa:
                values = series.setdefault(entry["group"], [])
                values.append(float(entry["change"]) * (values[-1] if values else 1.0))
        for group, values in series.items():
            panel.plot([100 * value for value in values], marker="o", label=group)
        panel.set_title(isa)
        panel.set_xlabel("baseline")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("instructions, % of the first baseline")
    panels[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("check", "update", "plot"))
    parser.add_argument("path", type=Path, help="bench_kernels, or the plot to write")
    parser.add_argument("--filter", default="", help="rows whose name contains it")
    given = parser.parse_args()
    if given.action == "plot":
        plot(given.path)
        return 0
    machine = "aarch64" if emulated.is_aarch64(given.path) else "x86_64"
    tool = emulated.EMULATOR if machine == "aarch64" else "valgrind"
    if shutil.which(tool) is None:
        print(f"instructions: {tool} is not installed", file=sys.stderr)
        return 2
    if given.action == "update":
        store(BASELINES[machine], compiler_of(given.path), count_all(given.path, ISAS[machine]))
        return 0
    baseline = json.loads(BASELINES[machine].read_text())
    rows = {
        isa: {name: n for name, n in rows.items() if given.filter in name}
        for isa, rows in baseline["instructions"].items()
    }
    baseline["instructions"] = {isa: rows for isa, rows in rows.items() if rows}
    counts = count_all(given.path, list(baseline["instructions"]), given.filter)
    return judge(baseline, compiler_of(given.path), counts)


if __name__ == "__main__":
    sys.exit(main())
