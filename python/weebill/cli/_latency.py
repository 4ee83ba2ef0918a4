"""Latencies of several functions, measured in turn.

Taking turns is what makes the figures comparable: a slow spell of the machine hits all of them, and
no one runs on a cache that another has just filled for it twice.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Latency", "interleaved"]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one function over the rounds."""

    median: float
    lower_quartile: float
    upper_quartile: float
    minimum: float
    rounds: int

    @staticmethod
    def of(samples: list[float]) -> Latency:
        """Summary of at least two samples."""
        lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
        return Latency(median, lower, upper, min(samples), len(samples))


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 3.0,
    min_rounds: int = 15,
    max_rounds: int = 300,
) -> dict[str, Latency]:
    """Times the functions in turn, after two untimed rounds.

    Before each timed call the function runs once untimed, so that its own weights are in the caches
    and not those of the one before it.

    Args:
        functions: By name.
        seconds: Rounds go on at least this long, unless `max_rounds` are reached.
        min_rounds: At least this many, however long they take.
        max_rounds: At most this many.

    Returns:
        Latency by name, in the order given.
    """
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
        function()
    end = time.perf_counter() + seconds
    for done in range(max_rounds):
        if done >= min_rounds and time.perf_counter() >= end:
            break
        for name, function in functions.items():
            function()
            start = time.perf_counter()
            function()
            samples[name].append((time.perf_counter() - start) * 1e3)
    return {name: Latency.of(values) for name, values in samples.items()}
