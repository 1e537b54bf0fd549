"""The Pareto frontier: the points that nothing else beats in every respect."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


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

    def dominated(mine: tuple[float, ...]) -> bool:
        return any(other != mine and all(o >= m for o, m in zip(other, mine, strict=True)) for other in values)

    return [point for point, mine in zip(points, values, strict=True) if not dominated(mine)]
