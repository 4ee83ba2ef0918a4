"""Interleaved timing: rounds in which every contender gets one turn, in rotating order.

A turn is a few untimed calls, which bring the contender's weights and code back into the
caches that the others just filled, and then timed calls, each with its own time stamp.  The
base, which all others are compared with, has a turn before and after every one of theirs: a
shared machine changes its pace within tenths of a second, and what stands a whole round away
from a turn ran on another machine.  A turn in which the core was shared is repeated at once, a
few times at most; a round that stays tainted is left out of the statistics as long as enough
clean rounds remain.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from weebill.bench.interference import Interference, interference, read_counters
from weebill.bench.stats import geometric_mean, turn_figures

Samples = npt.NDArray[np.float64]  # nanoseconds per call


@dataclass(frozen=True)
class Plan:
    """How long and how carefully to measure."""

    rounds: int = 20
    seconds: float = math.inf  # no further round once so much is spent and `min_rounds` are done
    min_rounds: int = 8
    turn_ns: float = 25e6  # wall time of the timed calls in one turn
    min_calls: int = 3
    max_calls: int = 500
    refill: int = 1  # untimed calls at the start of a turn
    settle_ns: float = 0.0  # and as many more as take so long
    repeats: int = 2  # further tries of a tainted turn
    min_clean: int = 5  # below that many clean rounds the tainted ones count too
    pause_s: float = 0.0  # before each turn: lets other processes' pools fall asleep


@dataclass(frozen=True)
class Turn:
    """Result of one turn: wall and processor time of each call."""

    samples: Samples
    cpu: Samples
    disturbed: Interference


class Contender(Protocol):
    """Something that can be given a turn, here or in another process."""

    def turn(self, refill: int, calls: int) -> Turn:
        """Run `refill` untimed and `calls` timed inferences."""


def time_calls(run: Callable[[], None], calls: int) -> tuple[Samples, Samples]:
    """Wall and processor time of each of `calls` calls, in nanoseconds.

    Processor time is the whole process's.  It leaves out the time in which others had the
    core, so with one thread it still tells something on a busy machine.  Its clock is a
    system call, hence read outside the wall time's stamps.
    """
    clock, cpu_clock = time.perf_counter_ns, time.process_time_ns
    wall = [0] * calls
    cpu = [0] * (calls + 1)
    cpu[0] = cpu_clock()
    for i in range(calls):
        start = clock()
        run()
        wall[i] = clock() - start
        cpu[i + 1] = cpu_clock()
    return np.asarray(wall, dtype=np.float64), np.diff(np.asarray(cpu, dtype=np.float64))


def take_turn(run: Callable[[], None], cpus: Sequence[int], refill: int, calls: int) -> Turn:
    """One turn in this process."""
    for _ in range(refill):
        run()
    before = read_counters(cpus)
    start = time.perf_counter_ns()
    samples, cpu = time_calls(run, calls)
    elapsed = time.perf_counter_ns() - start
    return Turn(samples, cpu, interference(before, read_counters(cpus), elapsed))


def rotated(names: Sequence[str], round_index: int) -> list[str]:
    """Order of turns in a round: every contender follows each of the others equally often.

    Plain rotation alone would keep each contender behind the same one for ever, so every
    second cycle runs backwards.
    """
    if not names:
        return []
    cycle, shift = divmod(round_index, len(names))
    order = [*names[shift:], *names[:shift]]
    return order[::-1] if cycle % 2 else order


def calls_per_turn(first: Samples, plan: Plan) -> int:
    """How many calls fill a turn, judged by the fastest of a few first calls."""
    fastest = max(1.0, float(first.min()))
    return int(np.clip(plan.turn_ns / fastest, plan.min_calls, plan.max_calls))


def refill_calls(first: Samples, plan: Plan) -> int:
    """How many untimed calls begin a turn."""
    return plan.refill + int(plan.settle_ns / max(1.0, float(first.min())))


@dataclass
class Record:
    """All turns of one contender, by round."""

    rounds: list[Samples] = field(default_factory=list)
    cpu: list[Samples] = field(default_factory=list)
    tainted: list[bool] = field(default_factory=list)
    beside: list[Beside] = field(default_factory=list)  # empty for the base, and without one
    retried: int = 0  # turns thrown away and repeated

    @property
    def often_clean(self) -> bool:
        """Whether to repeat a turn is worth it: one of four at least was not disturbed.

        Where a pool's threads wake each other on one core they disturb every turn themselves.
        """
        turns = len(self.rounds) + self.retried
        return turns < 6 or 4 * self.tainted.count(False) >= turns

    def add(self, turn: Turn) -> None:
        """Append a turn."""
        self.rounds.append(turn.samples)
        self.cpu.append(turn.cpu)
        self.tainted.append(turn.disturbed.tainted)


@dataclass(frozen=True)
class Beside:
    """The base's turns next to one of another contender."""

    figure: float  # nanoseconds
    tainted: bool  # both

    @staticmethod
    def of(before: Turn, after: Turn) -> Beside:
        """Geometric mean of the figures of both turns, or that of the undisturbed one."""
        clean = [turn for turn in (before, after) if not turn.disturbed.tainted]
        figures = turn_figures([turn.samples for turn in clean or (before, after)])
        return Beside(geometric_mean([float(f) for f in figures]), not clean)


@dataclass
class Measured:
    """What `measure` returns: records by name, and what went wrong with the others."""

    records: dict[str, Record]
    broken: dict[str, str]
    interrupted: bool = False


def clean_rounds(record: Record, min_clean: int) -> tuple[list[int], bool]:
    """Rounds of a record to evaluate, and whether tainted ones had to be kept among them.

    A round is clean when neither the turn in it was disturbed nor both of the base's beside it:
    ratios need both sides. Where too few are, those count in which the base was not disturbed.
    """
    rounds = range(len(record.rounds))
    sound = [k for k in rounds if not (record.beside and record.beside[k].tainted)]
    clean = [k for k in sound if not record.tainted[k]]
    if len(clean) >= min(min_clean, len(rounds)):
        return clean, False
    return sound if len(sound) >= min(min_clean, len(rounds)) else list(rounds), True


def measure(
    contenders: Mapping[str, Contender],
    plan: Plan,
    progress: Callable[[int], None] = lambda _round: None,
    base: str | None = None,
) -> Measured:
    """Measure all contenders against each other.

    One that raises RuntimeError (its process died) leaves the measurement, the others go on.
    Ctrl-C ends the measurement early and keeps every complete round, and so does the end of the
    plan's time.

    Args:
        contenders: By name.
        plan: How long.
        progress: Called after each round with the number of rounds done.
        base: The contender that the others are compared with, if it is there: it has a turn
            before and after each of theirs.
    """
    run = _Measurement(contenders, plan, base)
    start = time.monotonic()
    run.warm_up()
    try:
        for index in range(plan.rounds):
            # Where every turn is disturbed, repeating them would take three times the plan's time.
            spent = time.monotonic() - start
            in_time = index == 0 or spent * plan.min_rounds <= plan.seconds * index
            run.round(index, plan.repeats if in_time else 0)
            progress(index + 1)
            spent = time.monotonic() - start
            # a round more would take as long as those before
            if index + 1 >= plan.min_rounds and spent * (index + 2) / (index + 1) > plan.seconds:
                break
    except KeyboardInterrupt:
        return Measured(run.records, run.broken, interrupted=True)
    return Measured(run.records, run.broken)


class _Measurement:
    """The state of `measure`."""

    def __init__(self, contenders: Mapping[str, Contender], plan: Plan, base: str | None) -> None:
        self.records: dict[str, Record] = {}
        self.broken: dict[str, str] = {}
        self._contenders = contenders
        self._plan = plan
        self._base = base
        self._calls: dict[str, tuple[int, int]] = {}  # untimed and timed

    def warm_up(self) -> None:
        """Find out how many calls fill a turn of each."""
        plan = self._plan
        for name, contender in self._contenders.items():
            try:
                contender.turn(0, plan.min_calls)  # warm-up
                first = contender.turn(1, plan.min_calls).samples
            except RuntimeError as error:
                self.broken[name] = str(error)
            else:
                self._calls[name] = refill_calls(first, plan), calls_per_turn(first, plan)
                self.records[name] = Record()

    def round(self, index: int, repeats: int) -> None:
        """A turn of each; what is interrupted leaves no trace."""
        compared = self._base in self.records and len(self.records) > 1
        names = [name for name in self.records if not (compared and name == self._base)]
        taken: list[tuple[str, Turn, Beside | None]] = []
        last = self._turn(self._base, repeats) if compared else None
        if self._base is not None and last is not None:
            taken.append((self._base, last, None))
        for name in rotated(names, index):
            turn = self._turn(name, repeats)
            if turn is None:
                continue
            after = self._turn(self._base, repeats) if last is not None else None
            if self._base is not None and after is not None:
                taken.append((self._base, after, None))
            beside = Beside.of(last, after) if last is not None and after is not None else None
            taken.append((name, turn, beside))
            last = after
        for name, turn, beside in taken:
            if name in self.records:
                self.records[name].add(turn)
                if beside is not None:
                    self.records[name].beside.append(beside)

    def _turn(self, name: str | None, repeats: int) -> Turn | None:
        """A turn, repeated where it was tainted and that is worth it; None of one that died."""
        if name is None or name not in self.records:
            return None
        record, contender = self.records[name], self._contenders[name]
        left = repeats if record.often_clean else 0
        try:
            while True:
                if self._plan.pause_s > 0.0:
                    time.sleep(self._plan.pause_s)
                turn = contender.turn(*self._calls[name])
                if not turn.disturbed.tainted or left == 0:
                    return turn
                left -= 1
                record.retried += 1
        except RuntimeError as error:
            self.broken[name] = str(error)
            del self.records[name]
            return None


def single_stream(
    contenders: Mapping[str, Contender],
    plan: Plan,
    progress: Callable[[int], None] = lambda _round: None,
    *,
    min_queries: int = 1024,
    min_ns: float = 60e9,
) -> Measured:
    """One contender after another, each with one query after another, as MLPerf's single stream.

    Nothing is repeated or left out: what other work did to the queries is part of the answer.

    Args:
        contenders: By name.
        plan: Its `rounds` scale the progress; its `turn_ns` is the length of a turn.
        progress: Called after each turn with the share that is done, in rounds.
        min_queries: Of each contender, at least.
        min_ns: Sum of the queries' times of each contender, at least.
    """
    measured = Measured({}, {})
    for index, (name, contender) in enumerate(contenders.items()):
        record = Record()
        queries, spent = 0, 0.0
        try:
            contender.turn(0, plan.min_calls)  # warm-up
            calls = calls_per_turn(contender.turn(1, plan.min_calls).samples, plan)
            while queries < min_queries or spent < min_ns:
                turn = contender.turn(0, calls)
                record.add(turn)
                queries += turn.samples.size
                spent += float(turn.samples.sum())
                share = min(queries / min_queries, spent / min_ns if min_ns else 1.0, 1.0)
                progress(int(plan.rounds * (index + share) / len(contenders)))
        except KeyboardInterrupt:
            measured.interrupted = True
            if record.rounds:
                measured.records[name] = record
            return measured
        except RuntimeError as error:
            measured.broken[name] = str(error)
        else:
            measured.records[name] = record
    return measured
