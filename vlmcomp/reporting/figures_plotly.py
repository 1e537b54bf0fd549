"""Plots as interactive HTML by Plotly, and the traces that the app's chart shares with them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlmcomp.reporting.palette import COLORS, DRAWING_ORDER, MUTED, TEXT
from vlmcomp.reporting.plot import FRONTIER, Bounds, Line, Panel, Plot, Point, error_bar_lengths

if TYPE_CHECKING:  # tables do not need it
    import plotly.graph_objects as go

_PANEL_HEIGHT = 460  # pixels, with the room below it
_LOG_TICKS = [float(f"{digit}e{power}") for power in range(-5, 6) for digit in (1, 2, 5)]


def to_html(plot: Plot) -> bytes:
    """A page that needs no network: it contains Plotly's own code. The same plot gives the same bytes."""
    return figure(plot).to_html(include_plotlyjs=True, div_id=plot.name).encode()


def figure(plot: Plot) -> go.Figure:
    """``plot`` as a Plotly figure: one trace a technique and panel, with the numbers of a point as hover text."""
    from plotly.subplots import make_subplots

    across, down = plot.grid
    gaps = {"horizontal_spacing": 0.09, "vertical_spacing": 0.24 / down, "shared_yaxes": "all" if plot.lines else False}
    made = make_subplots(down, across, subplot_titles=[panel.title for panel in plot.panels], **gaps)
    in_legend: set[str] = set()  # the legend has each line and technique once
    for i, panel in enumerate(plot.panels):
        for trace in _traces(panel, plot):
            is_line = trace.mode != "markers"
            trace.showlegend = trace.name not in in_legend and (is_line if plot.lines else not (is_line and plot.log))
            in_legend.add(trace.name)
            made.add_trace(trace, row=i // across + 1, col=i % across + 1)
    axis = {"gridcolor": "#e2e8f0", "linecolor": "#cbd5e1", "zeroline": False, "showticklabels": True}
    axis |= {"type": "log", "tickvals": _LOG_TICKS} if plot.log else {}
    made.update_xaxes(title=plot.x_title, title_standoff=8, **axis)
    made.update_yaxes(title=plot.y_title, title_standoff=8, **axis)
    _add_title_and_note(made, plot, _PANEL_HEIGHT * down)
    return made


def line_trace(line: Line, labeled: bool = False, **style: Any) -> go.Scatter:
    """One line; the frontier is drawn as steps.

    Args:
        line: its vertices, color and name.
        labeled: whether its name is written at its end.
        style: Plotly's line properties that replace the default ones.
    """
    import plotly.graph_objects as go

    x, y = zip(*line.points, strict=True)
    properties = {
        "color": line.color,
        "width": 1.5,
        "dash": "dash" if line.dash else "solid",
        "shape": "hv" if line.name == FRONTIER else "linear",
    }
    label = {"text": ["", line.name], "textposition": "middle right", "cliponaxis": False} if labeled else {}
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+text" if labeled else "lines",
        name=line.name,
        legendgroup=line.name,
        line=properties | style,
        hoverinfo="skip",
        **label,
    )


def point_trace(
    points: Sequence[Point], technique: str, hover: Sequence[str], marker: Mapping[str, Any] | None = None
) -> go.Scatter:
    """The points of one technique with their intervals as error bars, and their recipes as custom data.

    Args:
        points: at least one.
        technique: the name and color of the trace, one of ``COLORS``.
        hover: the hover text of each point, as HTML.
        marker: Plotly's marker properties that replace the default ones.
    """
    import plotly.graph_objects as go

    color = COLORS[technique]
    edges = [TEXT if point.on_frontier else "#ffffff" for point in points]
    return go.Scatter(
        x=[point.x for point in points],
        y=[point.y for point in points],
        error_x=_error_bars([(point.x, point.x_bounds) for point in points], color),
        error_y=_error_bars([(point.y, point.y_bounds) for point in points], color),
        customdata=[[str(point.recipe)] for point in points],
        mode="markers",
        name=technique,
        legendgroup=technique,
        hovertext=list(hover),
        hoverinfo="text",
        marker={"size": 11, "color": color, "line": {"width": 1.5, "color": edges}} | dict(marker or {}),
    )


def _add_title_and_note(made: go.Figure, plot: Plot, height: int) -> None:
    """Title and legend above the panels, the note below, at the same pixels in every size of figure."""
    note = "<br>".join(textwrap.wrap(plot.note, 165))
    made.update_layout(
        title={"text": f"<b>{plot.title}</b>", "x": 0.01, "y": 1, "yanchor": "top", "pad": {"t": 14}},
        template="none",
        height=height + 220,
        margin={"l": 64, "r": 40, "t": 110, "b": 110},
        font={"family": "system-ui, sans-serif", "size": 13, "color": TEXT},
        legend={"orientation": "h", "x": 0, "y": 1 + 30 / height, "yanchor": "bottom", "itemsizing": "constant"},
        hovermode="closest",
    )
    position = {"xref": "paper", "yref": "paper", "x": 0, "y": 0, "yshift": -52, "xanchor": "left", "yanchor": "top"}
    made.add_annotation(text=note, showarrow=False, align="left", font={"size": 11, "color": MUTED}, **position)


def _traces(panel: Panel, plot: Plot) -> list[go.Scatter]:
    traces = [line_trace(line, labeled=plot.log) for line in panel.lines]
    for technique in DRAWING_ORDER:
        if group := [point for point in panel.points if point.recipe.technique == technique]:
            traces.append(point_trace(group, technique, [_hover(point, plot) for point in group]))
    return traces


def _error_bars(values: Sequence[tuple[float, Bounds]], color: str) -> dict[str, object]:
    lengths = [error_bar_lengths(value, bounds) for value, bounds in values]
    return {
        "type": "data",
        "symmetric": False,
        "array": [above for _, above in lengths],
        "arrayminus": [below for below, _ in lengths],
        "color": color,
        "thickness": 1,
        "width": 0,
    }


def _hover(point: Point, plot: Plot) -> str:
    lines = [f"<b>{point.recipe}</b>", point.recipe.label]
    for title, value, bounds in ((plot.x_title, point.x, point.x_bounds), (plot.y_title, point.y, point.y_bounds)):
        interval = f" (95 %: {bounds[0]:.4g} to {bounds[1]:.4g})" if bounds else ""
        lines.append(f"{title.partition(' (')[0]}: {value:.4g}{interval}")
    return "<br>".join(lines)
