"""Plots to pictures: PNG and SVG by Matplotlib, HTML by Plotly. The same plot gives the same bytes."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmcomp import files
from vlmcomp.reporting import figures_plotly
from vlmcomp.reporting.figures import FRONTIER, Dot, Panel, Plot, arms, one_machine, plots
from vlmcomp.reporting.grouping import RowsOf
from vlmcomp.reporting.palette import COLORS, INK, QUIET
from vlmcomp.results.schema import Report

if TYPE_CHECKING:  # a table does without
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Bbox

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels
_DASHES = (0, (4, 3))
_STYLE = {
    "svg.hashsalt": "vlmcomp",  # else every run names the parts of an SVG anew
    "font.size": 9,
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the same on every machine
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#cbd5e1",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "grid.color": "#e2e8f0",
}
_FRAME = (7.4, 4.6)  # inches of one panel
_HEAD = 0.6  # inches of title and legend
_DPI = 110
_RADII, _ANGLES = (11, 18, 26, 36, 48, 62, 80), range(0, 360, 30)  # pixels and degrees from a dot to its label


def save_all(reports: Sequence[Report], rows: RowsOf, folder: Path, say: Callable[[str], None]) -> list[Path]:
    """Draw all plots of one machine into ``folder``, each as PNG, SVG and HTML.

    Where ``reports`` come from several machines, the one that measured most models is drawn; ``say`` is
    told, as it is of recipes that no plot shows.

    Returns:
        The files written, each in one step.

    Raises:
        ValueError: nothing was measured that could be drawn.
    """
    mine = one_machine(reports)
    others = sorted({r.hardware.slug for r in reports} - {r.hardware.slug for r in mine})
    if others:
        say(f"drawing {mine[0].hardware.slug}; for the others give --hardware {' or '.join(others)}")
    drawn = plots(mine, rows)
    if not drawn:
        raise ValueError("nothing was measured that could be drawn: run 'vlmcomp bench' first")
    shown = {str(dot.recipe) for plot in drawn for panel in plot.panels for dot in panel.dots}
    if absent := [r.recipe for r in mine if r.recipe not in shown]:
        say(f"left out, because they failed or do not compare with the others: {', '.join(absent)}")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for plot in drawn:
        for kind, picture in PICTURES.items():
            made.append(folder / f"{plot.name}.{kind}")
            files.write_bytes(made[-1], picture(plot))
    return made


def png(plot: Plot) -> bytes:
    """The picture, with ``Plot.digest`` in its text field "Source"."""
    return _saved(plot, "png", {"Software": None, "Source": plot.digest})


def svg(plot: Plot) -> bytes:
    return _saved(plot, "svg", {"Date": None, "Creator": None, "Title": plot.title})


PICTURES: dict[str, Callable[[Plot], bytes]] = {"png": png, "svg": svg, "html": figures_plotly.html}


def _saved(plot: Plot, kind: str, metadata: dict[str, str | None]) -> bytes:
    import matplotlib

    data = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        picture(plot).savefig(data, format=kind, metadata=metadata)
    return data.getvalue()


def picture(plot: Plot) -> Figure:
    """``plot`` as a Matplotlib figure: its dots are one collection a technique and panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across, down = plot.grid
    width, height = _FRAME[0] * across, _FRAME[1] * down + _HEAD + 0.5
    figure = Figure((width, height), dpi=_DPI, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    frames = list(figure.subplots(down, across, squeeze=False, sharey=plot.lines).flat)
    for panel, axes in zip(plot.panels, frames):
        _panel(axes, panel, plot)
    for axes in frames[len(plot.panels) :]:
        axes.remove()
    _frame_words(figure, plot, width, height)
    canvas.draw()  # settles the frames: labels are placed by pixels
    figure.set_layout_engine("none")
    if not plot.lines:
        for panel, axes in zip(plot.panels, figure.axes):
            _label(axes, panel.dots, canvas.get_renderer())
    return figure


def _frame_words(figure: Figure, plot: Plot, width: float, height: float) -> None:
    """Title and legend above the panels, the note below, at the same inches in every size of figure."""
    note = "\n".join(textwrap.wrap(plot.note, int(17.5 * width)))
    bottom = (0.15 * (note.count("\n") + 1) + 0.1) / height
    figure.get_layout_engine().set(rect=(0.004, bottom, 0.992, 1 - bottom - _HEAD / height))
    left = 0.1 / width
    figure.text(left, 1 - 0.08 / height, plot.title, va="top", fontsize=12, fontweight="bold")
    figure.text(left, 0.06 / height, note, va="bottom", fontsize=7.5, color=QUIET, linespacing=1.3)
    legend = {"loc": "upper left", "bbox_to_anchor": (left - 0.008, 1 - 0.28 / height), "ncols": 7, "frameon": False}
    figure.legend(handles=_handles(plot), fontsize=8.5, columnspacing=1.3, handletextpad=0.3, borderpad=0.3, **legend)


def _panel(axes: Axes, panel: Panel, plot: Plot) -> None:
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_xlabel(plot.x_title)
    axes.set_ylabel(plot.y_title)
    axes.grid(True, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(0.12, 0.14)
    if plot.log:
        _logarithmic(axes)
    for line in panel.lines:
        x, y = zip(*line.points, strict=True)
        style = {"drawstyle": "steps-post" if line.name == FRONTIER else "default", "linewidth": 1.2, "zorder": 1}
        axes.plot(x, y, color=line.color, linestyle=_DASHES if line.dash else "solid", **style)
        if plot.log:
            small = {"va": "center", "fontsize": 7.5, "color": QUIET}
            axes.annotate(line.name, (x[-1], y[-1]), (3, 0), textcoords="offset points", **small)
    for technique, color in COLORS.items():
        if group := [d for d in panel.dots if d.recipe.technique == technique]:
            _dots(axes, group, color)


def _logarithmic(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def _dots(axes: Axes, dots: Sequence[Dot], color: str) -> None:
    for dot in dots:
        (left, right), (below, above) = arms(dot.x, dot.x_bounds), arms(dot.y, dot.y_bounds)
        errors = {"xerr": [[left], [right]], "yerr": [[below], [above]]}
        axes.errorbar(dot.x, dot.y, **errors, fmt="none", ecolor=color, elinewidth=1, alpha=0.55, zorder=2)
    edges = [INK if dot.best else "white" for dot in dots]
    x, y = [dot.x for dot in dots], [dot.y for dot in dots]
    axes.scatter(x, y, s=46, color=color, edgecolors=edges, linewidths=1.2, zorder=3)


def _handles(plot: Plot) -> list[Line2D]:
    from matplotlib.lines import Line2D

    dots = [dot for panel in plot.panels for dot in panel.dots]
    lines = {line.name: line for panel in plot.panels for line in panel.lines}
    if plot.lines:
        return [Line2D([], [], marker="o", color=line.color, label=name) for name, line in lines.items()]
    there = [name for name in COLORS if any(dot.recipe.technique == name for dot in dots)]
    made = [Line2D([], [], marker="o", linestyle="", color=COLORS[name], label=name) for name in there]
    if any(dot.best for dot in dots):
        ring = {"marker": "o", "markerfacecolor": "white", "markeredgecolor": INK, "markeredgewidth": 1.2}
        dashes = _DASHES if FRONTIER in lines else ""
        made.append(Line2D([], [], color=QUIET, linestyle=dashes, linewidth=1.2, label=FRONTIER, **ring))
    return made


def _label(axes: Axes, dots: Sequence[Dot], renderer: RendererBase) -> None:
    """Names every dot: each label takes the place near its dot where it covers least."""
    from matplotlib.patheffects import withStroke

    places = [tuple(axes.transData.transform((d.x, d.y))) for d in dots]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places] + [box for dot in dots for box in _bars(axes, dot)]
    taken += [tuple(text.get_window_extent(renderer).extents) for text in axes.texts]
    frame, points = axes.get_window_extent().extents, 72 / axes.figure.dpi
    for dot, (x, y) in sorted(zip(dots, places, strict=True), key=lambda pair: (not pair[0].best, pair[1])):
        style = {"ha": "center", "va": "center", "fontsize": 7.5, "textcoords": "offset points"}
        text = axes.annotate(dot.recipe.name, (dot.x, dot.y), (0, 0), **style)
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
        size = text.get_window_extent(renderer)
        around = ((radius, _beside(x, y, radius, angle, size)) for radius in _RADII for angle in _ANGLES)
        radius, box = min(around, key=lambda c: c[0] + _covered(c[1], taken) + 1e6 * _outside(c[1], frame))
        text.set_position((((box[0] + box[2]) / 2 - x) * points, ((box[1] + box[3]) / 2 - y) * points))
        taken.append(box)
        if radius > _RADII[1]:
            near = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
            ends = axes.transData.inverted().transform([(x, y), near]).T
            axes.plot(*ends, color="#94a3b8", linewidth=0.6, zorder=1.5, scalex=False, scaley=False)


def _beside(x: float, y: float, radius: float, angle: int, size: Bbox) -> Box:
    """A box of that size and some room, in that direction, about ``radius`` pixels off at its edge."""
    across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    width, height = size.width / 2 + 3, size.height / 2 + 1
    x, y = x + across * (radius - 3 + width), y + up * (radius + height)
    return x - width, y - height, x + width, y + height


def _bars(axes: Axes, dot: Dot) -> list[Box]:
    ends = [[(end, dot.y) for end in dot.x_bounds]] if dot.x_bounds else []
    ends += [[(dot.x, end) for end in dot.y_bounds]] if dot.y_bounds else []
    corners = [axes.transData.transform(pair) for pair in ends]
    return [(x0 - 1, y0 - 1, x1 + 1, y1 + 1) for (x0, y0), (x1, y1) in corners]


def _covered(box: Box, taken: Sequence[Box]) -> float:
    """Square pixels that ``box`` shares with others."""
    return sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
    )


def _outside(box: Box, frame: Sequence[float]) -> bool:
    return box[0] < frame[0] or box[1] < frame[1] or box[2] > frame[2] or box[3] > frame[3]
