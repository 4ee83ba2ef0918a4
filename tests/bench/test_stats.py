"""Summaries, ratios, intervals and the test, on samples whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from weebill.bench.stats import (
    geometric_mean,
    paired_ratio,
    permutation_p,
    quantile_ratio,
    summarize,
    turn_figures,
    unpaired_ratio,
)


def test_summary_pools_the_rounds() -> None:
    summary = summarize([np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0])])
    assert (summary.median, summary.minimum, summary.count) == (3.0, 1.0, 5)
    assert summary.p10 == pytest.approx(1.4)
    assert summary.p90 == pytest.approx(4.6)
    with pytest.raises(ValueError, match="got none"):
        summarize([])


def test_a_turns_figure_is_a_low_quantile() -> None:
    figures = turn_figures([np.array([5.0, 1.0, 2.0, 3.0, 400.0, 4.0]), np.array([7.0])])
    assert figures.tolist() == [2.0, 7.0]


def test_a_slow_stretch_cancels_in_a_paired_ratio() -> None:
    rng = np.random.default_rng(1)
    machine = np.where(np.arange(40) % 7 < 3, 1.8, 1.0)  # slow for several rounds at a time
    base = machine * (1.0 + 0.01 * rng.standard_normal(40))
    other = 1.5 * machine * (1.0 + 0.01 * rng.standard_normal(40))
    other[5] *= 3.0  # a round that was hit halfway
    ratio = paired_ratio(other, base)
    assert ratio.value == pytest.approx(1.5, rel=0.01)
    assert ratio.low < 1.5 < ratio.high
    assert ratio.high - ratio.low < 0.05


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for seed in range(200):
        base, other = rng.lognormal(0.0, 0.1, (2, 25))
        ratio = paired_ratio(2.0 * other, base, resamples=400, seed=seed)
        hits += ratio.low <= 2.0 <= ratio.high
    assert 180 <= hits <= 200


@pytest.mark.parametrize(("other", "base"), [([], []), ([1.0], [1.0, 2.0])])
def test_rounds_of_a_paired_ratio_must_match(other: list[float], base: list[float]) -> None:
    with pytest.raises(ValueError, match="same number of rounds"):
        paired_ratio(other, base)


def test_a_quantile_ratio_does_not_see_which_turns_waited() -> None:
    rng = np.random.default_rng(4)

    def turns(time: float, waited: float, count: int = 40) -> list[np.ndarray]:
        slow = np.where(rng.random(count) < waited, 1.9, 1.0)
        return [s * time * rng.normal(1.0, 0.01, 6) for s in slow]

    for waited in (0.1, 0.4, 0.6):
        ratio = quantile_ratio(turns(3.0, waited), turns(2.0, 0.3, 90))
        assert ratio.value == pytest.approx(1.5, rel=0.03)
        assert ratio.low <= ratio.value <= ratio.high
        assert ratio.high - ratio.low < 0.1


def test_a_quantile_ratio_is_that_of_the_calls() -> None:
    other, base = [np.array([5.0, 2.0, 4.0]), np.array([3.0, 6.0])], [np.arange(1.0, 11.0)]
    assert quantile_ratio(other, base, quantile=0.1).value == 2.0
    assert quantile_ratio(other, base, quantile=0.6).value == pytest.approx(4.0 / 6.0)
    assert quantile_ratio(other, base, quantile=1.0).value == pytest.approx(0.6)
    same = quantile_ratio(other[:1], base)
    assert same.low == same.value == same.high  # nothing to resample
    for empty in ([], [np.empty(0)]):
        with pytest.raises(ValueError, match="at least one call"):
            quantile_ratio(empty, base)


def test_ratio_of_two_runs() -> None:
    ratio = unpaired_ratio([2.0, 2.1, 1.9], [1.0, 1.0])
    assert ratio.value == 2.0
    assert 1.9 <= ratio.low <= ratio.high <= 2.1
    with pytest.raises(ValueError, match="at least one round"):
        unpaired_ratio([], [1.0])


def test_permutation_p_tells_same_from_different() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(1.0, 0.05, 20)
    assert permutation_p(a, rng.normal(1.2, 0.05, 20)) == pytest.approx(1 / 5000)
    assert permutation_p(a, a.copy()) == 1.0
    # Uniform under the hypothesis: one in ten below 0.1.
    low = sum(
        permutation_p(*rng.normal(1.0, 0.05, (2, 12)), resamples=199) <= 0.1 for _ in range(200)
    )
    assert 8 <= low <= 34


def test_permutation_p_matches_the_exact_distribution() -> None:
    # Of the 20 ways to choose 3 of 6 ranks, 1+2+3 and 4+5+6 are the most extreme.
    p = permutation_p([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], resamples=20000)
    assert p == pytest.approx(0.1, abs=0.01)


def test_geometric_mean() -> None:
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    for wrong in ([], [1.0, 0.0]):
        with pytest.raises(ValueError, match="positive"):
            geometric_mean(wrong)
