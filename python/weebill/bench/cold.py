"""Cold start, first call and memory, each engine in a process of its own.

The process does what an application does: import the engine, load the model from its file, run
once, run on. Files are in the page cache (they were just written or read), so loading measures the
engine and not the disk. Run as a program this module is that process::

    python -m weebill.bench.cold ENGINE EXPORT_FOLDER INPUT.npy THREADS RESULT.json
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weebill.bench.case import Case
from weebill.bench.options import Options, Progress, worker_environment
from weebill.bench.worker import Worker, python_of

__all__ = ["measure_cold"]

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

    from weebill.bench.engines import make_engine

    x = np.load(x_path)
    clock = time.perf_counter
    bare = memory_mib("VmRSS")
    start = clock()
    engine = make_engine(name)
    engine.import_library()
    gc.collect()  # torch's import makes one due, which would else fall into any later step
    imported = clock()
    with_library = memory_mib("VmRSS")
    session = engine.load(folder, x, threads)
    loaded = clock()
    with session.active():
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


def measure_cold(
    cases: Sequence[Case], options: Options, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Figures of every engine on every case, or the reasons for having none, one after another."""
    jobs = [(c, n, name) for c in cases for n in options.threads for name in options.backends]
    for index, (case, threads, name) in enumerate(jobs):
        progress(f"{case.name}: {name}", index / len(jobs))
        yield asdict(_measure(case, name, threads, options))


def _measure(case: Case, name: str, threads: int, options: Options) -> ColdRow:
    from weebill.bench.engines import make_engine

    engine = make_engine(name)
    if engine.slow and not options.slow:
        return ColdRow(case.name, name, threads, engine.slow)
    worker = Worker(name, {})
    try:
        reason = worker.call("describe", name)["missing"]
        reason = reason or engine.refuses(case, threads)
        folder = "" if reason else worker.call("export", name, str(case.folder))
    except RuntimeError as error:
        reason = str(error)
    finally:
        worker.close()
    if reason:
        return ColdRow(case.name, name, threads, reason)
    environment = os.environ | worker_environment(options.isas[0], threads, options.wait_policy)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # installed packages have theirs
    tries: list[dict[str, float]] = []
    for _ in range(TRIES):
        with tempfile.TemporaryDirectory() as scratch:
            result = Path(scratch) / "result.json"
            command = [python_of(name), "-m", "weebill.bench.cold", name, folder]
            command += [str(case.folder / "input.npy"), str(threads), str(result)]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                return ColdRow(case.name, name, threads, last[:300])
            tries.append(json.loads(result.read_text()))
    best = min(tries, key=lambda t: t["import_ms"] + t["load_ms"] + t["first_ms"])
    return ColdRow(case.name, name, threads, "", **best)


if __name__ == "__main__":
    _name, _folder, _x, _threads, _result = sys.argv[1:]
    _figures = run_child(_name, Path(_folder), Path(_x), int(_threads))
    Path(_result).write_text(json.dumps(_figures))
