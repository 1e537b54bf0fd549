"""The chart of the tab Explore: color is technique, symbol is family, area is bytes of weights, hollow is live."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from vlmcomp.app import results
from vlmcomp.app.results import ResultFilter
from vlmcomp.feedback import format_bytes, format_count
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.figures_plotly import line_trace, point_trace
from vlmcomp.reporting.grouping import choose_headline_task, find_metric, metric_title
from vlmcomp.reporting.palette import COLORS, DRAWING_ORDER, MUTED
from vlmcomp.reporting.plot import Point, pareto_line, quality_point
from vlmcomp.reporting.recommend import required_memory
from vlmcomp.results.schema import Report

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "hexagon", "star", "cross", "pentagon")
SIGNS = dict(zip(_SYMBOLS, "●■◆▲⬢★✚⬟", strict=True))
_FRONTIER_RING = "#7c3aed"
_OPENED_ARROW = "#f43f5e"


@dataclass(frozen=True)
class LiveMeasurement:
    """Latency of one live answer; ``decode_ms_per_token`` is None for an answer of one token."""

    recipe: Recipe
    ttft_ms: float
    decode_ms_per_token: float | None
    total_ms: float
    new_tokens: int


def symbols(models: Sequence[str]) -> dict[str, str]:
    """The symbol of each family, which does not depend on the filter."""
    return {m: _SYMBOLS[i % len(_SYMBOLS)] for i, m in enumerate(sorted(models))}


def _scale(found: Sequence[Report]) -> tuple[float, str]:
    largest = max((r.size.total_bytes for r in found if r.size), default=0)
    return (1e9, "GB") if largest >= 1e9 else (1e6, "MB")


def points(shown: Sequence[Report], view: ResultFilter, task: str | None = None) -> list[Point]:
    """Coordinates and 95 % intervals: x in ms per token or in the unit of the largest, y in percent.

    Args:
        shown: reports with a score of ``task``.
        view: its axis is x.
        task: the task of y (None: the headline task of ``shown``).
    """
    task = task or choose_headline_task(shown) or ""
    frontier = {r.recipe for each in results.frontiers(shown, view.axis, task) for r in each}
    unit, _ = _scale(shown)
    made = []
    for report in shown:
        if view.axis == "size":
            assert report.size is not None
            x = report.size.total_bytes / unit
            x_bounds = None
        else:
            interval = results.decoding(report)
            x = interval.value
            x_bounds = (interval.low, interval.high)
        compared = results.against_fp16(report, task)[0]
        y = 100 * report.quality[task].score
        difference = compared.difference if compared else None
        made.append(quality_point(report, x, x_bounds, y, difference, report.recipe in frontier))
    return made


def hover(report: Report, task: str) -> str:
    """The text shown when the pointer is over a point."""
    quality = report.quality[task]
    timed = report.latency
    size = report.size
    assert size is not None
    both, speed = results.against_fp16(report, task)
    lines = [f"<b>{report.recipe}</b>", Recipe.parse(report.recipe).label, ""]
    lines.append(
        f"{metric_title(quality.metric)}: {100 * quality.score:.1f} % of {format_count(quality.samples, 'question')}"
    )
    if both is not None:
        value, low, high = both.difference.points()
        lines.append(f"To FP16: {value} points ({low} to {high})")
    lines.append(f"Composite: {100 * quality.composite:.1f} %")
    if timed is not None:
        lines.append(f"First token: {timed.ttft_ms_median:.2f} ms")
        lines.append(f"Decoding: {timed.decode_ms_per_token_median:.2f} ms per token")
        lines.append(f"End to end: {timed.end_to_end_ms_median:.2f} ms for {format_count(timed.new_tokens, 'token')}")
    if speed is not None:
        lines.append(f"Speed to FP16: {speed.speedup_text}")
    lines.append(f"Weights: {size.total_bytes / 1e6:,.2f} MB; needs {format_bytes(required_memory(report))}")
    lines.append(f"{html.escape(report.hardware.name)}, {html.escape(report.date[:10])}")
    return "<br>".join(lines)


def scatter(view: ResultFilter, live: Sequence[LiveMeasurement] = (), opened: str | None = None) -> go.Figure:
    """The score of the view's reports against decoding time or weight bytes."""
    selection = results.select(results.reports(), view)
    shown = selection.shown
    task = selection.task
    figure = go.Figure()
    _style(figure, view, shown, task)
    if not shown or task is None:
        figure.add_annotation(
            text="No recorded result matches the filters.", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper"
        )
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        return figure
    shapes = symbols(results.models_on(view.hardware))
    by_recipe = {str(point.recipe): point for point in points(shown, view, task)}
    for each in results.comparable(shown, view.axis):  # times of several sessions have no line in common
        for line in pareto_line([by_recipe[r.recipe] for r in each]):
            figure.add_trace(line_trace(line, dash="dot", width=2))
    for technique in DRAWING_ORDER:
        inside = [r for r in shown if by_recipe[r.recipe].recipe.technique == technique]
        if inside:
            texts = [hover(report, task) for report in inside]
            marker = _marker(inside, by_recipe, shown, shapes)
            figure.add_trace(point_trace([by_recipe[r.recipe] for r in inside], technique, texts, marker))
    if view.axis == "speed":
        _add_live(figure, live, by_recipe, shapes)
    if opened in by_recipe:
        _annotate(figure, by_recipe[opened])
    return figure


def _diameter(count: int, largest: int) -> float:
    """Pixels: the area grows with the bytes, but the smallest still shows."""
    return max(9.0, 34.0 * math.sqrt(count / largest)) if largest else 9.0


def _marker(
    inside: Sequence[Report], by_recipe: Mapping[str, Point], shown: Sequence[Report], shapes: Mapping[str, str]
) -> dict[str, Any]:
    """Area by weight bytes, shape by model, a ring around the frontier's points."""
    largest = max(r.size.total_bytes for r in shown if r.size)
    on_frontier = [by_recipe[r.recipe].on_frontier for r in inside]
    return {
        "size": [_diameter(r.size.total_bytes, largest) for r in inside if r.size],
        "opacity": 0.85,
        "symbol": [shapes[by_recipe[r.recipe].recipe.model] for r in inside],
        "line": {
            "width": [3 if ringed else 1 for ringed in on_frontier],
            "color": [_FRONTIER_RING if ringed else "#ffffff" for ringed in on_frontier],
        },
    }


def _add_live(
    figure: go.Figure,
    live: Sequence[LiveMeasurement],
    by_recipe: Mapping[str, Point],
    shapes: Mapping[str, str],
) -> None:
    """Hollow markers, one for each live answer whose recipe has a recorded quality on this view."""
    drawn = [m for m in live if str(m.recipe) in by_recipe and m.decode_ms_per_token is not None]
    if not drawn:
        return
    figure.add_trace(
        go.Scatter(
            x=[m.decode_ms_per_token for m in drawn],
            y=[by_recipe[str(m.recipe)].y for m in drawn],
            customdata=[[str(m.recipe)] for m in drawn],
            mode="markers",
            name="measured now",
            hovertext=[live_hover(m) for m in drawn],
            hoverinfo="text",
            marker={
                "size": 16,
                "color": [COLORS[m.recipe.technique] for m in drawn],
                "symbol": [f"{shapes[m.recipe.model]}-open" for m in drawn],
                "line": {"width": 3},
            },
        )
    )


def live_hover(live: LiveMeasurement) -> str:
    assert live.decode_ms_per_token is not None
    return "<br>".join(
        [
            f"<b>{live.recipe}</b>, measured now",
            f"First token: {live.ttft_ms:.2f} ms",
            f"Decoding: {live.decode_ms_per_token:.2f} ms per token",
            f"End to end: {live.total_ms:.2f} ms for {format_count(live.new_tokens, 'token')}",
            "One question on this machine; the quality is the recorded one",
        ]
    )


def _annotate(figure: go.Figure, point: Point) -> None:
    figure.add_annotation(
        x=point.x,
        y=point.y,
        text=f"<b>{point.recipe.name}</b>",
        showarrow=True,
        arrowcolor=_OPENED_ARROW,
        arrowwidth=2,
        ax=0,
        ay=-38,
    )


def _style(figure: go.Figure, view: ResultFilter, shown: Sequence[Report], task: str | None) -> None:
    """Transparent background; the style sheet colors text and grid for the light and the dark theme."""
    figure.update_layout(
        template="none",
        height=440,
        autosize=True,
        margin={"l": 52, "r": 12, "t": 12, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": MUTED},
        showlegend=False,
        hoverlabel={"bgcolor": "#0f172a", "bordercolor": "#0f172a", "font": {"color": "#f8fafc", "size": 13}},
        hovermode="closest",
        dragmode=False,
    )
    title = f"Weights, {_scale(shown)[1]}" if view.axis == "size" else "Decoding, ms per token"
    x_title = {"text": f"{title} (less is better)", "font": {"size": 12}}  # must fit a phone
    figure.update_xaxes(title=x_title, zeroline=False, automargin=True, rangemode="normal")
    metric = metric_title(find_metric(shown, task))
    y_title = f"{metric} on {task}, %" if task else f"{metric}, %"
    figure.update_yaxes(title=y_title, zeroline=False, automargin=True)
