"""A plot as plain data: points with their intervals, and lines, in panels. Renderers turn it into pictures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from vlmcomp.recipe import Recipe
from vlmcomp.reporting.palette import MUTED
from vlmcomp.reporting.statistics import Interval
from vlmcomp.results.schema import Report

Bounds = tuple[float, float] | None
FRONTIER = "frontier"  # the name of its line


@dataclass(frozen=True)
class Point:
    """One report: its coordinates, their 95 % intervals, and whether it is on the frontier of the two axes."""

    recipe: Recipe
    x: float
    y: float
    x_bounds: Bounds = None
    y_bounds: Bounds = None
    on_frontier: bool = False


@dataclass(frozen=True)
class Line:
    """A named polyline."""

    name: str
    points: tuple[tuple[float, float], ...]
    color: str
    dash: bool = False


@dataclass(frozen=True)
class Panel:
    """One model on axes of its own."""

    title: str
    points: tuple[Point, ...]
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Plot:
    """``name`` is that of its files. ``note``: what was measured, on what, and what the marks mean."""

    name: str
    title: str
    x_title: str
    y_title: str
    panels: tuple[Panel, ...]
    note: str
    log: bool = False
    lines: bool = False  # the lines matter: points have no labels, and the panels share their y axis

    @property
    def grid(self) -> tuple[int, int]:
        """Panels across and down."""
        across = min(2, len(self.panels))
        return across, math.ceil(len(self.panels) / across)

    @property
    def digest(self) -> str:
        """SHA-256 of the data that is drawn: a picture that carries it can be checked to be up to date."""
        data = [(panel.title, [_rounded(point) for point in panel.points]) for panel in self.panels]
        return hashlib.sha256(repr((self.name, data)).encode()).hexdigest()


def _rounded(point: Point) -> tuple[object, ...]:
    numbers = (point.x, point.y, *(point.x_bounds or ()), *(point.y_bounds or ()))
    return str(point.recipe), point.on_frontier, *(f"{n:.5g}" for n in numbers)


def error_bar_lengths(value: float, bounds: Bounds) -> tuple[float, float]:
    """Distances from ``value`` down and up to its bounds; 0 without bounds."""
    return (0.0, 0.0) if bounds is None else (max(0.0, value - bounds[0]), max(0.0, bounds[1] - value))


def shifted_interval(y: float, interval: Interval, scale: float) -> Bounds:
    """The bounds of ``scale * interval``, shifted so that its value is at ``y``."""
    return y + scale * (interval.low - interval.value), y + scale * (interval.high - interval.value)


def pareto_line(points: Sequence[Point], higher_is_better: bool = False) -> tuple[Line, ...]:
    """The best quality on the frontier up to each x, as steps; points that tie with it are below the line.

    Args:
        points: those on the frontier and the others.
        higher_is_better: whether the best x is the largest, from which the line then starts.
    """
    best = sorted(((point.x, point.y) for point in points if point.on_frontier), reverse=higher_is_better)
    if not best:
        return ()
    levels = accumulate((y for _, y in best), max)
    steps = [(x, level) for (x, _), level in zip(best, levels, strict=True)]
    edge = min if higher_is_better else max  # nothing further is better
    steps.append((edge(point.x for point in points), steps[-1][1]))
    return (Line(FRONTIER, tuple(steps), MUTED, dash=True),)


def quality_point(
    report: Report, x: float, x_bounds: Bounds, y: float, difference: Interval | None, on_frontier: bool
) -> Point:
    """A point of quality.

    Args:
        report: its report.
        x: the other axis.
        x_bounds: the interval of ``x``.
        y: the task's score in percent.
        difference: of the score to FP16, a share (None: unknown, or it is FP16).
        on_frontier: whether it is on the frontier.
    """
    y_bounds = shifted_interval(y, difference, 100) if difference is not None else None
    return Point(Recipe.parse(report.recipe), x, y, x_bounds, y_bounds, on_frontier)
