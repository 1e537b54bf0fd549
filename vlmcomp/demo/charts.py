"""Reports to Plotly figures. Pure: the same reports and view give the same figure."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from vlmcomp.frontier import pareto
from vlmcomp.palette import COLORS
from vlmcomp.recipe import Recipe
from vlmcomp.report import Latency, Quality, Report

TASK = "shapes-vqa"
QUALITIES: dict[str, Callable[[Quality], float]] = {
    "Exact match": lambda q: q.exact_match,
    "Composite score": lambda q: q.composite,
}
LATENCIES: dict[str, Callable[[Latency], float]] = {
    "Decoding, ms per token": lambda t: t.decode_ms_per_token_median,
    "Time to first token, ms": lambda t: t.ttft_ms_median,
    "End to end, ms": lambda t: t.end_to_end_ms_median,
}
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "hexagon", "star")
_HOVER = (
    "<b>%{customdata[0]}</b><br>%{customdata[1]}<br><br>"
    "Exact match: %{customdata[2]:.1%} of %{customdata[3]} questions<br>"
    "Composite: %{customdata[4]:.3f} (METEOR %{customdata[5]:.3f}, ROUGE-1 %{customdata[6]:.3f}, "
    "BERTScore %{customdata[7]:.3f})<br>"
    "First token: %{customdata[8]:.2f} ms<br>Decoding: %{customdata[9]:.2f} ms per token<br>"
    "End to end: %{customdata[10]:.2f} ms for %{customdata[11]} tokens<br>"
    "Weights: %{customdata[12]:.2f} MB<br>%{customdata[13]}, %{customdata[14]}<extra></extra>"
)
_LIVE_HOVER = (
    "<b>%{customdata[0]}</b>, measured now<br>%{customdata[1]}<br><br>"
    "First token: %{customdata[2]:.2f} ms<br>Decoding: %{customdata[3]}<br>"
    "End to end: %{customdata[4]:.2f} ms for %{customdata[5]} tokens<br>"
    "Latency of your one question on this machine;<br>quality is the recorded one of this variant<extra></extra>"
)


@dataclass(frozen=True)
class View:
    """What the visitor chose to see: one hardware, one model or all (None), and the two axes."""

    hardware: str | None = None
    model: str | None = None
    quality: str = "Exact match"
    latency: str = "Decoding, ms per token"


@dataclass(frozen=True)
class Point:
    """One report that can be drawn: ``x`` milliseconds, ``y`` a share from 0 to 1."""

    report: Report
    recipe: Recipe
    quality: Quality
    latency: Latency
    x: float
    y: float

    @property
    def megabytes(self) -> float:
        return self.report.size.total_bytes / 1e6 if self.report.size else 0.0


@dataclass(frozen=True)
class Live:
    """One answer's latency as just measured. ``decode_ms_per_token`` is None where only one token came."""

    recipe: Recipe
    ttft_ms: float
    decode_ms_per_token: float | None
    total_ms: float
    new_tokens: int

    def on(self, latency: str) -> float | None:
        """The value on that axis of ``LATENCIES``."""
        return dict(zip(LATENCIES, (self.decode_ms_per_token, self.ttft_ms, self.total_ms), strict=True))[latency]


@dataclass(frozen=True)
class Selection:
    """The reports of a view: drawn, and left out with the reason."""

    points: tuple[Point, ...]
    left_out: tuple[tuple[Report, str], ...]


def select(reports: Sequence[Report], view: View) -> Selection:
    """Split the reports of the view's hardware and model into those that share its axes and the others."""
    points: list[Point] = []
    left_out: list[tuple[Report, str]] = []
    for report in reports:
        recipe = Recipe.parse(report.recipe)
        if report.hardware.slug != view.hardware or view.model not in (None, recipe.model):
            continue
        quality = report.quality.get(TASK)
        if report.error is not None:
            left_out.append((report, f"failed: {report.error}"))
        elif quality is None or report.latency is None or report.size is None:
            left_out.append((report, "not measured in full"))
        else:
            x, y = LATENCIES[view.latency](report.latency), QUALITIES[view.quality](quality)
            points.append(Point(report, recipe, quality, report.latency, x, y))
    kinds = Counter(_comparable(p.quality) for p in points)
    common = kinds.most_common(1)[0][0] if kinds else None
    odd = [p for p in points if _comparable(p.quality) != common]
    left_out += [(p.report, "scored with other questions or another metric version") for p in odd]
    return Selection(tuple(p for p in points if p not in odd), tuple(left_out))


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both speed and quality, fastest first."""
    return sorted(pareto(points, [lambda p: p.y, lambda p: -p.x]), key=lambda p: (p.x, p.y))


def scatter(reports: Sequence[Report], view: View, live: Sequence[Live] = ()) -> go.Figure:
    """Quality against latency of one hardware; area is weight size, colour is technique, hollow is live."""
    points = select(reports, view).points
    figure = go.Figure()
    _style(figure, view)
    if not points:
        figure.add_annotation(
            text="No results recorded for this choice yet.", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper"
        )
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        return figure
    best = frontier(points)
    figure.add_trace(
        go.Scatter(
            x=[p.x for p in best],
            y=[p.y for p in best],
            customdata=[[str(p.recipe)] for p in best],
            mode="lines",
            name="Pareto frontier",
            line={"shape": "hv", "dash": "dot", "width": 2, "color": "#8793a6"},
            hoverinfo="skip",
        )
    )
    largest = max(p.megabytes for p in points)
    for technique in COLORS:
        group = [p for p in points if p.recipe.technique == technique]
        if group:
            figure.add_trace(_bubbles(group, technique, largest, _symbols(points)))
    _add_live(figure, points, view, live, largest)
    return figure


def customdata(point: Point) -> list[str | float | int]:
    """The hover's numbers in the order of its template, straight from the report."""
    q, t, report = point.quality, point.latency, point.report
    return [
        str(point.recipe),
        point.recipe.label,
        q.exact_match,
        q.samples,
        q.composite,
        q.meteor,
        q.rouge1,
        q.bertscore_f1,
        t.ttft_ms_median,
        t.decode_ms_per_token_median,
        t.end_to_end_ms_median,
        t.new_tokens,
        point.megabytes,
        html.escape(report.hardware.name),
        html.escape(report.date),
    ]


def _comparable(quality: Quality) -> tuple[str, str, str]:
    return quality.task_sha256, quality.bertscore_encoder, quality.meteor_data


def _symbols(points: Sequence[Point]) -> dict[str, str]:
    models = sorted({p.recipe.model for p in points})
    return {m: _SYMBOLS[i % len(_SYMBOLS)] for i, m in enumerate(models)}


def _diameter(megabytes: float, largest: float) -> float:
    """Pixels: the area grows with the bytes, but the smallest still shows."""
    return max(9.0, 44.0 * math.sqrt(megabytes / largest)) if largest else 9.0


def _bubbles(group: Sequence[Point], technique: str, largest: float, symbols: dict[str, str]) -> go.Scatter:
    return go.Scatter(
        x=[p.x for p in group],
        y=[p.y for p in group],
        customdata=[customdata(p) for p in group],
        mode="markers+text",
        name=technique,
        text=[p.recipe.name for p in group],
        textposition="top center",
        textfont={"size": 11},
        hovertemplate=_HOVER,
        marker={
            "size": [_diameter(p.megabytes, largest) for p in group],
            "color": COLORS[technique],
            "opacity": 0.8,
            "symbol": [symbols[p.recipe.model] for p in group],
            "line": {"width": 1, "color": "#ffffff"},
        },
    )


def _add_live(figure: go.Figure, points: Sequence[Point], view: View, live: Sequence[Live], largest: float) -> None:
    """Hollow markers, one for each live answer whose recipe has a recorded quality on this view."""
    recorded = {p.recipe: p for p in points}
    drawn = [(m, recorded[m.recipe], x) for m in live if m.recipe in recorded and (x := m.on(view.latency)) is not None]
    if not drawn:
        return
    symbols = _symbols(points)
    figure.add_trace(
        go.Scatter(
            x=[x for _, _, x in drawn],
            y=[p.y for _, p, _ in drawn],
            customdata=[_live_customdata(m) for m, _, _ in drawn],
            mode="markers",
            name="measured now",
            hovertemplate=_LIVE_HOVER,
            marker={
                "size": [_diameter(p.megabytes, largest) for _, p, _ in drawn],
                "color": [COLORS[m.recipe.technique] for m, _, _ in drawn],
                "symbol": [f"{symbols[m.recipe.model]}-open" for m, _, _ in drawn],
                "line": {"width": 3},
            },
        )
    )


def _live_customdata(live: Live) -> list[str | float | int]:
    decode = live.decode_ms_per_token
    decoding = "only one token came" if decode is None else f"{decode:.2f} ms per token"
    return [str(live.recipe), live.recipe.label, live.ttft_ms, decoding, live.total_ms, live.new_tokens]


def _style(figure: go.Figure, view: View) -> None:
    """Transparent ground; text and grid take the page's colours from the style sheet, so both themes fit."""
    figure.update_layout(
        template="none",
        height=480,
        autosize=True,
        margin={"l": 64, "r": 16, "t": 16, "b": 56},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#64748b"},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "itemsizing": "constant"},
        hoverlabel={"bgcolor": "#0f172a", "bordercolor": "#0f172a", "font": {"color": "#f8fafc", "size": 13}},
        hovermode="closest",
    )
    figure.update_xaxes(title=f"{view.latency} (lower is better)", zeroline=False, automargin=True)
    figure.update_yaxes(
        title=f"{view.quality} (higher is better)",
        tickformat=".0%" if view.quality == "Exact match" else ".2f",
        zeroline=False,
        automargin=True,
    )
