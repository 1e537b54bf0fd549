"""Results as shares of FP16 of the same model: the points of the chart, recorded and live, and its frontier in words.

No Gradio and no Plotly here.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vlmcomp.app import results
from vlmcomp.app.results import ResultFilter
from vlmcomp.feedback import format_count
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.grid import relative_score
from vlmcomp.reporting.grouping import choose_headline_task
from vlmcomp.reporting.plot import Point, shifted_interval
from vlmcomp.results.schema import Report

_MAX_NAMED = 2  # recipes of a frontier that a sentence names


@dataclass(frozen=True)
class LiveMeasurement:
    """Latency of one live answer; ``decode_ms_per_token`` is None for an answer of one token."""

    recipe: Recipe
    ttft_ms: float
    decode_ms_per_token: float | None
    total_ms: float
    new_tokens: int


@dataclass(frozen=True)
class LivePoint:
    """A live answer: its speed as a factor of the live FP16 answer of the same model, beside the recorded quality."""

    measurement: LiveMeasurement
    x: float
    y: float


def relative_points(shown: Sequence[Report], view: ResultFilter, task: str | None = None) -> list[Point]:
    """Coordinates and 95 % intervals: x as a factor of FP16, y in percent of its score.

    Reports without a comparison to FP16 have no point; on the axis of speed that are also those that were not timed
    together with it.

    Args:
        shown: reports with a score of ``task``.
        view: its axis is x: decoding speed, or bytes of the weights.
        task: the task of y (None: the headline task of ``shown``).
    """
    task = task or choose_headline_task(shown) or ""
    frontier = {r.recipe for each in results.frontiers(shown, view.axis, task) for r in each}
    points = (_relative_point(report, view.axis, task) for report in shown)
    return [replace(p, on_frontier=str(p.recipe) in frontier) for p in points if p is not None]


def _relative_point(report: Report, axis: str, task: str) -> Point | None:
    recipe = Recipe.parse(report.recipe)
    if recipe == recipe.baseline:
        return Point(recipe, 1.0, 100.0)
    baseline = results.baseline_of(report, task)
    share = relative_score(report, baseline, task) if baseline is not None else None
    if share is None:
        return None
    comparison, speed = results.against_fp16(report, task)
    kept = comparison.retention if comparison else None
    y_bounds = shifted_interval(100 * share, kept, 100) if kept else None
    if axis == "size":
        factor = results.size_factor(report, task)
        return None if factor is None else Point(recipe, factor, 100 * share, None, y_bounds)
    x_bounds = (1 + speed.low, 1 + speed.high) if speed else None
    return Point(recipe, 1 + speed.value, 100 * share, x_bounds, y_bounds) if speed else None


def live_points(live: Sequence[LiveMeasurement], recorded: Sequence[Point]) -> list[LivePoint]:
    """The live answers that compare with a live FP16 answer of their model and have a recorded quality.

    FP16 itself is 1 by definition and has no point.
    """
    ms_per_token = {m.recipe: m.decode_ms_per_token for m in live}
    kept = {point.recipe: point.y for point in recorded}
    points = []
    for m in live:
        baseline_ms = ms_per_token.get(m.recipe.baseline)
        if baseline_ms and m.decode_ms_per_token and m.recipe != m.recipe.baseline and m.recipe in kept:
            points.append(LivePoint(m, baseline_ms / m.decode_ms_per_token, kept[m.recipe]))
    return points


def live_note(live: Sequence[LiveMeasurement], recorded: Sequence[Point]) -> str:
    """Why some live answers are not on the chart, as a sentence; empty if none is missing."""
    timed = {m.recipe for m in live if m.decode_ms_per_token}
    shown = {point.recipe for point in recorded}
    alone = [recipe for recipe in timed if recipe in shown and recipe.baseline not in timed]
    if not alone:
        return ""
    answers = format_count(len(alone), "live answer")
    return f"{answers} not drawn: ask fp16 too, whose live speed is their 1x."


def frontier_sentence(view: ResultFilter) -> str:
    """The best recipes of a view for speed and for size, as HTML: ``Best for speed: ...; for size: ...``.

    Each is on the frontier of quality and that axis; those with the largest gain are named.
    """
    models = dict.fromkeys(Recipe.parse(r.recipe).model for r in results.select(results.reports(), view).shown)
    sentences = []
    for model in models:
        found = {axis: _best(replace(view, models=(model,), axis=axis)) for axis in results.AXES}
        parts = [f"for {axis}: {text}" for axis, text in found.items() if text]
        if parts:
            start = f"{html.escape(model)}: best" if len(models) > 1 else "Best"
            sentences.append(f"{start} {'; '.join(parts)}.")
    return "<br>".join(sentences)


def _best(view: ResultFilter) -> str:
    """The recipes on the frontier of a view of one model, the largest gain first."""
    selection = results.select(results.reports(), view)
    points = [p for p in relative_points(selection.shown, view, selection.task) if p.on_frontier]
    points.sort(key=lambda p: -p.x if view.axis == "speed" else p.x)
    named = [_named(point, view.axis) for point in points[:_MAX_NAMED]]
    if len(points) > _MAX_NAMED:
        named.append(f"{len(points) - _MAX_NAMED} more that tie with these in one of the two")
    return " and ".join(", ".join(named).rsplit(", ", 1)) if len(named) > 2 else " or ".join(named)


def _named(point: Point, axis: str) -> str:
    gain = "the speed" if axis == "speed" else "the size"
    title = html.escape(point.recipe.label, quote=True)
    return f'<b title="{title}">{point.recipe.name}</b> ({point.x:.2f}x {gain}, {point.y:.1f} % of the score)'
