"""Converts cases for engines, on all cores, before anything is timed.

Most of it is imports (torch, a converter) and compilers written in Python. So a process converts
many cases, and for all engines of its Python; engines with slow converters have processes of their
own, which start first, so that all cores are busy to the end.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from weebill.bench.case import Case
from weebill.bench.engines import make_engine
from weebill.bench.options import Options, Progress
from weebill.bench.worker import Worker, python_of

__all__ = ["convert"]

Job = tuple[str, Case]  # engine and case


def convert(
    cases: Sequence[Case], versions: Mapping[str, str], options: Options, progress: Progress
) -> dict[tuple[str, Path], str]:
    """Convert every case for every engine where that has not been done.

    Args:
        cases: What to convert.
        versions: Of the engines that are here, by name.
        options: Its thread counts tell what an engine refuses.
        progress: Told after every conversion.

    Returns:
        What went wrong, by engine and the case's folder.
    """
    jobs: dict[tuple[bool, str], deque[Job]] = {}
    for name, version in versions.items():
        engine = make_engine(name)
        for case in cases:
            refused = all(engine.refuses(case, n) for n in options.threads)
            if not refused and not (case.folder / f"{name}-{version}").exists():
                process = (False, name) if engine.heavy else (True, python_of(name))
                jobs.setdefault(process, deque()).append((name, case))
    failed: dict[tuple[str, Path], str] = {}
    if not jobs:
        return failed
    total = sum(map(len, jobs.values()))
    done = itertools.count(1)

    def run(own: deque[Job]) -> None:
        for (name, case), problem in _convert_all(own):
            if problem is not None:
                failed[name, case.folder] = problem
            progress(f"converted {next(done)} of {total}: {name}, {case.name}", 0.0)

    names = dict.fromkeys(name for own in jobs.values() for name, _ in own)
    progress(f"converting for {', '.join(names)}", 0.0)
    cores = os.cpu_count() or 1
    pool = ThreadPoolExecutor(max_workers=cores)
    # A slow converter is not started twice where that would keep another from its core.
    heavy = max(1, cores // len(jobs))
    processes = [
        own for key, own in sorted(jobs.items()) for _ in range(cores if key[0] else heavy)
    ]
    try:
        for future in as_completed([pool.submit(run, own) for own in processes]):
            future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return failed


def _convert_all(jobs: deque[Job]) -> Iterator[tuple[Job, str | None]]:
    """Convert in one process until no job is left; each with what went wrong, or None."""
    worker: Worker | None = None
    try:
        while jobs:
            try:
                job = jobs.popleft()
            except IndexError:  # another process took the last
                return
            name, case = job
            worker = worker or Worker(name, {"OMP_NUM_THREADS": "1"})
            try:
                worker.call("export", name, str(case.folder))
            except RuntimeError as error:
                worker.close()
                worker = None
                yield job, str(error)
            else:
                yield job, None
    finally:
        if worker is not None:
            worker.close()
