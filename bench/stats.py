"""Pure functions over samples: summaries and ratios with bootstrap intervals.

Samples come in rounds: in one round every engine had one turn, one after the other.  Noise
on a shared machine comes in stretches longer than a turn, so samples of one round are not
independent, while the engines of one round saw much the same machine.  Intervals therefore
resample whole rounds, the same rounds for both engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rounds = Sequence[npt.NDArray[np.float64]]  # one array of times per round


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


def bootstrap_ratio(
    other: Rounds,
    base: Rounds,
    *,
    statistic: str = "median",
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Ratio:
    """Ratio of `other` to `base`, above 1 where base is faster.

    The interval of the ratio of medians resamples rounds with replacement (percentile
    bootstrap).  A minimum is not smooth enough for that: resampling can only raise it, and
    the percentile interval would exclude values below the one seen.  Its interval comes from
    random halves of the rounds instead: how far the ratio of minima moves when half of the
    measurement is thrown away.

    Args:
        other: Samples of the numerator, by round.
        base: Samples of the denominator, by round; the same rounds in the same order.
        statistic: ``"median"`` or ``"minimum"``.
        resamples: Number of resamples.
        confidence: Mass between low and high.
        seed: Of the resampling, so that a stored result repeats.

    Raises:
        ValueError: Different numbers of rounds, no round, or an unknown statistic.
    """
    if len(other) != len(base) or not other:
        raise ValueError(
            f"bootstrap_ratio: other and base must have the same number of rounds, at least 1, "
            f"got {len(other)} and {len(base)}"
        )
    if statistic not in ("median", "minimum"):
        raise ValueError(
            f"bootstrap_ratio: statistic must be 'median' or 'minimum', got {statistic!r}"
        )
    generator = np.random.default_rng(seed)
    count = len(other)
    ratios = np.empty(resamples)
    if statistic == "median":
        value = np.median(np.concatenate(other)) / np.median(np.concatenate(base))
        for i in range(resamples):
            picks = generator.integers(0, count, count)
            numerator = np.median(np.concatenate([other[k] for k in picks]))
            ratios[i] = numerator / np.median(np.concatenate([base[k] for k in picks]))
    else:
        minima = np.array([[a.min(), b.min()] for a, b in zip(other, base, strict=True)])
        value = minima[:, 0].min() / minima[:, 1].min()
        for i in range(resamples):
            half = minima[generator.permutation(count)[: (count + 1) // 2]]
            ratios[i] = half[:, 0].min() / half[:, 1].min()
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(ratios, [tail, 1.0 - tail])
    return Ratio(float(value), float(low), float(high))


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of positive values.

    Raises:
        ValueError: No value, or one that is not positive.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not bool(np.all(array > 0)):
        raise ValueError(f"geometric_mean: values must be positive and not empty, got {values}")
    return float(np.exp(np.mean(np.log(array))))
