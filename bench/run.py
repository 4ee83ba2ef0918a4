"""Measures one case with all engines: export, check, time, check again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from bench.case import Case, relative_error
from bench.contenders import LocalContender, WorkerContender, make_contender
from bench.engines import make_engine
from bench.engines.base import Settings
from bench.options import Options
from bench.stats import Ratio, Summary, bootstrap_ratio, summarize
from bench.timing import Plan, Record, clean_rounds, measure

OURS = "weebill"
# Engines that spin keep doing so for a few milliseconds after a call.
WORKER_PAUSE_S = 0.02

# ok: measured; wrong: output differs from float64, not timed; failed: could not be exported
# or loaded; skipped: not installed or not applicable.
OK, WRONG, FAILED, SKIPPED = "ok", "wrong", "failed", "skipped"


@dataclass
class Row:
    """One engine on one case with one thread count."""

    case: str
    engine: str
    threads: int
    shape: tuple[int, ...]
    macs: int
    status: str
    reason: str = ""
    version: str = ""
    settings: Settings = field(default_factory=Settings)
    error: float | None = None  # relative to float64
    time_ms: Summary | None = None  # what tables and ratios use: --metric
    wall_ms: Summary | None = None
    cpu_ms: Summary | None = None
    gflops: float | None = None  # by the minimum
    peak_share: float | None = None
    rounds: int = 0
    tainted: bool = False  # tainted rounds had to be kept
    retried: int = 0
    ratio_median: Ratio | None = None  # this engine's time over weebill's
    ratio_minimum: Ratio | None = None

    def as_json(self) -> dict[str, object]:
        """Row in google-benchmark's shape with its own fields beside."""
        time = self.time_ms
        name = f"{self.case}/threads:{self.threads}/{self.engine}"
        return {
            "name": name,
            "run_name": name,
            "run_type": "iteration",
            "repetitions": self.rounds,
            "iterations": time.count if time else 0,
            "real_time": self.wall_ms.median if self.wall_ms else None,
            "cpu_time": self.cpu_ms.median if self.cpu_ms else None,
            "time_unit": "ms",
            "error_occurred": self.status in (WRONG, FAILED),
            "error_message": self.reason,
            **asdict(self),
        }


def measure_case(
    case: Case,
    threads: int,
    options: Options,
    progress: Callable[[str, int], None],
) -> list[Row]:
    """Rows of all engines of `options` on `case`.

    Args:
        case: What to run.
        threads: Threads of every engine.
        options: Engines, rounds, cores.
        progress: Called with a stage's name and the number of rounds done.
    """
    plan = Plan(
        rounds=options.rounds,
        turn_ns=options.turn_ms * 1e6,
        pause_s=WORKER_PAUSE_S if threads > 1 else 0.0,
    )
    cpus = options.cpus[-threads:]
    rows: list[Row] = []
    contenders: dict[str, LocalContender | WorkerContender] = {}
    try:
        for name in options.engines:
            progress(f"loading {name}", 0)
            row, contender = _prepare(case, name, threads, options, cpus)
            rows.append(row)
            if contender is not None:
                contenders[name] = contender
        by_engine = {row.engine: row for row in rows}
        progress("timing", 0)
        records = measure(contenders, plan, lambda done: progress("timing", done))
        for name, contender in contenders.items():
            # Catches an engine whose later runs read what the first one overwrote.
            _check(by_engine[name], contender, case, options.tolerance)
    finally:
        for contender in contenders.values():
            contender.close()
    if records:
        _evaluate(by_engine, records, plan, options.metric)
    return rows


def _prepare(
    case: Case, name: str, threads: int, options: Options, cpus: tuple[int, ...]
) -> tuple[Row, LocalContender | WorkerContender | None]:
    engine = make_engine(name)
    row = Row(case.name, name, threads, case.shape, case.macs, OK, settings=engine.settings)
    if reason := engine.missing() or engine.refuses(case):
        row.status, row.reason = SKIPPED, reason
        return row, None
    try:
        row.version = engine.version()
        folder = case.exported(engine)
        contender = make_contender(name, folder, case.input(), threads, options.wait_policy, cpus)
        _check(row, contender, case, options.tolerance)
    except Exception as error:  # converters raise anything; the other engines go on
        row.status, row.reason = FAILED, f"{type(error).__name__}: {error}"[:500]
        return row, None
    if row.status != OK:
        contender.close()
        return row, None
    return row, contender


def _check(
    row: Row, contender: LocalContender | WorkerContender, case: Case, tolerance: float
) -> None:
    row.error = relative_error(contender.output(), case.reference())
    if row.error > tolerance:
        row.status = WRONG
        row.reason = f"relative error {row.error:.1e} to float64, more than {tolerance:.0e}"


def _evaluate(
    rows: dict[str, Row],
    records: dict[str, Record],
    plan: Plan,
    metric: str,
) -> None:
    kept, tainted = clean_rounds(records, plan.min_clean)
    wall = {name: [r.rounds[k] / 1e6 for k in kept] for name, r in records.items()}
    cpu = {name: [r.cpu[k] / 1e6 for k in kept] for name, r in records.items()}
    times = cpu if metric == "cpu" else wall
    for name, record in records.items():
        row = rows[name]
        row.rounds, row.tainted, row.retried = len(kept), tainted, record.retried
        if row.status != OK:
            continue
        row.wall_ms, row.cpu_ms = summarize(wall[name]), summarize(cpu[name])
        row.time_ms = row.cpu_ms if metric == "cpu" else row.wall_ms
        row.gflops = 2.0 * row.macs / (row.time_ms.minimum * 1e6)
        ours = rows.get(OURS)
        if name != OURS and OURS in times and ours is not None and ours.status == OK:
            row.ratio_median = bootstrap_ratio(times[name], times[OURS])
            row.ratio_minimum = bootstrap_ratio(times[name], times[OURS], statistic="minimum")


def set_peak_shares(rows: Sequence[Row], peak: float) -> None:
    """Fill in the rows' shares of the FMA peak, `peak` GFLOP/s a core."""
    for row in rows:
        if row.gflops is not None:
            row.peak_share = row.gflops / (peak * row.threads)
