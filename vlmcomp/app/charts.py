"""The chart of recorded results relative to FP16: color is technique, symbol is model, hollow is live.

The style sheet colors text and grid for the light and the dark theme; ``bridge.js`` writes the labels, which must fit
the width of the visitor's page.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go

from vlmcomp.app import hover_text, results
from vlmcomp.app.relative import LiveMeasurement, LivePoint, live_points, relative_points
from vlmcomp.app.results import ResultFilter
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.figures_plotly import line_trace, point_trace
from vlmcomp.reporting.grouping import find_metric
from vlmcomp.reporting.palette import COLORS, DRAWING_ORDER, MUTED
from vlmcomp.reporting.plot import Point, pareto_line
from vlmcomp.results.schema import Report

_CLICK_JS = Path(__file__).with_name("bridge.js").read_text(encoding="utf-8")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "hexagon", "star", "cross", "pentagon")
SIGNS = dict(zip(_SYMBOLS, "●■◆▲⬢★✚⬟", strict=True))
LIVE = "measured now"  # the name of the trace of live answers
_OPENED = "opened"
_FRONTIER_RING = "#7c3aed"
_OPENED_RING = "#f43f5e"
_FAINT = 0.35  # opacity of what is not highlighted
_MARKER, _BASELINE_MARKER = 9, 14  # pixels
_LEAST_SPAN = {"x": 0.2, "y": 4.0}  # of an axis: differences within the noise must look small
_BASELINE_RANK, _CHOSEN_RANK, _LIVE_RANK, _FRONTIER_RANK, _OTHER_RANK = range(5)  # labels are placed in this order
Range = tuple[float, float]


def click_js(selector: str) -> str:
    """JavaScript of an HTML component that labels the points of some charts and gets an event for each click."""
    return _CLICK_JS.replace("CHARTS", selector)


def symbols(models: Sequence[str]) -> dict[str, str]:
    """The symbol of each model, which does not depend on the filter."""
    return {m: _SYMBOLS[i % len(_SYMBOLS)] for i, m in enumerate(sorted(models))}


def scatter(view: ResultFilter, live: Sequence[LiveMeasurement] = (), opened: str | None = None) -> go.Figure:
    """The share of FP16's score that the view's recipes keep against their speed or size, FP16 being 1x and 100 %.

    Args:
        view: what is shown.
        live: live answers, which never change the axes.
        opened: the recipe that is marked.
    """
    return _draw(view, live, [opened] if opened else [], height=460)


def compact_figure(
    model: str,
    task: str | None = None,
    highlighted_recipes: Collection[str] = (),
    live: Sequence[LiveMeasurement] = (),
    axis: str = "speed",
) -> go.Figure:
    """A smaller chart of one model on the machine with most results of it.

    Args:
        model: its name.
        task: the task of the quality (None: the headline task).
        highlighted_recipes: drawn strongly and labeled; the others are faint (none: all are drawn strongly).
        live: as in ``scatter``.
        axis: ``"speed"`` or ``"size"``.
    """
    return _draw(compact_view(model, task, axis), live, highlighted_recipes, height=320, compact=True)


def has_results(model: str) -> bool:
    """Whether ``compact_figure`` has something to show."""
    return results.main_hardware(model) is not None


def compact_view(model: str, task: str | None = None, axis: str = "speed") -> ResultFilter:
    """What ``compact_figure`` shows."""
    return ResultFilter(results.main_hardware(model), (model,), axis=axis, task=task)


def _draw(
    view: ResultFilter,
    live: Sequence[LiveMeasurement],
    chosen: Collection[str],
    height: int,
    compact: bool = False,
) -> go.Figure:
    selection = results.select(results.reports(), view)
    found = relative_points(selection.shown, view, selection.task)
    figure = go.Figure()
    _style(figure, view, selection, height)
    if not found or selection.task is None:
        return _without_results(figure)
    with_fp16 = _with_baselines(selection.shown, selection.task)
    texts = {r.recipe: hover_text.recorded(r, selection.task) for r in with_fp16}
    found += [Point(Recipe.parse(r.recipe), 1.0, 100.0) for r in with_fp16 if r not in selection.shown]
    ranges = _range([(p.x, p.x_bounds) for p in found], "x"), _range([(p.y, p.y_bounds) for p in found], "y")
    figure.update_xaxes(range=ranges[0])
    figure.update_yaxes(range=ranges[1])
    by_recipe = {str(point.recipe): point for point in found}
    for each in results.comparable(selection.shown, view.axis):
        mine = [by_recipe[r.recipe] for r in each if r.recipe in by_recipe]
        for line in pareto_line(mine, higher_is_better=view.axis == "speed"):
            figure.add_trace(line_trace(line, dash="dot", width=2))
    if compact or len({point.recipe.model for point in found}) > 1:  # no room for intervals
        found = [replace(point, x_bounds=None, y_bounds=None) for point in found]
    shapes = symbols(results.models_on(view.hardware))
    for trace in _traces(found, texts, shapes, chosen, compact):
        figure.add_trace(trace)
    if view.axis == "speed":
        _add_live(figure, live_points(live, found), shapes, ranges[0])
    if not compact:
        _mark_opened(figure, [by_recipe[name] for name in chosen if name in by_recipe])
    return figure


def _with_baselines(shown: Sequence[Report], task: str) -> list[Report]:
    """``shown`` with the FP16 reports that they are relative to, which a filter may hide."""
    baselines = (results.baseline_of(report, task) for report in shown)
    found = {r.recipe: r for r in (*shown, *baselines) if r is not None and r.size is not None and task in r.quality}
    return list(found.values())


def _range(values: Sequence[tuple[float, Range | None]], axis: str) -> Range:
    """The ends of an axis: all values with their intervals, and some room for labels."""
    ends = [end for value, bounds in values for end in (bounds or (value, value))]
    low, high = min(ends), max(ends)
    missing = max(0.0, _LEAST_SPAN[axis] - (high - low)) / 2
    room = 0.08 * (high - low + 2 * missing)
    return low - missing - room, high + missing + room


def _traces(
    found: Sequence[Point],
    texts: dict[str, str],
    shapes: dict[str, str],
    chosen: Collection[str],
    compact: bool,
) -> list[go.Scatter]:
    """The points, one trace a technique; FP16 comes last, so that nothing hides it."""
    several = len({point.recipe.model for point in found}) > 1
    made = []
    for technique in DRAWING_ORDER:
        inside = [point for point in found if point.recipe.technique == technique]
        if not inside:
            continue
        is_strong = [not compact or not chosen or _rank(p, chosen) <= _CHOSEN_RANK for p in inside]
        marker = {
            "size": [_BASELINE_MARKER if p.recipe == p.recipe.baseline else _MARKER for p in inside],
            "opacity": [1.0 if strong else _FAINT for strong in is_strong],
            "symbol": [shapes[p.recipe.model] for p in inside],
            "line": {
                "width": [2 if p.on_frontier else 1 for p in inside],
                "color": [_FRONTIER_RING if p.on_frontier else "#ffffff" for p in inside],
            },
        }
        trace = point_trace(inside, technique, [texts[str(p.recipe)] for p in inside], marker)
        trace.customdata = [[str(p.recipe), *_label(p, chosen, compact or several, several)] for p in inside]
        made.append(trace)
    for named in made[-1].customdata[1:] if several and made else ():  # FP16 of every model is at the same place
        named[1] = ""
    return made


def _rank(point: Point, chosen: Collection[str]) -> int:
    if point.recipe == point.recipe.baseline:
        return _BASELINE_RANK
    if str(point.recipe) in chosen:
        return _CHOSEN_RANK
    return _FRONTIER_RANK if point.on_frontier else _OTHER_RANK


def _label(point: Point, chosen: Collection[str], sparse: bool, several: bool) -> tuple[str, int]:
    """The label of a point, empty for the least important ones of a ``sparse`` chart, and its rank."""
    rank = _rank(point, chosen)
    if rank == _BASELINE_RANK:
        return "FP16", rank
    text = str(point.recipe) if several else point.recipe.name
    return ("" if sparse and rank == _OTHER_RANK else text), rank


def _add_live(figure: go.Figure, live: Sequence[LivePoint], shapes: dict[str, str], x_range: Range) -> None:
    """Hollow markers; one beyond the axis is an arrow at its end."""
    if not live:
        return
    low, high = x_range
    room = 0.02 * (high - low)
    symbol = [
        "triangle-right-open" if p.x > high else "triangle-left-open" if p.x < low else f"{shapes[_model(p)]}-open"
        for p in live
    ]
    figure.add_trace(
        go.Scatter(
            x=[min(max(p.x, low + room), high - room) for p in live],
            y=[p.y for p in live],
            customdata=[[str(p.measurement.recipe), f"{p.measurement.recipe.name}, now", _LIVE_RANK] for p in live],
            mode="markers",
            name=LIVE,
            hovertext=[hover_text.live(p) for p in live],
            hoverinfo="text",
            marker={
                "size": 14,
                "color": [COLORS[p.measurement.recipe.technique] for p in live],
                "symbol": symbol,
                "line": {"width": 2.5},
            },
        )
    )


def _model(point: LivePoint) -> str:
    return point.measurement.recipe.model


def _mark_opened(figure: go.Figure, opened: Sequence[Point]) -> None:
    """A ring around the opened recipe."""
    if opened:
        ring = {"size": 20, "color": _OPENED_RING, "symbol": "circle-open", "line": {"width": 2.5}}
        x, y = [p.x for p in opened], [p.y for p in opened]
        figure.add_trace(go.Scatter(x=x, y=y, mode="markers", name=_OPENED, hoverinfo="skip", marker=ring))


def _without_results(figure: go.Figure) -> go.Figure:
    figure.add_annotation(
        text="No recorded result matches the filters.", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper"
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def _style(figure: go.Figure, view: ResultFilter, selection: results.Selection, height: int) -> None:
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        margin={"l": 56, "r": 12, "t": 32, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": MUTED},
        showlegend=False,
        hoverlabel={"bgcolor": "#0f172a", "bordercolor": "#0f172a", "font": {"color": "#f8fafc", "size": 13}},
        hovermode="closest",
        dragmode=False,
    )
    is_size = view.axis == "size"
    title = "Size of the weights (left is smaller)" if is_size else "Decoding speed (right is faster)"
    common = {"zeroline": False, "automargin": True}
    figure.update_xaxes(title={"text": title, "font": {"size": 12}}, ticksuffix="x", **common)
    figure.update_yaxes(ticksuffix=" %", **common)
    metric = find_metric(selection.shown, selection.task)
    on_task = f" on {selection.task}" if selection.task else ""
    text = f"Kept of FP16's {metric}{on_task}"  # above the axis: beside it a phone has no room
    position = {"x": 0, "y": 1, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "yshift": 6}
    figure.add_annotation(text=text, showarrow=False, font={"size": 12}, **position)
    line = {"line_color": MUTED, "line_width": 1, "opacity": 0.6}
    figure.add_vline(x=1, **line)
    figure.add_hline(y=100, **line)
