"""Plots as PNG and SVG by Matplotlib. The same plot gives the same bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmcomp import files
from vlmcomp.reporting import figures_plotly
from vlmcomp.reporting.figures import build_plots
from vlmcomp.reporting.grouping import PredictionLoader, largest_machine
from vlmcomp.reporting.palette import COLORS, DRAWING_ORDER, MUTED, TEXT
from vlmcomp.reporting.plot import FRONTIER, Panel, Plot, Point, error_bar_lengths
from vlmcomp.results.schema import Report

if TYPE_CHECKING:  # tables do not need it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_DASHES = (0, (4, 3))
_STYLE = {
    "svg.hashsalt": "vlmcomp",  # without it, the ids in an SVG differ from run to run
    "font.size": 9,
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the same on every machine
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": "#cbd5e1",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": "#e2e8f0",
}
_PANEL_INCHES = (7.4, 4.6)
_HEAD_INCHES = 0.6  # title and legend
_DPI = 110
_LABEL_OFFSET = (5, 5)  # printer's points from a point to its label


def save_all(
    reports: Sequence[Report],
    load_predictions: PredictionLoader,
    folder: Path,
    progress: Callable[[str], None],
    task: str | None = None,
) -> list[Path]:
    """Draw all plots of one machine into ``folder``, each as PNG, SVG and HTML.

    Args:
        reports: any reports; of several machines, the one that measured most models is drawn.
        load_predictions: reads the predictions of a report.
        folder: created if missing.
        progress: receives the machines and the recipes that are left out, as sentences.
        task: the task of the quality (None: of each model its headline task).

    Returns:
        The files written: all of them or, on a full disk, none.

    Raises:
        ValueError: nothing was measured that could be drawn.
    """
    mine = largest_machine(reports)
    others = sorted({r.hardware.slug for r in reports} - {r.hardware.slug for r in mine})
    if others:
        progress(f"drawing {mine[0].hardware.slug}; for the others give --hardware {' or '.join(others)}")
    plots = build_plots(mine, load_predictions, task)
    if not plots:
        raise ValueError("nothing was measured that could be drawn: run 'vlmcomp bench' first")
    drawn = {str(point.recipe) for plot in plots for panel in plot.panels for point in panel.points}
    if missing := [r.recipe for r in mine if r.recipe not in drawn]:
        progress(f"left out, because they failed or do not compare with the others: {', '.join(missing)}")
    contents = {
        folder / f"{plot.name}.{extension}": write(plot) for plot in plots for extension, write in WRITERS.items()
    }
    files.write_files(contents)
    return list(contents)


def to_png(plot: Plot) -> bytes:
    """PNG with ``Plot.digest`` in its text field "Source"."""
    return _save(plot, "png", {"Software": None, "Source": plot.digest})


def to_svg(plot: Plot) -> bytes:
    """SVG without a date, so that it is reproducible."""
    return _save(plot, "svg", {"Date": None, "Creator": None, "Title": plot.title})


WRITERS: dict[str, Callable[[Plot], bytes]] = {"png": to_png, "svg": to_svg, "html": figures_plotly.to_html}


def _save(plot: Plot, extension: str, metadata: dict[str, str | None]) -> bytes:
    import matplotlib

    data = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure(plot).savefig(data, format=extension, metadata=metadata)
    return data.getvalue()


def figure(plot: Plot) -> Figure:
    """``plot`` as a Matplotlib figure: its points are one collection a technique and panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across, down = plot.grid
    width = _PANEL_INCHES[0] * across
    height = _PANEL_INCHES[1] * down + _HEAD_INCHES + 0.5
    made = Figure((width, height), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    frames = list(made.subplots(down, across, squeeze=False, sharey=plot.lines).flat)
    for panel, axes in zip(plot.panels, frames):
        _draw_panel(axes, panel, plot)
    for axes in frames[len(plot.panels) :]:
        axes.remove()
    _add_title_and_note(made, plot, width, height)
    return made


def _add_title_and_note(made: Figure, plot: Plot, width: float, height: float) -> None:
    """Title and legend above the panels, the note below, at the same inches in every size of figure."""
    note = "\n".join(textwrap.wrap(plot.note, int(17.5 * width)))
    bottom = (0.15 * (note.count("\n") + 1) + 0.1) / height
    made.get_layout_engine().set(rect=(0.004, bottom, 0.992, 1 - bottom - _HEAD_INCHES / height))
    left = 0.1 / width
    made.text(left, 1 - 0.08 / height, plot.title, va="top", fontsize=12, fontweight="bold")
    made.text(left, 0.06 / height, note, va="bottom", fontsize=7.5, color=MUTED, linespacing=1.3)
    legend = {"loc": "upper left", "bbox_to_anchor": (left - 0.008, 1 - 0.28 / height), "ncols": 7, "frameon": False}
    made.legend(
        handles=_legend_handles(plot), fontsize=8, columnspacing=0.9, handletextpad=0.3, borderpad=0.3, **legend
    )


def _draw_panel(axes: Axes, panel: Panel, plot: Plot) -> None:
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_xlabel(plot.x_title)
    axes.set_ylabel(plot.y_title)
    axes.grid(True, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(0.12, 0.14)
    if plot.log:
        _set_log_scale(axes)
    for line in panel.lines:
        x, y = zip(*line.points, strict=True)
        style = {"drawstyle": "steps-post" if line.name == FRONTIER else "default", "linewidth": 1.2, "zorder": 1}
        axes.plot(x, y, color=line.color, linestyle=_DASHES if line.dash else "solid", **style)
        if plot.log:
            small = {"va": "center", "fontsize": 7.5, "color": MUTED}
            axes.annotate(line.name, (x[-1], y[-1]), (3, 0), textcoords="offset points", **small)
    for technique in DRAWING_ORDER:
        if group := [point for point in panel.points if point.recipe.technique == technique]:
            _draw_points(axes, group, COLORS[technique])
    if not plot.lines:
        _label_points(axes, panel.points)


def _set_log_scale(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def _draw_points(axes: Axes, points: Sequence[Point], color: str) -> None:
    for point in points:
        left, right = error_bar_lengths(point.x, point.x_bounds)
        below, above = error_bar_lengths(point.y, point.y_bounds)
        bars = {"xerr": [[left], [right]], "yerr": [[below], [above]]}
        axes.errorbar(point.x, point.y, **bars, fmt="none", ecolor=color, elinewidth=1, alpha=0.55, zorder=2)
    edges = [TEXT if point.on_frontier else "white" for point in points]
    x = [point.x for point in points]
    y = [point.y for point in points]
    axes.scatter(x, y, s=46, color=color, edgecolors=edges, linewidths=1.2, zorder=3)


def _label_points(axes: Axes, points: Sequence[Point]) -> None:
    """Recipe names beside the baseline and the frontier; every point's name is in the HTML's hover text."""
    from matplotlib.patheffects import withStroke

    for point in points:
        if point.on_frontier or point.recipe == point.recipe.baseline:
            style = {"fontsize": 7.5, "textcoords": "offset points"}
            label = axes.annotate(point.recipe.name, (point.x, point.y), _LABEL_OFFSET, **style)
            label.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _legend_handles(plot: Plot) -> list[Line2D]:
    from matplotlib.lines import Line2D

    points = [point for panel in plot.panels for point in panel.points]
    lines = {line.name: line for panel in plot.panels for line in panel.lines}
    if plot.lines:
        return [Line2D([], [], marker="o", color=line.color, label=name) for name, line in lines.items()]
    techniques = [name for name in COLORS if any(point.recipe.technique == name for point in points)]
    handles = [Line2D([], [], marker="o", linestyle="", color=COLORS[name], label=name) for name in techniques]
    if any(point.on_frontier for point in points):
        ring = {"marker": "o", "markerfacecolor": "white", "markeredgecolor": TEXT, "markeredgewidth": 1.2}
        dashes = _DASHES if FRONTIER in lines else ""
        handles.append(Line2D([], [], color=MUTED, linestyle=dashes, linewidth=1.2, label=FRONTIER, **ring))
    return handles
