"""Plots to HTML by Plotly: the same data as the pictures, to be looked into."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlmcomp.reporting.figures import FRONTIER, Bounds, Dot, Panel, Plot, arms
from vlmcomp.reporting.palette import COLORS, INK, QUIET

if TYPE_CHECKING:  # a table does without
    import plotly.graph_objects as go


_PANEL = 460  # pixels of a panel's height, with the room below it
_LOG_TICKS = [float(f"{digit}e{power}") for power in range(-5, 6) for digit in (1, 2, 5)]


def html(plot: Plot) -> bytes:
    """One page that needs no network: Plotly's own code is in it. The same plot gives the same bytes."""
    return figure(plot).to_html(include_plotlyjs=True, div_id=plot.name).encode()


def figure(plot: Plot) -> go.Figure:
    """``plot`` as a Plotly figure: one trace a technique and panel; a dot that is touched tells its numbers."""
    from plotly.subplots import make_subplots

    across, down = plot.grid
    gaps = {"horizontal_spacing": 0.09, "vertical_spacing": 0.24 / down, "shared_yaxes": "all" if plot.lines else False}
    made = make_subplots(down, across, subplot_titles=[panel.title for panel in plot.panels], **gaps)
    told: set[str] = set()  # the legend names each line and technique once
    for i, panel in enumerate(plot.panels):
        for trace in _traces(panel, plot):
            lines = trace.mode != "markers"
            trace.showlegend = trace.name not in told and (lines if plot.lines else not (lines and plot.log))
            told.add(trace.name)
            made.add_trace(trace, row=i // across + 1, col=i % across + 1)
    axis = {"gridcolor": "#e2e8f0", "linecolor": "#cbd5e1", "zeroline": False, "showticklabels": True}
    axis |= {"type": "log", "tickvals": _LOG_TICKS} if plot.log else {}
    made.update_xaxes(title=plot.x_title, title_standoff=8, **axis)
    made.update_yaxes(title=plot.y_title, title_standoff=8, **axis)
    _frame_words(made, plot, _PANEL * down)
    return made


def _frame_words(made: go.Figure, plot: Plot, height: int) -> None:
    """Title and legend above the panels, the note below, at the same pixels in every size of figure."""
    note = "<br>".join(textwrap.wrap(plot.note, 165))
    made.update_layout(
        title={"text": f"<b>{plot.title}</b>", "x": 0.01, "y": 1, "yanchor": "top", "pad": {"t": 14}},
        template="none",
        height=height + 220,
        margin={"l": 64, "r": 40, "t": 110, "b": 110},
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        legend={"orientation": "h", "x": 0, "y": 1 + 30 / height, "yanchor": "bottom", "itemsizing": "constant"},
        hovermode="closest",
    )
    place = {"xref": "paper", "yref": "paper", "x": 0, "y": 0, "yshift": -52, "xanchor": "left", "yanchor": "top"}
    made.add_annotation(text=note, showarrow=False, align="left", font={"size": 11, "color": QUIET}, **place)


def _traces(panel: Panel, plot: Plot) -> list[go.Scatter]:
    import plotly.graph_objects as go

    made = []
    for line in panel.lines:
        x, y = zip(*line.points, strict=True)
        style = {"color": line.color, "width": 1.5, "dash": "dash" if line.dash else "solid"}
        style["shape"] = "hv" if line.name == FRONTIER else "linear"
        text = {"text": ["", line.name], "textposition": "middle right", "cliponaxis": False} if plot.log else {}
        mode = "lines+text" if plot.log else "lines"
        made.append(
            go.Scatter(x=x, y=y, mode=mode, name=line.name, legendgroup=line.name, line=style, hoverinfo="skip", **text)
        )
    for technique, color in COLORS.items():
        if group := [d for d in panel.dots if d.recipe.technique == technique]:
            made.append(
                go.Scatter(
                    x=[d.x for d in group],
                    y=[d.y for d in group],
                    error_x=_errors([(d.x, d.x_bounds) for d in group], color),
                    error_y=_errors([(d.y, d.y_bounds) for d in group], color),
                    mode="markers",
                    name=technique,
                    legendgroup=technique,
                    hovertext=[_hover(d, plot) for d in group],
                    hoverinfo="text",
                    marker={
                        "size": 11,
                        "color": color,
                        "line": {"width": 1.5, "color": [INK if d.best else "#ffffff" for d in group]},
                    },
                )
            )
    return made


def _errors(ends: Sequence[tuple[float, Bounds]], color: str) -> dict[str, object] | None:
    if not any(bounds for _, bounds in ends):
        return None
    below, above = (list(side) for side in zip(*(arms(middle, bounds) for middle, bounds in ends), strict=True))
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "color": color,
        "thickness": 1,
        "width": 0,
    }


def _hover(dot: Dot, plot: Plot) -> str:
    lines = [f"<b>{dot.recipe}</b>", dot.recipe.label]
    for title, value, bounds in ((plot.x_title, dot.x, dot.x_bounds), (plot.y_title, dot.y, dot.y_bounds)):
        span = f" (95 %: {bounds[0]:.4g} to {bounds[1]:.4g})" if bounds else ""
        lines.append(f"{title.partition(' (')[0]}: {value:.4g}{span}")
    return "<br>".join(lines)
