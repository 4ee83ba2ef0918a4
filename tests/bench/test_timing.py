"""Order of turns, length of turns, and what happens to disturbed ones."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from weebill.bench.interference import Interference
from weebill.bench.timing import (
    Beside,
    Plan,
    Record,
    Turn,
    calls_per_turn,
    clean_rounds,
    measure,
    rotated,
    single_stream,
    take_turn,
    time_calls,
)

QUIET = Interference(0.0, 0)
NOISY = Interference(0.5, 0)


class Scripted:
    """A contender whose turns are tainted as told, and which logs what was asked of it."""

    def __init__(self, name: str, log: list[str], taints: list[bool] | None = None) -> None:
        self.name = name
        self.log = log
        self.taints = taints or []
        self.calls: list[tuple[int, int]] = []

    def turn(self, refill: int, calls: int) -> Turn:
        """One turn of constant samples; the first two are warm-up and calibration."""
        self.calls.append((refill, calls))
        self.log.append(self.name)
        timed = len(self.calls) - 3
        tainted = 0 <= timed < len(self.taints) and self.taints[timed]
        samples = np.full(calls, 1e6)
        return Turn(samples, samples, NOISY if tainted else QUIET)


class Dying(Scripted):
    """Ends behind its second timed turn."""

    def turn(self, refill: int, calls: int) -> Turn:
        if len(self.calls) == 4:
            raise RuntimeError("process ended")
        return super().turn(refill, calls)


def test_rotation_gives_every_contender_every_place() -> None:
    names = ["a", "b", "c"]
    orders = [rotated(names, k) for k in range(6)]
    assert all(sorted(order) == names for order in orders)
    for place in range(3):
        assert Counter(order[place] for order in orders) == {"a": 2, "b": 2, "c": 2}


def test_rotation_gives_every_contender_several_predecessors() -> None:
    names = ["a", "b", "c", "d"]
    before: dict[str, set[str]] = {name: set() for name in names}
    for k in range(2 * len(names)):
        for first, second in pairwise(rotated(names, k)):
            before[second].add(first)
    assert all(len(found) >= 2 for found in before.values())


def test_rotation_of_nobody_and_of_one() -> None:
    assert rotated([], 5) == []
    assert rotated(["a"], 5) == ["a"]


def test_calls_per_turn_follows_the_fastest_call_within_limits() -> None:
    plan = Plan(turn_ns=10e6, min_calls=3, max_calls=100)
    assert calls_per_turn(np.array([2e6, 1e6, 9e6]), plan) == 10
    assert calls_per_turn(np.array([1e9]), plan) == 3
    assert calls_per_turn(np.array([10.0]), plan) == 100
    assert calls_per_turn(np.array([0.0]), plan) == 100


def test_time_calls_times_each_call() -> None:
    # Much longer than the ticks by which some machines count processor time.
    pauses = iter([0.02, 0.1, 0.02])
    wall, cpu = time_calls(lambda: time.sleep(next(pauses)), 3)
    assert wall.shape == cpu.shape == (3,)
    assert wall[1] >= 100e6
    assert wall.min() >= 20e6
    assert cpu.sum() < 0.5 * wall.sum()  # sleeping takes no processor time


def test_refill_calls_are_not_timed() -> None:
    done: list[int] = []
    turn = take_turn(lambda: done.append(1), [0], refill=4, calls=3)
    assert len(done) == 7
    assert turn.samples.size == 3


def test_measure_interleaves_with_a_refill_before_each_turn() -> None:
    log: list[str] = []
    contenders = {name: Scripted(name, log) for name in ("a", "b")}
    plan = Plan(rounds=4, turn_ns=5e6, refill=2)
    seen: list[int] = []
    records = measure(contenders, plan, seen.append).records
    assert seen == [1, 2, 3, 4]
    # Warm-up and calibration, then a round forwards, rotated, and both backwards.
    assert log == ["a", "a", "b", "b", "a", "b", "b", "a", "b", "a", "a", "b"]
    for name, contender in contenders.items():
        assert contender.calls[2:] == [(2, 5)] * 4
        assert [x.size for x in records[name].rounds] == [5] * 4
        assert records[name].tainted == [False] * 4


def test_threads_settle_in_untimed_calls() -> None:
    contender = Scripted("a", [])
    measure({"a": contender}, Plan(rounds=2, turn_ns=5e6, settle_ns=8e6))
    assert contender.calls == [(0, 3), (1, 3), (9, 5), (9, 5)]


def test_a_tainted_turn_is_repeated_at_once_and_then_accepted() -> None:
    log: list[str] = []
    contenders = {"a": Scripted("a", log, taints=[True, False, True, True, True])}
    records = measure(contenders, Plan(rounds=3, repeats=2)).records
    # Round 0: tainted, clean.  Round 1: tainted three times.  Round 2: clean.
    assert records["a"].tainted == [False, True, False]
    assert records["a"].retried == 3
    assert len(records["a"].rounds) == 3


def test_disturbed_turns_are_not_repeated_where_that_takes_more_than_the_plans_time() -> None:
    log: list[str] = []
    plan = Plan(rounds=4, min_rounds=4, seconds=0.0)
    measured = measure({"a": Scripted("a", log, [True] * 20)}, plan)
    # Before the first round nobody knows what one takes.
    assert measured.records["a"].retried == plan.repeats
    assert measured.records["a"].tainted == [True] * 4


def test_turns_of_a_contender_that_is_always_disturbed_are_repeated_at_first_only() -> None:
    log: list[str] = []
    contenders = {
        "a": Scripted("a", log, [True] * 99),
        "b": Scripted("b", log, [True, False] * 50),
    }
    measured = measure(contenders, Plan(rounds=10, repeats=2))
    assert measured.records["a"].retried == 4
    assert measured.records["b"].retried == 10
    assert measured.records["b"].tainted == [False] * 10


def test_the_base_has_a_turn_before_and_after_each_of_the_others() -> None:
    log: list[str] = []
    contenders = {name: Scripted(name, log) for name in ("a", "b", "c")}
    records = measure(contenders, Plan(rounds=2, turn_ns=5e6), base="b").records
    assert log == [*"aabbcc", *"babcb", *"bcbab"]  # warm-up and calibration, two rounds
    assert [len(records[name].rounds) for name in "abc"] == [2, 6, 2]
    for name in "ac":
        assert [b.figure for b in records[name].beside] == pytest.approx([1e6, 1e6])
        assert not any(b.tainted for b in records[name].beside)
    assert records["b"].beside == []


def test_the_base_alone_has_turns_like_any_other() -> None:
    log: list[str] = []
    records = measure({"a": Scripted("a", log)}, Plan(rounds=2), base="a").records
    assert len(records["a"].rounds) == 2


def test_a_base_that_is_not_there_or_dies_leaves_plain_rounds() -> None:
    log: list[str] = []
    contenders = {"a": Scripted("a", log), "b": Dying("b", log), "c": Scripted("c", log)}
    measured = measure(contenders, Plan(rounds=3), base="b")
    assert measured.broken == {"b": "process ended"}
    assert [len(measured.records[name].rounds) for name in "ac"] == [3, 3]
    # The base died behind its second turn: of the first round a's turn has one on both sides.
    assert [len(measured.records[name].beside) for name in "ac"] == [1, 0]
    absent = measure({"a": Scripted("a", log)}, Plan(rounds=3), base="b").records
    assert absent["a"].beside == []


def test_the_figure_beside_a_turn_is_of_the_undisturbed_one() -> None:
    def turn(ns: float, disturbed: Interference) -> Turn:
        samples = np.full(3, ns)
        return Turn(samples, samples, disturbed)

    quiet = Beside.of(turn(2e6, QUIET), turn(8e6, QUIET))
    half = Beside.of(turn(2e6, QUIET), turn(8e6, NOISY))
    noisy = Beside.of(turn(2e6, NOISY), turn(8e6, NOISY))
    assert [b.figure for b in (quiet, half, noisy)] == pytest.approx([4e6, 2e6, 4e6])
    assert [b.tainted for b in (quiet, half, noisy)] == [False, False, True]


def test_a_round_is_clean_when_its_turn_and_one_beside_it_are() -> None:
    sample = np.ones(1)
    beside = [Beside(1.0, tainted) for tainted in (False, False, False, True)]
    record = Record([sample] * 4, [sample] * 4, [False, True, False, False], beside)
    assert clean_rounds(record, min_clean=2) == ([0, 2], False)
    assert clean_rounds(record, min_clean=3) == ([0, 1, 2], True)
    assert clean_rounds(record, min_clean=4) == ([0, 1, 2, 3], True)
    assert clean_rounds(Record(), min_clean=3) == ([], False)


def test_few_rounds_without_taint_are_not_called_tainted() -> None:
    sample = np.ones(1)
    record = Record([sample] * 2, [sample] * 2, [False, False])
    assert clean_rounds(record, min_clean=5) == ([0, 1], False)


def test_interruption_keeps_complete_rounds() -> None:
    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    log: list[str] = []
    contenders = {name: Scripted(name, log) for name in ("a", "b")}
    measured = measure(contenders, Plan(rounds=10), stop)
    assert measured.interrupted
    assert [len(record.rounds) for record in measured.records.values()] == [2, 2]


@pytest.mark.parametrize(("seconds", "rounds"), [(-1.0, 3), (60.0, 6)])
def test_the_plans_time_leaves_out_rounds_but_the_fewest(seconds: float, rounds: int) -> None:
    contenders = {name: Scripted(name, []) for name in "ab"}
    records = measure(contenders, Plan(rounds=6, min_rounds=3, seconds=seconds)).records
    assert [len(record.rounds) for record in records.values()] == [rounds, rounds]


def test_a_contender_that_dies_leaves_the_others() -> None:
    log: list[str] = []
    contenders = {"a": Scripted("a", log), "b": Dying("b", log)}
    measured = measure(contenders, Plan(rounds=5))
    assert measured.broken == {"b": "process ended"}
    assert [len(record.rounds) for record in measured.records.values()] == [5]


def test_single_stream_asks_one_after_another_until_both_limits() -> None:
    log: list[str] = []
    contenders = {name: Scripted(name, log, taints=[True]) for name in ("a", "b")}
    plan = Plan(turn_ns=5e6)  # five calls of 1 ms
    measured = single_stream(contenders, plan, min_queries=12, min_ns=0.0)
    assert log == ["a"] * 5 + ["b"] * 5  # warm-up, calibration, three turns
    assert sum(x.size for x in measured.records["a"].rounds) == 15
    assert measured.records["b"].tainted == [True, False, False]
    long = single_stream({"a": Scripted("a", [])}, plan, min_queries=1, min_ns=21e6)
    assert sum(x.size for x in long.records["a"].rounds) == 25


def test_an_interrupted_single_stream_keeps_the_queries() -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    measured = single_stream({"a": Scripted("a", [])}, Plan(), stop, min_queries=100)
    assert measured.interrupted
    assert len(measured.records["a"].rounds) == 1
