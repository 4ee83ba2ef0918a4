"""Cold start, first call and memory, each engine in a process of its own.

The process does what an application does: import the engine, load the model from its file,
run once, run on.  Files are in the page cache (they were just written or read), so loading
measures the engine and not the disk.  Run as a program this module is that process::

    python -m bench.cold ENGINE EXPORT_FOLDER INPUT.npy THREADS RESULT.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from bench.case import Case
    from bench.options import Options

CALLS = 30  # after the first one, for the steady figure and the peak of memory
TRIES = 3  # processes per engine; the fastest start counts


@dataclass(frozen=True)
class ColdRow:
    """Figures of one engine; the times are those of the fastest of `TRIES` processes."""

    case: str
    engine: str
    threads: int
    reason: str = ""  # why there are no figures
    import_ms: float = 0.0  # the engine's library and adapter
    load_ms: float = 0.0  # from file to ready, packing or compiling included
    first_ms: float = 0.0  # first call
    steady_ms: float = 0.0  # fastest later call
    library_mib: float = 0.0  # resident memory that the import added
    model_mib: float = 0.0  # what loading and running added at its peak
    peak_mib: float = 0.0  # peak of the whole process


def memory_mib(field: str) -> float:
    """``VmRSS`` (resident now) or ``VmHWM`` (its peak) of this process, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1]) / 1024.0
    raise RuntimeError(f"memory_mib: /proc/self/status has no {field}")


def run_child(name: str, folder: Path, x_path: Path, threads: int) -> dict[str, float]:
    """Body of the measured process."""
    import numpy as np

    from bench.engines import make_engine

    x = np.load(x_path)
    clock = time.perf_counter
    bare = memory_mib("VmRSS")
    start = clock()
    engine = make_engine(name)
    engine.import_library()
    imported = clock()
    with_library = memory_mib("VmRSS")
    session = engine.load(folder, x, threads)
    loaded = clock()
    session.run()
    first = clock()
    steady = float("inf")
    for _ in range(CALLS):
        before = clock()
        session.run()
        steady = min(steady, clock() - before)
    peak = memory_mib("VmHWM")
    return {
        "import_ms": (imported - start) * 1e3,
        "load_ms": (loaded - imported) * 1e3,
        "first_ms": (first - loaded) * 1e3,
        "steady_ms": steady * 1e3,
        "library_mib": with_library - bare,
        "model_mib": peak - with_library,
        "peak_mib": peak,
    }


def measure_cold(case: Case, name: str, threads: int, options: Options) -> ColdRow:
    """Figures of the engine called `name` on `case`, or the reason for having none."""
    from bench.engines import make_engine
    from bench.options import thread_environment

    engine = make_engine(name)
    if reason := engine.missing() or engine.refuses(case):
        return ColdRow(case.name, name, threads, reason)
    environment = os.environ | thread_environment(threads, options.wait_policy)
    tries: list[dict[str, float]] = []
    try:
        folder = case.exported(engine)
    except Exception as error:  # converters raise anything; the other engines go on
        return ColdRow(case.name, name, threads, f"{type(error).__name__}: {error}"[:300])
    for _ in range(TRIES):
        with tempfile.TemporaryDirectory() as scratch:
            result = Path(scratch) / "result.json"
            command = [sys.executable, "-m", "bench.cold", name, str(folder)]
            command += [str(case.folder / "input.npy"), str(threads), str(result)]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                return ColdRow(case.name, name, threads, last[:300])
            tries.append(json.loads(result.read_text()))
    best = min(tries, key=lambda figures: figures["load_ms"] + figures["first_ms"])
    return ColdRow(case.name, name, threads, "", **best)


def cold_table(rows: Sequence[ColdRow]) -> Table:
    """All rows as a table."""
    from rich.table import Table

    table = Table(title="cold start: ms and MiB, one process per engine")
    for heading in ("case", "engine"):
        table.add_column(heading)
    headings = ("threads", "import", "load", "first call", "load + first", "steady")
    for heading in (*headings, "library MiB", "model MiB", "peak MiB"):
        table.add_column(heading, justify="right")
    for row in rows:
        if row.reason:
            table.add_row(row.case, row.engine, str(row.threads), row.reason, style="dim")
            continue
        times = (row.import_ms, row.load_ms, row.first_ms, row.load_ms + row.first_ms)
        memory = (row.library_mib, row.model_mib, row.peak_mib)
        table.add_row(
            row.case,
            row.engine,
            str(row.threads),
            *(f"{value:.1f}" for value in times),
            f"{row.steady_ms:.3f}",
            *(f"{value:.1f}" for value in memory),
        )
    return table


def write_cold(path: Path, context: dict[str, object], rows: Sequence[ColdRow]) -> None:
    """Write rows and machine as JSON."""
    document = {"context": context, "cold": [asdict(row) for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    _name, _folder, _x, _threads, _result = sys.argv[1:]
    _figures = run_child(_name, Path(_folder), Path(_x), int(_threads))
    Path(_result).write_text(json.dumps(_figures))
