"""The interval of a paired difference: its coverage, published examples, and its agreement with test and ratio."""

from __future__ import annotations

import math
import random
from functools import cache

import numpy as np
import pytest

from vlmcomp.reporting.gamma_sums import probability_below_zero
from vlmcomp.reporting.paired_scores import PairedScores
from vlmcomp.reporting.statistics import Interval, fewest_questions, mcnemar_p_value

SHAPES = {"losses alone": 0.0, "one gain in four": 0.25, "half of each": 0.5}
GRADES = (0.0, 0.3, 0.6, 0.9, 1.0)  # of VQA accuracy


def _binary(total: int, losses: int, gains: int, right: int = 0) -> PairedScores:
    """Scores of ``total`` questions, of which ``right`` are right before and after."""
    wrong = total - losses - gains - right
    return PairedScores(
        [1.0] * (losses + right) + [0.0] * (gains + wrong), [0.0] * losses + [1.0] * (gains + right) + [0.0] * wrong
    )


@cache
def _interval(total: int, losses: int, gains: int) -> Interval:
    return _binary(total, losses, gains).difference()


def _log_probability(total: int, losses: int, gains: int, lost: float, gained: float) -> float:
    counts = (losses, gains, total - losses - gains)
    if any(count and not share for count, share in zip(counts, (lost, gained, 1 - lost - gained), strict=True)):
        return -math.inf
    ways = math.lgamma(total + 1) - sum(math.lgamma(count + 1) for count in counts)
    shares = (lost, gained, 1 - lost - gained)
    return ways + sum(count * math.log(share) for count, share in zip(counts, shares, strict=True) if count)


def _likely(total: int, share: float) -> range:
    spread = 6 * math.sqrt(total * share) + 6
    return range(max(0, int(total * share - spread)), min(total, int(total * share + spread)) + 1)


def _coverage(total: int, lost: float, gained: float) -> float:
    """The exact chance that the interval holds the true difference.

    More losses lower the interval and more gains raise it: of each number of gains the numbers of losses that are
    covered form a range, whose ends only grow.
    """
    truth = gained - lost
    losses = _likely(total, lost)
    first = last = losses.start
    covered = 0.0
    for gains in _likely(total, gained) if gained else range(1):
        limit = min(losses.stop, total - gains + 1)
        while first < limit and _interval(total, first, gains).low > truth:
            first += 1
        last = max(first, last)
        while last < limit and _interval(total, last, gains).high >= truth:
            last += 1
        covered += sum(
            math.exp(_log_probability(total, n, gains, lost, gained)) for n in range(first, min(last, limit))
        )
    return covered


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("total", [20, 50, 200, 2000])
def test_the_interval_covers_the_truth_as_often_as_it_says(total: int, shape: str) -> None:
    for changed in (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
        gained = changed * SHAPES[shape]
        assert _coverage(total, changed - gained, gained) >= 0.95


@pytest.mark.parametrize("total", [20, 200, 2000])
@pytest.mark.parametrize("changed", [0.002, 0.01, 0.1])
@pytest.mark.parametrize("kind", ["lost", "both", "slight"])
def test_graded_scores_are_covered_too(total: int, changed: float, kind: str) -> None:
    """Simulated, where the scores of a few questions change: down, up and down, or hardly."""
    rng = random.Random(f"{total}{changed}{kind}")
    steps = {"lost": (-1.0, -0.6, -0.3), "both": (-0.9, -0.3, 0.3, 0.9), "slight": (-0.1, -0.05, 0.02)}[kind]
    truth = changed * sum(steps) / len(steps)
    trials = 400
    held = 0
    for _ in range(trials):
        changes = [rng.choice(steps) if rng.random() < changed else 0.0 for _ in range(total)]
        before = [float(change < 0) for change in changes]
        found = PairedScores(before, [b + change for b, change in zip(before, changes, strict=True)]).difference()
        held += found.low <= truth <= found.high
    assert held >= 0.94 * trials


def test_interval_ratio_and_test_never_contradict_each_other() -> None:
    rng = random.Random(0)
    samples = [(n, b, c) for n in (6, 20, 300) for b in range(min(n, 14)) for c in range(0, min(n - b, 14), 3)]
    pairs = [_binary(n, b, c, (n - b - c) // 2) for n, b, c in samples]
    for total in (5, 40, 400):
        for changed in (0.02, 0.2, 0.9):
            before = [rng.choice(GRADES) for _ in range(total)]
            pairs.append(
                PairedScores(before, [rng.choice((0.0, *GRADES)) if rng.random() < changed else b for b in before])
            )
    for scores in pairs:
        found, kept, p_value = scores.difference(), scores.retention(), scores.p_value()
        assert found.low <= found.value <= found.high and found.low >= -1 and found.high <= 1
        assert found.significant == (p_value < 0.05)
        if kept is not None:
            assert (not kept.low <= 1 <= kept.high) == found.significant and kept.low <= kept.value <= kept.high
    assert all(_binary(*sample).p_value() == pytest.approx(mcnemar_p_value(*sample[1:])) for sample in samples)


PUBLISHED = {  # losses, gains, right in both, questions: an interval that is known to be right or slightly too narrow
    (7, 1, 1, 21): (-0.517, -0.026),  # Tango's score interval: Fagerland, Lydersen and Laake 2014, of Bentur 2009
    (2, 12, 36, 50): (0.0569, 0.3404),  # Newcombe 1998, method 10
}


@pytest.mark.parametrize("example", PUBLISHED)
def test_published_intervals_are_held_and_not_much_exceeded(example: tuple[int, int, int, int]) -> None:
    losses, gains, right, total = example
    found = _binary(total, losses, gains, right).difference()
    low, high = PUBLISHED[example]
    assert found.value == pytest.approx((gains - losses) / total)
    assert found.low <= low and found.high >= high and found.high - found.low < 1.2 * (high - low)


def test_a_published_p_value() -> None:
    assert _binary(21, 7, 1, 1).p_value() == pytest.approx(0.0703, abs=5e-5)  # exact conditional McNemar test, ibid.


@pytest.mark.parametrize("total", [1, 6, 50, 2000])
def test_nothing_changed_is_the_rule_of_three(total: int) -> None:
    found = _binary(total, 0, 0, total).difference()
    assert found.high == -found.low == pytest.approx(1 - 0.025 ** (1 / total))
    assert _binary(total, 0, 0, total).retention().low == pytest.approx(0.025 ** (1 / total))
    assert fewest_questions(1 - 0.025 ** (1 / total) + 1e-9) == total


def test_many_changes_give_the_normal_interval() -> None:
    found = _binary(20_000, 3000, 2000, 9000).difference()
    half = 1.96 * math.sqrt((5000 - 1000**2 / 20_000) / 20_000**2)
    assert found.low == pytest.approx(-0.05 - half, abs=0.02 * half)
    assert found.high == pytest.approx(-0.05 + half, abs=0.02 * half)


def test_without_a_score_there_is_no_ratio_and_without_questions_no_interval() -> None:
    assert _binary(20, 0, 5).retention() is None
    assert PairedScores([1.0] * 20, [0.0] * 20).retention().high < 0.3
    with pytest.raises(ValueError, match="at least one value"):
        PairedScores([], [])


@pytest.mark.parametrize(("more", "fewer"), [(1, 0), (6, 0), (9, 1), (40, 41), (261, 200), (1200, 700)])
def test_one_gamma_variable_exceeds_another_as_coins_fall(more: int, fewer: int) -> None:
    flips = more + fewer
    tail = sum(math.comb(flips, k) for k in range(fewer + 1)) / 2**flips
    assert probability_below_zero(np.array([1.0, -1.0]), np.array([more, fewer + 1.0])) == pytest.approx(tail, rel=1e-7)


def test_weighted_sums_fall_below_zero_as_often_as_drawn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        weights = rng.uniform(-1, 1, 5) + rng.uniform(-0.5, 0.5)
        shapes = rng.integers(1, 30, 5).astype(float)
        drawn = rng.gamma(shapes, size=(40_000, 5)) @ weights <= 0
        assert probability_below_zero(weights, shapes) == pytest.approx(drawn.mean(), abs=0.011)
