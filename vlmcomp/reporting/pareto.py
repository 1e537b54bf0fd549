"""The Pareto frontier: the variants that nothing else beats in every respect, as far as the measurements can tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from vlmcomp.reporting.comparison import Question, difference, hits
from vlmcomp.reporting.grouping import MAIN_TASK, RowsOf
from vlmcomp.reporting.statistics import speed_interval
from vlmcomp.results.schema import Report

T = TypeVar("T")
Seen = Callable[[T, T], float]  # above 0: the first is seen to be better; below 0: worse; 0: no difference seen


def undominated(points: Sequence[T], goals: Sequence[Seen[T]]) -> list[T]:
    """The points that no other dominates, in their given order, where small differences are not seen.

    A point dominates another when no goal sees it worse and one goal sees it better. Every goal answers for a pair,
    and the opposite for the pair turned round. "No difference seen" is not transitive: a may be seen better than c
    while b is told from neither. Two things follow from that:

    - Dominations can run in a circle (a over b in speed, b over c in quality, c over a in size, all else within the
      noise). Those inside a circle count for nothing, so that the frontier of some points is never empty.
    - A point is left out because of a point that dominates it, even where that one is left out as well; its own place
      does not depend on theirs.

    Without noise this is the plain Pareto set.

    Raises:
        ValueError: no goals.
    """
    if not goals:
        raise ValueError("a frontier needs at least one goal")
    count = range(len(points))
    over: list[set[int]] = [set() for _ in count]  # whom each dominates
    for a in count:
        for b in range(a):
            verdict = _verdict(points[a], points[b], goals)
            if verdict:
                over[a if verdict > 0 else b].add(b if verdict > 0 else a)
    reached = [_reached(a, over) for a in count]
    return [point for b, point in enumerate(points) if all(a in reached[b] for a in count if b in over[a])]


def _verdict(a: T, b: T, goals: Sequence[Seen[T]]) -> int:
    """1 where ``a`` dominates ``b``, -1 for the reverse, else 0; later goals are asked only while that is open."""
    found = 0
    for goal in goals:
        seen = goal(a, b)
        if seen * found < 0:
            return 0
        found = found or (seen > 0) - (seen < 0)
    return found


def _reached(start: int, over: Sequence[set[int]]) -> set[int]:
    """All that ``start`` dominates, directly or through others."""
    found, waiting = set(), [start]
    while waiting:
        new = over[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def pareto(points: Sequence[T], goals: Sequence[Callable[[T], float]]) -> list[T]:
    """The points that no other point dominates, in their given order.

    Every goal maps a point to a number, larger is better: negate what should be small. A point dominates another
    when it is at least as good in every goal and better in one, so points that tie in every goal stay together.

    Raises:
        ValueError: no goals, or a goal that is not a number for some point.
    """
    if not goals:
        raise ValueError("a frontier needs at least one goal")
    values = [tuple(float(goal(point)) for goal in goals) for point in points]
    if any(math.isnan(v) for row in values for v in row):
        raise ValueError("a point without a number for every goal has no place on a frontier: leave it out first")

    def larger(place: int) -> Seen[int]:
        return lambda a, b: (values[a][place] > values[b][place]) - (values[a][place] < values[b][place])

    kept = undominated(range(len(points)), [larger(place) for place in range(len(goals))])
    return [points[i] for i in kept]


def memory_seen(a: Report, b: Report) -> float:
    """Weight bytes are counted, not sampled: every byte is seen."""
    return b.size.total_bytes - a.size.total_bytes  # type: ignore[union-attr]


def latency_seen(a: Report, b: Report) -> float:
    """Milliseconds per decoded token, by the paired interval; models not timed in turns are never told apart."""
    found = speed_interval(b.latency, a.latency)  # type: ignore[arg-type]
    return found.value if found is not None and found.seen else 0


def quality_seen(rows: RowsOf, task: str = MAIN_TASK) -> Seen[Report]:
    """Exact match of ``task``, by the paired interval of the recorded answers.

    Where the answers of one of the two are not recorded the noise is not known, and only equal scores are a tie.
    """
    read: dict[tuple[str, str], dict[Question, bool]] = {}
    shared: dict[Question, Question] = {}  # all reports of a task ask the same: one copy of the texts is enough

    def answers(report: Report) -> dict[Question, bool]:
        key = (report.hardware.slug, report.recipe)
        if key not in read:
            found = hits(rows(report).get(task, []))
            read[key] = {shared.setdefault(question, question): hit for question, hit in found.items()}
        return read[key]

    def seen(a: Report, b: Report) -> float:
        if not answers(a) or not answers(b):
            return a.quality[task].exact_match - b.quality[task].exact_match
        found = difference(answers(b), answers(a))
        return found.value if found.seen else 0

    return seen


_MEASURED: dict[str, Callable[[Report, str], bool]] = {
    "memory": lambda r, task: r.size is not None,
    "latency": lambda r, task: r.latency is not None,
    "quality": lambda r, task: task in r.quality,
}
GOALS = tuple(_MEASURED)  # the cheapest to tell first


Ways = Mapping[str, Seen[Report]]


def ways(rows: RowsOf, task: str = MAIN_TASK) -> Ways:
    """How each goal tells two reports apart. Verdicts are remembered, for whoever draws many frontiers of the same."""
    goals = {"memory": memory_seen, "latency": latency_seen, "quality": quality_seen(rows, task)}
    return {name: _remembered(goal) for name, goal in goals.items()}


def _remembered(way: Seen[Report]) -> Seen[Report]:
    """Each pair is drawn from once and in one order, so that the order of the reports changes nothing."""
    found: dict[tuple[str, ...], float] = {}

    def seen(a: Report, b: Report) -> float:
        if a.recipe > b.recipe:
            return -seen(b, a)
        pair = (a.hardware.slug, a.recipe, b.hardware.slug, b.recipe)
        if pair not in found:
            found[pair] = way(a, b)
        return found[pair]

    return seen


def frontier(
    reports: Sequence[Report],
    rows: RowsOf,
    goals: Sequence[str] = GOALS,
    task: str = MAIN_TASK,
    told: Ways | None = None,
) -> list[Report]:
    """The reports that no other dominates in the ``goals``, ties inside the noise being ties; in their given order.

    Whoever calls filters: ``reports`` are any that compare (``tables.groups``). Those that failed, or lack what a goal
    asks for, have no place on it. ``told``: ``ways(rows, task)`` kept from before.

    Raises:
        ValueError: an unknown goal or none, or reports that were not asked the same questions.
    """
    if unknown := [goal for goal in goals if goal not in GOALS]:
        raise ValueError(f"'{unknown[0]}' is not a goal: use some of {', '.join(GOALS)}")
    asked = [goal for goal in GOALS if goal in goals]
    whole = [r for r in reports if r.error is None and all(_MEASURED[goal](r, task) for goal in asked)]
    told = told or ways(rows, task)
    return undominated(whole, [told[goal] for goal in asked])
