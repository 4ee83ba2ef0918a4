"""Pure functions over samples: summaries, ratios with bootstrap intervals, and a test.

Samples come in rounds: in one round every engine had one turn, one after the other. Noise on a
shared machine comes in stretches longer than a turn, so samples of one round are not independent,
while the engines of one round saw much the same machine. So the figure of a turn is a low quantile
of its calls, a ratio is taken within each round, and the median over the rounds is the ratio that
is reported: a slow stretch hits both sides of a quotient, and the rounds that it hit halfway are
outliers on either side, which a median does not see. Intervals resample whole rounds.

Several threads have two kinds of turns besides: those in which every thread woke on a core of its
own, and those in which some waited for another, up to twice as long. How many there are of either
kind changes from run to run, and with it on which of them a median lies. So with several threads
the ratio is that of low quantiles of all calls, to which only undisturbed ones contribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "Ratio",
    "Summary",
    "geometric_mean",
    "paired_ratio",
    "permutation_p",
    "quantile_ratio",
    "summarize",
    "turn_figures",
    "unpaired_ratio",
]

Samples = npt.NDArray[np.float64]
Rounds = Sequence[Samples]  # one array of times per round

TURN_QUANTILE = 0.2  # of a turn's calls: above the luckiest call, below the interrupted ones
# Of all calls, with several threads. Two runs agreed the better the lower it was, from 0.5 on.
CALL_QUANTILE = 0.02


@dataclass(frozen=True)
class Summary:
    """Distribution of one engine's times, in the samples' unit."""

    median: float
    p10: float
    p90: float
    minimum: float
    count: int


@dataclass(frozen=True)
class Ratio:
    """How many times longer the other takes, with its interval."""

    value: float
    low: float
    high: float


def summarize(rounds: Rounds) -> Summary:
    """Pool all rounds into one distribution.

    Raises:
        ValueError: There is no sample.
    """
    pooled = np.concatenate(list(rounds)) if rounds else np.empty(0)
    if pooled.size == 0:
        raise ValueError("summarize: rounds must hold at least one sample, got none")
    p10, median, p90 = np.quantile(pooled, [0.1, 0.5, 0.9])
    return Summary(float(median), float(p10), float(p90), float(pooled.min()), pooled.size)


def turn_figures(rounds: Rounds) -> Samples:
    """One figure per round: the `TURN_QUANTILE` of its calls."""
    return np.array([np.quantile(samples, TURN_QUANTILE) for samples in rounds])


def _interval(values: Samples, confidence: float) -> tuple[float, float]:
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def paired_ratio(
    other: npt.ArrayLike,
    base: npt.ArrayLike,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Ratio:
    """Median over the rounds of other / base, above 1 where base is faster.

    Args:
        other: Turn figures of the numerator, one per round.
        base: Turn figures of the denominator; the same rounds in the same order.
        resamples: Of the percentile bootstrap over rounds.
        confidence: Mass between low and high.
        seed: Of the resampling, so that a stored result repeats.

    Raises:
        ValueError: Different numbers of rounds, or none.
    """
    numerator, denominator = np.asarray(other, np.float64), np.asarray(base, np.float64)
    if numerator.shape != denominator.shape or numerator.size == 0:
        raise ValueError(
            "paired_ratio: other and base must have the same number of rounds, at least 1, "
            f"got {numerator.size} and {denominator.size}"
        )
    ratios = numerator / denominator
    picks = np.random.default_rng(seed).integers(0, ratios.size, (resamples, ratios.size))
    low, high = _interval(np.median(ratios[picks], axis=1), confidence)
    return Ratio(float(np.median(ratios)), low, high)


def quantile_ratio(
    other: Rounds,
    base: Rounds,
    *,
    quantile: float = CALL_QUANTILE,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Ratio:
    """Ratio of the quantiles of all calls, with its bootstrap interval over rounds.

    Args:
        other: Calls of the numerator, one array per round.
        base: Calls of the denominator; the rounds need not be the same.
        quantile: Which.
        resamples: Of the percentile bootstrap over rounds of either side.
        confidence: Mass between low and high.
        seed: Of the resampling, so that a stored result repeats.

    Raises:
        ValueError: One of them has no call.
    """
    if not sum(map(len, other)) or not sum(map(len, base)):
        raise ValueError("quantile_ratio: other and base must have at least one call each")
    rng = np.random.default_rng(seed)
    tops = _resampled_quantiles(other, quantile, resamples, rng)
    bottoms = _resampled_quantiles(base, quantile, resamples, rng)
    ratios = tops / bottoms
    low, high = _interval(ratios[1:], confidence)
    return Ratio(float(ratios[0]), low, high)


def _resampled_quantiles(
    rounds: Rounds, quantile: float, resamples: int, rng: np.random.Generator
) -> Samples:
    """Of the calls of the rounds as they are; then of rounds drawn from them, each time anew."""
    calls = np.concatenate(list(rounds))
    order = np.argsort(calls)
    of_round = np.repeat(np.arange(len(rounds)), [len(samples) for samples in rounds])[order]
    drawn = rng.multinomial(len(rounds), np.full(len(rounds), 1.0 / len(rounds)), resamples)
    times = np.vstack([np.ones(len(rounds), drawn.dtype), drawn])  # that each round was drawn
    below = np.cumsum(times[:, of_round], axis=1)
    found: Samples = calls[order][np.argmax(below >= quantile * below[:, -1:], axis=1)]
    return found


def unpaired_ratio(
    other: npt.ArrayLike,
    base: npt.ArrayLike,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Ratio:
    """Ratio of medians of two independent runs, with its bootstrap interval.

    Raises:
        ValueError: One of them has no round.
    """
    a, b = np.asarray(other, np.float64), np.asarray(base, np.float64)
    if a.size == 0 or b.size == 0:
        raise ValueError("unpaired_ratio: other and base must have at least one round")
    rng = np.random.default_rng(seed)
    tops = np.median(a[rng.integers(0, a.size, (resamples, a.size))], axis=1)
    bottoms = np.median(b[rng.integers(0, b.size, (resamples, b.size))], axis=1)
    low, high = _interval(tops / bottoms, confidence)
    return Ratio(float(np.median(a) / np.median(b)), low, high)


def permutation_p(
    a: npt.ArrayLike, b: npt.ArrayLike, *, resamples: int = 4999, seed: int = 0
) -> float:
    """Two-sided p-value of the hypothesis that `a` and `b` come from one distribution.

    Mann and Whitney's rank sum; its distribution under the hypothesis is sampled by shuffling the
    labels, so that few rounds and ties need no approximation.

    Raises:
        ValueError: One of them has no value.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.size == 0 or second.size == 0:
        raise ValueError("permutation_p: a and b must have at least one value")
    pooled = np.concatenate([first, second])
    _, inverse, counts = np.unique(pooled, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2.0)[inverse]  # ties share their mean rank
    expected = first.size * (pooled.size + 1) / 2.0
    seen = abs(float(ranks[: first.size].sum()) - expected)
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(ranks, (resamples, 1)), axis=1)[:, : first.size].sum(axis=1)
    hits = int(np.count_nonzero(np.abs(shuffled - expected) >= seen - 1e-9))
    return (hits + 1) / (resamples + 1)


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of positive values.

    Raises:
        ValueError: No value, or one that is not positive.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not bool(np.all(array > 0)):
        raise ValueError(f"geometric_mean: values must be positive and not empty, got {values}")
    return float(np.exp(np.mean(np.log(array))))
