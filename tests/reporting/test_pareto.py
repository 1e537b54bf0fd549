"""The laws of dominance: on numbers, under noise, and between reports."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import pytest

from tests.support import made_reports as made
from vlmcomp.reporting.pareto import GOALS as REPORT_GOALS
from vlmcomp.reporting.pareto import non_dominated, pareto_frontier
from vlmcomp.results.schema import Latency, Report, Size

GOALS = (itemgetter(0), itemgetter(1))
Point = tuple[float, ...]


def _beats(a: Point, b: Point) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))


def _beyond(noise: float, goals: int) -> list[Callable[[Point, Point], float]]:
    """A difference is seen where it is larger than ``noise``."""
    return [lambda a, b, i=i: a[i] - b[i] if abs(a[i] - b[i]) > noise else 0 for i in range(goals)]


def _exact(goals: Sequence[Callable[[Any], float]]) -> list[Callable[[Any, Any], float]]:
    """Every difference of a goal, a larger number being better, is seen."""
    return [lambda a, b, goal=goal: goal(a) - goal(b) for goal in goals]


def _cloud(seed: int, goals: int) -> list[Point]:
    rng = random.Random(seed)
    return [tuple(rng.randrange(8) for _ in range(goals)) for _ in range(rng.randrange(25))]


@pytest.mark.parametrize("seed", range(30))
def test_exactly_the_unbeaten_points_stay(seed: int) -> None:
    points = _cloud(seed, 2)
    best = non_dominated(points, _exact(GOALS))
    assert best == [p for p in points if not any(_beats(q, p) for q in points)]  # order and duplicates are kept
    assert non_dominated(best, _exact(GOALS)) == best
    assert all(p in best or any(_beats(q, p) for q in best) for p in points)


def test_small_cases() -> None:
    assert non_dominated([], _exact(GOALS)) == []
    assert non_dominated([(1, 1), (1, 1)], _exact(GOALS)) == [(1, 1), (1, 1)]
    assert non_dominated([(1, 2), (2, 2), (2, 1)], _exact(GOALS)) == [(2, 2)]
    assert non_dominated(["bb", "a", "ccc"], _exact([len, lambda s: -len(s)])) == ["bb", "a", "ccc"]
    assert non_dominated([3, 1, 2], _exact([float])) == [3]


def test_without_goals_there_is_no_frontier() -> None:
    with pytest.raises(ValueError, match="goal"):
        non_dominated([1], [])


@pytest.mark.parametrize("goals", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(20))
def test_laws_under_noise(seed: int, goals: int) -> None:
    points, rng = _cloud(seed, goals), random.Random(seed)
    assert non_dominated(points, _beyond(0, goals)) == [p for p in points if not any(_beats(q, p) for q in points)]
    for noise in (0, 1, 2, 3, 8):
        seen = _beyond(noise, goals)
        best = non_dominated(points, seen)
        assert bool(best) == bool(points)
        assert sorted(non_dominated(rng.sample(points, len(points)), seen)) == sorted(best)
        beaten = [p for p in points if p not in best]
        assert all(any(_over(q, p, seen) for q in points) for p in beaten)
        alone = [p for p in points if any(all(p == q or goal(p, q) > 0 for q in points) for goal in seen)]
        assert set(alone) <= set(best)  # who is seen better than everyone in one respect stays
    assert non_dominated(points, _beyond(8, goals)) == points  # noise above every difference: all tie


def _over(a: Point, b: Point, seen: list[Callable[[Point, Point], float]]) -> bool:
    signs = [goal(a, b) for goal in seen]
    return min(signs) >= 0 and max(signs) > 0


@pytest.mark.parametrize("seed", range(20))
def test_of_one_goal_more_noise_removes_nothing(seed: int) -> None:
    points = _cloud(seed, 1)
    kept = [set(non_dominated(points, _beyond(noise, 1))) for noise in range(9)]
    assert all(narrow <= wide for narrow, wide in itertools.pairwise(kept))


def test_of_two_goals_more_noise_may_remove_a_point() -> None:
    points = [(10.0, 5.0), (0.0, 5.5)]
    assert non_dominated(points, _beyond(0, 2)) == points
    assert non_dominated(points, _beyond(1, 2)) == points[:1]  # its half point is no longer seen


def test_a_circle_of_dominations_stays_whole_and_what_lies_below_it_goes() -> None:
    circle = [(10.0, 5.0, 0.0), (0.0, 10.0, 5.0), (5.0, 0.0, 10.0)]
    seen = _beyond(6, 3)
    assert all(_over(circle[i], circle[(i + 1) % 3], seen) for i in range(3))
    assert non_dominated(circle, seen) == circle
    below = (-9.0, 0.0, 0.0)
    assert non_dominated([*circle, below], seen) == circle
    above = (20.0, 20.0, 20.0)
    assert non_dominated([*circle, above], seen) == [above]


def test_what_is_dominated_goes_though_its_dominator_goes_too() -> None:
    chain = [(4.0, 0.0), (0.0, 4.0), (-4.0, 8.0)]  # each next one gives 4, unseen, and wins 4, seen, in the other
    wide_then_narrow = [_beyond(5, 2)[0], _beyond(3, 2)[1]]
    assert wide_then_narrow[0](chain[2], chain[0]) < 0  # the ends are told apart: neither dominates the other
    assert non_dominated(chain, wide_then_narrow) == chain[2:]


ANSWERS = {"fp16": "r" * 100, "int8": "r" * 99 + "b", "int4": "r" * 80 + "b" * 20}


def _rows(report: Report) -> dict[str, list[dict[str, str]]]:
    return made.rows(*({"r": "red", "b": "blue"}[c] for c in ANSWERS[report.recipe.partition("/")[2]]))


def _report(name: str, megabytes: int, steps: list[float], session: str = "one") -> Report:
    score = ANSWERS[name].count("r") / 100
    timed = Latency(32, 80, 2, 2, [1.0] * len(steps), steps, steps, session=session)
    return made.report(f"llava-shapes/{name}", score, size=Size({"other": megabytes * 10**6}, {}, 0), latency=timed)


FP16, INT8, INT4 = _report("fp16", 8, [4.0] * 9), _report("int8", 5, [4.0] * 9), _report("int4", 4, [2.0] * 9)


def _names(reports: list[Report]) -> list[str]:
    return [r.recipe.partition("/")[2] for r in reports]


def test_a_loss_inside_the_noise_is_a_tie() -> None:
    assert _names(pareto_frontier([FP16, INT8], _rows, ["quality", "memory"])) == [
        "int8"
    ]  # one answer of 100: not seen
    assert _names(pareto_frontier([FP16, INT4], _rows, ["quality", "memory"])) == ["fp16", "int4"]  # twenty are
    assert _names(pareto_frontier([FP16, INT8], lambda r: {}, ["quality", "memory"])) == [
        "fp16",
        "int8",
    ]  # noise unknown
    assert _names(pareto_frontier([INT4, FP16, INT8], _rows)) == ["int4", "int8"]


def test_time_separates_only_what_was_timed_in_turns() -> None:
    assert _names(pareto_frontier([INT8, INT4], _rows, ["latency"])) == ["int4"]
    apart = replace(INT4, latency=replace(INT4.latency, session="another"))
    assert _names(pareto_frontier([INT8, apart], _rows, ["latency"])) == ["int8", "int4"]
    slower = _report("int8", 5, [4.1, 3.9, 4.2, 3.8, 4.0, 4.1, 3.9, 4.0, 4.0])
    assert _names(pareto_frontier([FP16, slower], _rows, ["latency"])) == ["fp16", "int8"]


def test_what_failed_or_was_not_measured_is_left_out() -> None:
    others = [made.failed("llava-shapes/int4"), replace(INT4, quality={})]
    assert pareto_frontier([INT8, *others], _rows) == [INT8]
    assert pareto_frontier(others, _rows) == []
    assert _names(pareto_frontier([INT8, others[1]], _rows, ["latency"])) == ["int4"]
    with pytest.raises(ValueError, match="'speed' is not a goal: use some of memory, latency, quality"):
        pareto_frontier([INT8], _rows, ["speed"])
    with pytest.raises(ValueError, match="at least one goal"):
        pareto_frontier([INT8], _rows, [])


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_reports_changes_nothing(seed: int) -> None:
    shuffled = random.Random(seed).sample([FP16, INT8, INT4], 3)
    for goals in (REPORT_GOALS, ("quality", "memory"), ("latency", "quality")):
        best, again = (_names(pareto_frontier(given, _rows, goals)) for given in ([FP16, INT8, INT4], shuffled))
        assert sorted(again) == sorted(best)
