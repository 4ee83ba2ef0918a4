"""Summaries and bootstrap intervals on samples whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from bench.stats import bootstrap_ratio, geometric_mean, summarize


def lognormal_rounds(
    scale: float, rounds: int, seed: int, spread: float = 0.1
) -> list[np.typing.NDArray[np.float64]]:
    """Rounds of ten samples around `scale`."""
    generator = np.random.default_rng(seed)
    return [scale * generator.lognormal(0.0, spread, 10) for _ in range(rounds)]


def test_summary_pools_rounds_of_unequal_length() -> None:
    summary = summarize([np.array([3.0]), np.array([1.0, 2.0, 4.0, 5.0])])
    assert summary.median == 3.0
    assert summary.minimum == 1.0
    assert summary.p10 == pytest.approx(1.4)
    assert summary.p90 == pytest.approx(4.6)
    assert summary.count == 5


@pytest.mark.parametrize("rounds", [[], [np.empty(0)]])
def test_summary_of_nothing_is_refused(rounds: list[np.typing.NDArray[np.float64]]) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        summarize(rounds)


@pytest.mark.parametrize("statistic", ["median", "minimum"])
def test_ratio_of_equal_samples_is_one(statistic: str) -> None:
    samples = lognormal_rounds(2.0, 12, seed=1)
    ratio = bootstrap_ratio(samples, samples, statistic=statistic, resamples=100)
    assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("statistic", ["median", "minimum"])
def test_ratio_scales_with_its_numerator(statistic: str) -> None:
    base = lognormal_rounds(1.0, 12, seed=2)
    other = lognormal_rounds(1.3, 12, seed=3)
    once = bootstrap_ratio(other, base, statistic=statistic, resamples=100)
    twice = bootstrap_ratio([2 * x for x in other], base, statistic=statistic, resamples=100)
    for name in ("value", "low", "high"):
        assert getattr(twice, name) == pytest.approx(2 * getattr(once, name))
    assert once.low <= once.value <= once.high


def test_interval_of_medians_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(60):
        base = lognormal_rounds(1.0, 20, seed=2 * trial)
        other = lognormal_rounds(1.25, 20, seed=2 * trial + 1)
        ratio = bootstrap_ratio(other, base, resamples=100)
        covered += ratio.low <= 1.25 <= ratio.high
    assert covered >= 50  # 57 expected


def test_noise_common_to_a_round_cancels() -> None:
    """Pairing by round is what makes interleaving pay: drift hits both sides alike."""
    drift = np.linspace(1.0, 3.0, 30)
    noise = np.random.default_rng(4).uniform(0.99, 1.01, (30, 2, 5))
    base = [d * n[0] for d, n in zip(drift, noise, strict=True)]
    other = [1.2 * d * n[1] for d, n in zip(drift, noise, strict=True)]
    paired = bootstrap_ratio(other, base, resamples=300)
    shuffled = [other[k] for k in np.random.default_rng(5).permutation(30)]
    unpaired = bootstrap_ratio(shuffled, base, resamples=300)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)
    assert paired.low <= 1.2 <= paired.high


def test_interval_of_minima_holds_the_minimum_seen() -> None:
    base = lognormal_rounds(1.0, 15, seed=6)
    other = lognormal_rounds(1.1, 15, seed=7)
    ratio = bootstrap_ratio(other, base, statistic="minimum", resamples=200)
    seen = min(x.min() for x in other) / min(x.min() for x in base)
    assert ratio.value == pytest.approx(seen)
    assert ratio.low <= seen <= ratio.high


def test_the_same_seed_repeats_the_interval() -> None:
    base, other = lognormal_rounds(1.0, 8, seed=8), lognormal_rounds(1.1, 8, seed=9)
    assert bootstrap_ratio(other, base, seed=3) == bootstrap_ratio(other, base, seed=3)
    assert bootstrap_ratio(other, base, seed=3) != bootstrap_ratio(other, base, seed=4)


def test_ratio_refuses_unpaired_rounds_and_unknown_statistics() -> None:
    samples = lognormal_rounds(1.0, 3, seed=10)
    with pytest.raises(ValueError, match="got 3 and 2"):
        bootstrap_ratio(samples, samples[:2])
    with pytest.raises(ValueError, match="got 0 and 0"):
        bootstrap_ratio([], [])
    with pytest.raises(ValueError, match="got 'mean'"):
        bootstrap_ratio(samples, samples, statistic="mean")


def test_geometric_mean() -> None:
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    for wrong in ([], [1.0, 0.0], [1.0, -2.0], [float("nan")]):
        with pytest.raises(ValueError, match="positive"):
            geometric_mean(wrong)
