"""The laws of Pareto dominance, held on random points with many ties."""

from __future__ import annotations

import random
from operator import itemgetter

import pytest

from vlmcomp.frontier import pareto

GOALS = (itemgetter(0), itemgetter(1))


def _beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a != b and a[0] >= b[0] and a[1] >= b[1]


@pytest.mark.parametrize("seed", range(30))
def test_exactly_the_unbeaten_points_stay(seed: int) -> None:
    rng = random.Random(seed)
    points = [(rng.randrange(8), rng.randrange(8)) for _ in range(rng.randrange(25))]
    best = pareto(points, GOALS)
    assert best == [p for p in points if not any(_beats(q, p) for q in points)]  # order and duplicates are kept
    assert pareto(best, GOALS) == best
    assert all(p in best or any(_beats(q, p) for q in best) for p in points)


def test_small_cases() -> None:
    assert pareto([], GOALS) == []
    assert pareto([(1, 1), (1, 1)], GOALS) == [(1, 1), (1, 1)]
    assert pareto([(1, 2), (2, 2), (2, 1)], GOALS) == [(2, 2)]
    assert pareto(["bb", "a", "ccc"], [len, lambda s: -len(s)]) == ["bb", "a", "ccc"]
    assert pareto([3, 1, 2], [float]) == [3]


def test_what_has_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="goal"):
        pareto([1], [])
    with pytest.raises(ValueError, match="number"):
        pareto([1.0, float("nan")], [float])
