"""Pareto frontiers of reports: what no other report beats in every respect, as far as the noise can tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from vlmcomp.reporting.comparison import Question, difference, scores_by_question
from vlmcomp.reporting.grouping import PredictionLoader, choose_headline_task
from vlmcomp.reporting.statistics import speed_interval
from vlmcomp.results.schema import Report

GOALS = ("memory", "latency", "quality")  # the cheapest to compare first

T = TypeVar("T")
Comparator = Callable[[T, T], float]  # > 0: the first is significantly better; < 0: worse; 0: a tie
Comparators = Mapping[str, Comparator[Report]]  # by goal


def non_dominated(points: Sequence[T], goals: Sequence[Comparator[T]]) -> list[T]:
    """The points that no other dominates, in their given order, where differences inside the noise are ties.

    A point dominates another if no goal finds it worse and one goal finds it better. Every goal must be antisymmetric.
    Ties are not transitive: a may be better than c while b ties with both. Two rules follow from that:

    - Dominations can form a cycle (a over b in speed, b over c in quality, c over a in size, all else within the
      noise). Those inside a cycle do not count, so that the frontier of some points is never empty.
    - A point is removed because of a point that dominates it even if that one is removed as well: membership does not
      depend on the order of removal.

    Without noise this is the plain Pareto set.

    Raises:
        ValueError: no goals.
    """
    if not goals:
        raise ValueError("a frontier needs at least one goal")
    indices = range(len(points))
    dominated: list[set[int]] = [set() for _ in indices]  # by each point
    for a in indices:
        for b in range(a):
            sign = _dominance(points[a], points[b], goals)
            if sign > 0:
                dominated[a].add(b)
            elif sign < 0:
                dominated[b].add(a)
    reachable = [_reachable(a, dominated) for a in indices]
    return [point for b, point in enumerate(points) if all(a in reachable[b] for a in indices if b in dominated[a])]


def _dominance(a: T, b: T, goals: Sequence[Comparator[T]]) -> int:
    """1 if ``a`` dominates ``b``, -1 for the reverse, else 0; stops at the first contradiction."""
    found = 0
    for goal in goals:
        better = goal(a, b)
        if better * found < 0:
            return 0
        found = found or (better > 0) - (better < 0)
    return found


def _reachable(start: int, dominated: Sequence[set[int]]) -> set[int]:
    """All points that ``start`` dominates, directly or through others."""
    found: set[int] = set()
    pending = [start]
    while pending:
        new = dominated[pending.pop()] - found
        found |= new
        pending += new
    return found


def compare_memory(a: Report, b: Report) -> float:
    """Weight bytes, which are counted exactly: every byte is a difference."""
    return b.size.total_bytes - a.size.total_bytes  # type: ignore[union-attr]


def compare_latency(a: Report, b: Report) -> float:
    """Milliseconds per decoded token by the paired interval; reports that were not timed in turns tie."""
    found = speed_interval(b.latency, a.latency)  # type: ignore[arg-type]
    return found.value if found is not None and found.significant else 0


def quality_comparator(load_predictions: PredictionLoader, task: str) -> Comparator[Report]:
    """Comparator of the score of ``task`` by the paired interval of the predictions.

    If one of the two has no predictions its noise is unknown, and only equal scores tie.
    """
    by_report: dict[tuple[str, str], dict[Question, float]] = {}
    interned: dict[Question, Question] = {}  # all reports share the questions: one copy of the texts

    def scores(report: Report) -> dict[Question, float]:
        key = (report.hardware.slug, report.recipe)
        if key not in by_report:
            found = scores_by_question(load_predictions(report).get(task, []))
            by_report[key] = {interned.setdefault(question, question): score for question, score in found.items()}
        return by_report[key]

    def compare_quality(a: Report, b: Report) -> float:
        if not scores(a) or not scores(b):
            return a.quality[task].score - b.quality[task].score
        found = difference(scores(b), scores(a))
        return found.value if found.significant else 0

    return compare_quality


def build_comparators(load_predictions: PredictionLoader, task: str) -> Comparators:
    """A comparator for each goal, with quality on ``task``; verdicts are cached for repeated frontiers."""
    comparators = {
        "memory": compare_memory,
        "latency": compare_latency,
        "quality": quality_comparator(load_predictions, task),
    }
    return {goal: _cached(comparator) for goal, comparator in comparators.items()}


def _cached(comparator: Comparator[Report]) -> Comparator[Report]:
    """``comparator`` evaluated once a pair and in one order, so that the order of the reports changes nothing."""
    verdicts: dict[tuple[str, ...], float] = {}

    def compare(a: Report, b: Report) -> float:
        if a.recipe > b.recipe:
            return -compare(b, a)
        pair = (a.hardware.slug, a.recipe, b.hardware.slug, b.recipe)
        if pair not in verdicts:
            verdicts[pair] = comparator(a, b)
        return verdicts[pair]

    return compare


def _is_measured(report: Report, goal: str, task: str | None) -> bool:
    if goal == "quality":
        return task in report.quality
    return (report.size if goal == "memory" else report.latency) is not None


def pareto_frontier(
    reports: Sequence[Report],
    load_predictions: PredictionLoader,
    goals: Sequence[str] = GOALS,
    task: str | None = None,
    comparators: Comparators | None = None,
) -> list[Report]:
    """The reports that no other dominates in the ``goals``, differences inside the noise being ties; in given order.

    Args:
        reports: comparable ones (``grouping.comparable_groups``). Failed ones, and those without a goal's measurement,
            are left out.
        load_predictions: reads the predictions of a report.
        goals: some of ``GOALS``.
        task: the task of the quality (None: the headline task of ``reports``).
        comparators: ``build_comparators(load_predictions, task)`` to reuse across calls.

    Raises:
        ValueError: an unknown goal or none, or reports with different questions.
    """
    if unknown := [goal for goal in goals if goal not in GOALS]:
        raise ValueError(f"'{unknown[0]}' is not a goal: use some of {', '.join(GOALS)}")
    ordered = [goal for goal in GOALS if goal in goals]
    task = task or choose_headline_task(reports)
    complete = [r for r in reports if r.error is None and all(_is_measured(r, goal, task) for goal in ordered)]
    comparators = comparators or build_comparators(load_predictions, task or "")
    return non_dominated(complete, [comparators[goal] for goal in ordered])
