"""The scatter of a view. Colour is technique, shape is family, area is weight bytes, hollow is measured just now."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from vlmcomp.app import results
from vlmcomp.app.results import View
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.figures import Bounds, Dot, arms, staircase
from vlmcomp.reporting.grouping import MAIN_TASK
from vlmcomp.reporting.palette import COLORS, QUIET
from vlmcomp.reporting.recommend import needs
from vlmcomp.results.schema import Report, amount

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "hexagon", "star", "cross", "pentagon")
SIGNS = dict(zip(_SYMBOLS, "●■◆▲⬢★✚⬟", strict=True))
_RING = "#f43f5e"  # about the opened point


@dataclass(frozen=True)
class Live:
    """One answer's latency as just measured. ``decode_ms_per_token`` is None where only one token came."""

    recipe: Recipe
    ttft_ms: float
    decode_ms_per_token: float | None
    total_ms: float
    new_tokens: int


def symbols(models: Sequence[str]) -> dict[str, str]:
    """Every family has its shape, whatever the filter."""
    return {m: _SYMBOLS[i % len(_SYMBOLS)] for i, m in enumerate(sorted(models))}


def _scale(found: Sequence[Report]) -> tuple[float, str]:
    largest = max((r.size.total_bytes for r in found if r.size), default=0)
    return (1e9, "GB") if largest >= 1e9 else (1e6, "MB")


def dots(shown: Sequence[Report], view: View) -> list[Dot]:
    """Places and 95 % intervals: x in ms per token or in the unit of the largest, y in percent."""
    on = {(r.hardware.slug, r.recipe) for each in results.best(shown, view.axis) for r in each}
    unit, _ = _scale(shown)
    made = []
    for report in shown:
        assert report.size is not None
        if view.axis == "size":
            x, across = report.size.total_bytes / unit, None
        else:
            found = results.decoding(report)
            x, across = found.value, (found.low, found.high)
        y, both = 100 * report.quality[MAIN_TASK].exact_match, results.against_fp16(report)[0]
        up: Bounds = None
        if both is not None:
            up = tuple(y + 100 * (end - both.difference.value) for end in (both.difference.low, both.difference.high))  # type: ignore[assignment]
        made.append(Dot(Recipe.parse(report.recipe), x, y, across, up, (report.hardware.slug, report.recipe) in on))
    return made


def hover(report: Report) -> str:
    """The numbers of a point for people, each by its name."""
    quality, timed, size = report.quality[MAIN_TASK], report.latency, report.size
    assert size is not None
    both, speed = results.against_fp16(report)
    lines = [f"<b>{report.recipe}</b>", Recipe.parse(report.recipe).label, ""]
    lines.append(f"Exact match: {100 * quality.exact_match:.1f} % of {quality.samples:,} questions")
    if both is not None:
        value, low, high = both.difference.points()
        lines.append(f"To FP16: {value} points ({low} to {high})")
    lines.append(f"Composite: {100 * quality.composite:.1f} %")
    if timed is not None:
        lines.append(f"First token: {timed.ttft_ms_median:.2f} ms")
        lines.append(f"Decoding: {timed.decode_ms_per_token_median:.2f} ms per token")
        lines.append(f"End to end: {timed.end_to_end_ms_median:.2f} ms for {timed.new_tokens} tokens")
    if speed is not None:
        lines.append(f"Speed to FP16: {speed.factor}")
    lines.append(f"Weights: {size.total_bytes / 1e6:,.2f} MB; needs {amount(needs(report))}")
    lines.append(f"{html.escape(report.hardware.name)}, {html.escape(report.date[:10])}")
    return "<br>".join(lines)


def scatter(view: View, live: Sequence[Live] = (), opened: str | None = None) -> go.Figure:
    """Exact match of the view's reports against decoding time or weight bytes."""
    shown = results.select(results.reports(), view).shown
    figure = go.Figure()
    _style(figure, view, shown)
    if not shown:
        figure.add_annotation(
            text="No recorded result fits this choice.", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper"
        )
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        return figure
    placed, shapes = dots(shown, view), symbols(results.models_on(view.hardware))
    by_recipe = {str(dot.recipe): dot for dot in placed}
    _add_lines(figure, shown, view, by_recipe)
    largest = max(r.size.total_bytes for r in shown if r.size)
    for technique in COLORS:
        inside = [(r, by_recipe[r.recipe]) for r in shown if by_recipe[r.recipe].recipe.technique == technique]
        if inside:
            figure.add_trace(_bubbles(inside, technique, largest, shapes))
    if view.axis == "speed":
        _add_live(figure, shown, live, by_recipe, shapes)
    if opened in by_recipe:
        _point_out(figure, by_recipe[opened])
    return figure


def _add_lines(figure: go.Figure, shown: Sequence[Report], view: View, by_recipe: Mapping[str, Dot]) -> None:
    """One staircase for each set that compares: times of several sessions have no line in common."""
    for each in results.comparable(shown, view.axis):
        for line in staircase([by_recipe[r.recipe] for r in each]):
            x, y = zip(*line.points, strict=True)
            style = {"shape": "hv", "dash": "dot", "width": 2, "color": QUIET}
            figure.add_trace(go.Scatter(x=x, y=y, mode="lines", name="Pareto line", line=style, hoverinfo="skip"))


def _diameter(count: int, largest: int) -> float:
    """Pixels: the area grows with the bytes, but the smallest still shows."""
    return max(9.0, 34.0 * math.sqrt(count / largest)) if largest else 9.0


def _errors(ends: Sequence[tuple[float, Bounds]], color: str) -> dict[str, object]:
    below, above = (list(side) for side in zip(*(arms(middle, bounds) for middle, bounds in ends), strict=True))
    shape = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 3}
    return {**shape, "array": above, "arrayminus": below, "color": color}


def _bubbles(
    inside: Sequence[tuple[Report, Dot]], technique: str, largest: int, shapes: Mapping[str, str]
) -> go.Scatter:
    color = COLORS[technique]
    return go.Scatter(
        x=[d.x for _, d in inside],
        y=[d.y for _, d in inside],
        error_x=_errors([(d.x, d.x_bounds) for _, d in inside], color),
        error_y=_errors([(d.y, d.y_bounds) for _, d in inside], color),
        customdata=[[r.recipe] for r, _ in inside],
        mode="markers",
        name=technique,
        hovertext=[hover(r) for r, _ in inside],
        hoverinfo="text",
        marker={
            "size": [_diameter(r.size.total_bytes, largest) for r, _ in inside if r.size],
            "color": color,
            "opacity": 0.85,
            "symbol": [shapes[d.recipe.model] for _, d in inside],
            "line": {"width": [3 if d.best else 1 for _, d in inside], "color": [_edge(d) for _, d in inside]},
        },
    )


def _edge(dot: Dot) -> str:
    """The frontier's points are ringed."""
    return "#7c3aed" if dot.best else "#ffffff"


def _add_live(
    figure: go.Figure,
    shown: Sequence[Report],
    live: Sequence[Live],
    by_recipe: Mapping[str, Dot],
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


def live_hover(live: Live) -> str:
    assert live.decode_ms_per_token is not None
    return "<br>".join(
        [
            f"<b>{live.recipe}</b>, measured now",
            f"First token: {live.ttft_ms:.2f} ms",
            f"Decoding: {live.decode_ms_per_token:.2f} ms per token",
            f"End to end: {live.total_ms:.2f} ms for {live.new_tokens} tokens",
            "Your one question on this machine; the quality is the recorded one",
        ]
    )


def _point_out(figure: go.Figure, dot: Dot) -> None:
    figure.add_annotation(
        x=dot.x, y=dot.y, text=f"<b>{dot.recipe.name}</b>", showarrow=True, arrowcolor=_RING, arrowwidth=2, ax=0, ay=-38
    )


def _style(figure: go.Figure, view: View, shown: Sequence[Report]) -> None:
    """Transparent ground; text and grid take the page's colours from the style sheet, so both themes fit."""
    figure.update_layout(
        template="none",
        height=440,
        autosize=True,
        margin={"l": 52, "r": 12, "t": 12, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": QUIET},
        showlegend=False,
        hoverlabel={"bgcolor": "#0f172a", "bordercolor": "#0f172a", "font": {"color": "#f8fafc", "size": 13}},
        hovermode="closest",
        dragmode=False,
    )
    title = f"Weights, {_scale(shown)[1]}" if view.axis == "size" else "Decoding, ms per token"
    words = {"text": f"{title} (less is better)", "font": {"size": 12}}  # has to fit a phone
    figure.update_xaxes(title=words, zeroline=False, automargin=True, rangemode="normal")
    figure.update_yaxes(title="Exact match, %", zeroline=False, automargin=True)
