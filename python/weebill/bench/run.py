"""A run: make the cases, convert them, check every engine's answer, time, check again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from weebill.bench.case import Case, make_case
from weebill.bench.conversion import convert
from weebill.bench.engines import make_engine
from weebill.bench.options import Options, Progress, worker_environment
from weebill.bench.reference import relative_error
from weebill.bench.results import FAILED, OK, OURS, SKIPPED, WRONG, Row, ours
from weebill.bench.roofline import Peaks, set_shares
from weebill.bench.seats import Seats
from weebill.bench.stats import (
    paired_ratio,
    quantile_ratio,
    summarize,
    turn_figures,
    unpaired_ratio,
)
from weebill.bench.suites import Block, load_suite, operators, resize, unrolled
from weebill.bench.timing import Plan, Record, clean_rounds, measure, single_stream
from weebill.bench.worker import Worker, python_of

__all__ = ["DEFAULT_NETWORKS", "Runner", "case_blocks", "make_cases"]

DEFAULT_NETWORKS = (
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
)
# Threads that spin keep doing so for a few milliseconds after a call.
THREADS_PAUSE_S = 0.02
# Threads that slept wake on the core of the one that wakes them, until the kernel's next ticks.
THREADS_SETTLE_NS = 8e6


def case_blocks(options: Options) -> list[tuple[str, str, tuple[Block, ...]]]:
    """Name, suite and blocks of every case that the selection means, sizes and batches aside.

    Raises:
        ValueError: The selection matches nothing.
    """
    if options.kind == "models":
        return [
            (name, name, unrolled(load_suite(name).blocks))
            for name in options.select or DEFAULT_NETWORKS
        ]
    names = [name for name in options.select if _is_suite(name)]
    parts = [name for name in options.select if not _is_suite(name)]
    default = (*DEFAULT_NETWORKS[:2], "published") if options.kind == "blocks" else names
    found: dict[str, tuple[str, str, tuple[Block, ...]]] = {}
    for suite in names or default or DEFAULT_NETWORKS[:1]:
        for blocks in _pieces(suite, options):
            name = blocks[0].name if options.kind == "ops" else f"{suite}.{blocks[0].name}"
            if not parts or any(part in name for part in parts):
                found.setdefault(name, (name, suite, blocks))
    if not found:
        raise ValueError(f"no {options.kind} match {', '.join(options.select)}; see --list")
    return list(found.values())


def _is_suite(name: str) -> bool:
    try:
        load_suite(name)
    except ValueError:
        return False
    return True


def _pieces(name: str, options: Options) -> Iterable[tuple[Block, ...]]:
    """The cases of a suite: its distinct blocks, or their operators.

    What follows a network's pool works on vectors and is one piece with it, the head.
    """
    suite = load_suite(name)
    blocks = list(unrolled(suite.blocks))
    if suite.network and options.sizes:
        blocks = list(resize(suite.blocks, *options.sizes[0]))
    seen: set[Block] = set()
    for index, block in enumerate(blocks):
        if block.kind == "pool" and options.kind == "blocks":
            yield (replace(block, name="head"), *blocks[index + 1 :])
            return
        parts = operators(block) if options.kind == "ops" else (block,)
        for part in parts:
            if part not in seen:
                seen.add(part)
                yield (_operator_name(part),) if options.kind == "ops" else (part,)


def _operator_name(block: Block) -> Block:
    """Blocks that are one operator already are named by their shape too."""
    if block.kind not in ("conv2d", "pool", "max_pool") or block.name.startswith("pointwise_"):
        return block
    size = f"{block.h}x{block.w}"
    tail = "" if block.activation == "none" else f"_{block.activation}"
    label = f"conv_k{block.k}s{block.s}" if block.kind == "conv2d" else block.kind
    if block.kind == "conv2d" and block.k == 1:
        label = "pointwise"
    channels = f"{block.c_in}-{block.c_out}" if block.kind == "conv2d" else f"{block.c_in}"
    return replace(block, name=f"{label}_{size}_{channels}{tail}")


def make_cases(options: Options, progress: Progress = lambda _what, _share: None) -> list[Case]:
    """The cases of a run, made or found in the cache."""
    cases: list[Case] = []
    for size in options.sizes:
        sized = replace(options, sizes=(size,))
        for name, suite, blocks in case_blocks(sized):
            for batch in options.batches:
                label = name + (f"/batch:{batch}" if options.kind != "models" else "")
                if options.kind == "models":
                    blocks = resize(load_suite(name).blocks, *size)
                    label = f"{name}/{size[0]}x{size[1]}/batch:{batch}"
                elif batch == 1:
                    label = name
                progress(f"preparing {label}", 0.0)
                case = make_case(
                    label,
                    blocks,
                    options.cache,
                    suite=suite,
                    batch=batch,
                    norm=options.kind != "ops",
                )
                if case not in cases:
                    cases.append(case)
    return cases


class Runner:
    """Runs the cases of `options` and collects rows; Ctrl-C leaves what is there.

    Args:
        options: What to run.
        cases: From `make_cases`.
        peaks: Of the machine by instruction set, for the rows' shares.
        progress: Told what is going on.
        save: Called after every case with all rows so far.
        deadline: When the run should end (`time.monotonic`): what is left of the time is shared
            out over the cases, and rounds beyond the fewest that make an interval are left out.
    """

    def __init__(
        self,
        options: Options,
        cases: Sequence[Case],
        peaks: Mapping[str | None, Peaks],
        progress: Progress,
        save: Callable[[list[Row]], None] = lambda _rows: None,
        deadline: float = math.inf,
    ) -> None:
        self.rows: list[Row] = []
        self.interrupted = False
        self._options = options
        self._cases = cases
        self._peaks = peaks
        self._progress = progress
        self._save = save
        self._deadline = deadline
        self._facts: dict[str, dict[str, str | None]] = {}
        self._failed: dict[tuple[str, Path], str] = {}  # conversions

    def run(self) -> None:
        """Convert, then measure every case with every instruction set and thread count.

        Ctrl-C while timing ends the run and keeps what was measured; `interrupted` tells.
        """
        options = self._options
        self._describe()
        versions = {
            name: facts["version"] or ""
            for name, facts in self._facts.items()
            if not facts["missing"]
        }
        self._failed = convert(self._cases, versions, options, self._progress)
        units = [(isa, n) for isa in options.isas for n in options.threads]
        for index, (isa, threads) in enumerate(units):
            environment = worker_environment(isa, threads, options.wait_policy)
            usable = [name for name in options.backends if not self._facts[name]["missing"]]
            cpus = options.cpus[-threads:]
            seats = Seats(usable, environment, cpus)
            try:
                self._progress("starting the engines", index / len(units))
                seats.prepare()
                for number, case in enumerate(self._cases):
                    step = 1.0 / (len(self._cases) * len(units))
                    done = (index * len(self._cases) + number) * step
                    now = time.monotonic()
                    end = now + (self._deadline - now) * step / (1.0 - done)
                    self.rows += self._measure(case, isa, threads, seats, end, done, step)
                    self._save(self.rows)
                    if self.interrupted:
                        return
            finally:
                seats.close()

    def _describe(self) -> None:
        """Versions, and why an engine is missing; asked of each engine's own Python."""
        for name in self._options.backends:
            if not self._options.slow and (reason := make_engine(name).slow):
                self._facts[name] = {"missing": reason, "version": ""}
        wanted = [name for name in self._options.backends if name not in self._facts]
        pythons = {python_of(name): name for name in wanted}
        workers = {python: Worker(name, {}) for python, name in pythons.items()}
        try:
            for name in wanted:
                workers[python_of(name)].send("describe", name)
            for name in wanted:
                try:
                    self._facts[name] = workers[python_of(name)].receive()
                except RuntimeError as error:
                    self._facts[name] = {"missing": str(error), "version": ""}
        finally:
            for worker in workers.values():
                worker.close()

    def _measure(
        self,
        case: Case,
        isa: str | None,
        threads: int,
        seats: Seats,
        end: float,
        done: float,
        step: float,
    ) -> list[Row]:
        options = self._options
        self._progress(f"{case.name}, threads {threads}: loading", done)
        rows = [self._row(case, name, isa, threads) for name in options.backends]
        by_engine = {row.engine: row for row in rows}
        self._load(case, threads, [row for row in rows if row.status == OK], seats)
        contenders = {row.engine: seats[row.engine] for row in rows if row.status == OK}
        plan = Plan(
            rounds=options.rounds,
            seconds=end - time.monotonic(),
            turn_ns=options.turn_ms * 1e6,
            pause_s=THREADS_PAUSE_S if threads > 1 else 0.0,
            settle_ns=THREADS_SETTLE_NS if threads > 1 else 0.0,
        )

        def show(finished: int) -> None:
            share = done + step * finished / plan.rounds
            self._progress(f"{case.name}, threads {threads}: timing", share)

        if options.mode == "single-stream":
            measured = single_stream(contenders, plan, show)
        else:
            measured = measure(contenders, plan, show, next(filter(contenders.get, OURS), None))
        for name, problem in measured.broken.items():
            by_engine[name].status, by_engine[name].reason = FAILED, problem
            seats.renew(name)
        for name in () if measured.interrupted else measured.records:
            # Catches an engine whose later runs read what the first one overwrote.
            check_output(by_engine[name], seats[name].output(), case, options.tolerance)
        interleaved = options.mode != "single-stream"
        evaluate(by_engine, measured.records, plan.min_clean, interleaved=interleaved)
        self.interrupted = measured.interrupted
        if isa in self._peaks:
            set_shares(rows, self._peaks[isa])
        return rows

    def _row(self, case: Case, name: str, isa: str | None, threads: int) -> Row:
        engine = make_engine(name)
        row = Row(
            case.name,
            case.suite,
            name,
            threads,
            isa or "native",
            case.shape,
            case.macs,
            case.bytes,
            version=self._facts[name]["version"] or "",
            settings=engine.settings,
        )
        if reason := self._facts[name]["missing"] or engine.refuses(case, threads):
            row.status, row.reason = SKIPPED, reason
        elif problem := self._failed.get((name, case.folder)):
            row.status, row.reason = FAILED, problem
        return row

    def _load(self, case: Case, threads: int, rows: Sequence[Row], seats: Seats) -> None:
        """Load all engines at the same time, then compare their answers."""
        asked = [(row, seats[row.engine]) for row in rows]
        for row, seat in asked:
            folder = case.folder / f"{row.engine}-{row.version}"
            seat.send_load(folder, case.folder / "input.npy", threads)
        for row, seat in asked:
            try:
                output = seat.worker.receive()
            except RuntimeError as error:
                row.status, row.reason = FAILED, str(error)
            else:
                check_output(row, output, case, self._options.tolerance)
        for row in rows:
            if row.status == FAILED:
                seats.renew(row.engine)


def check_output(row: Row, output: npt.NDArray[Any], case: Case, tolerance: float) -> None:
    """Set the row's error, and its status where that is too large."""
    row.error = relative_error(output, case.reference())
    if row.error > tolerance:
        row.status = WRONG
        row.reason = f"relative error {row.error:.1e} to float64, more than {tolerance:.0e}"


def evaluate(
    rows: dict[str, Row], records: dict[str, Record], min_clean: int, *, interleaved: bool = True
) -> None:
    """Fill in times and ratios from the rounds that nobody disturbed; see `clean_rounds`.

    A ratio is that of turns beside each other; with several threads, of all calls. Records that
    were not interleaved have no base beside their turns: all of them count, and a ratio is one of
    medians.
    """
    calls = {}
    for name, record in records.items():
        kept, tainted = list(range(len(record.rounds))), any(record.tainted)
        if interleaved:
            kept, tainted = clean_rounds(record, min_clean)
        row = rows[name]
        row.tainted, row.retried = tainted, record.retried
        row.dropped = len(record.rounds) - len(kept)
        if row.status != OK or not kept:
            continue
        wall = calls[name] = [record.rounds[k] / 1e6 for k in kept]
        row.wall_ms = summarize(wall)
        row.queries = row.wall_ms.count
        row.cpu_ms = summarize([record.cpu[k] / 1e6 for k in kept])
        row.turn_ms = [float(t) for t in turn_figures(wall)]
        if record.beside:
            row.base_ms = [record.beside[k].figure / 1e6 for k in kept]
        row.gflops = 2.0 * row.macs / (row.wall_ms.minimum * 1e6)
    base = ours(list(rows.values()))
    if base is None or (interleaved and records[base.engine].beside):  # another was the base
        return
    for row in rows.values():
        if row is base or not row.turn_ms:
            continue
        if not interleaved:
            row.ratio = unpaired_ratio(row.turn_ms, base.turn_ms)
        elif row.base_ms and row.threads > 1:
            row.ratio = quantile_ratio(calls[row.engine], calls[base.engine])
        elif row.base_ms:
            row.ratio = paired_ratio(row.turn_ms, row.base_ms)
