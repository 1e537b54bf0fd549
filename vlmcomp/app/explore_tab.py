"""The tab Explore: the chart, its filters, a searchable table, and the card of one result."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from vlmcomp.app import charts, details, downloads, relative, results, tables
from vlmcomp.app.events import NO_PROGRESS
from vlmcomp.app.relative import LiveMeasurement
from vlmcomp.app.results import ResultFilter
from vlmcomp.feedback import format_count
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.palette import COLORS
from vlmcomp.reporting.plot import Point
from vlmcomp.reporting.recommend import parse_bytes, required_memory

CHART_CLICK_JS = Path(__file__).with_name("bridge.js").read_text(encoding="utf-8")
SHOW_CARD_JS = Path(__file__).with_name("show_card.js").read_text(encoding="utf-8")


@dataclass(frozen=True)
class ExploreComponents:
    """The components that the page connects to others."""

    hardware: gr.Dropdown
    families: gr.CheckboxGroup
    techniques: gr.CheckboxGroup
    axis: gr.Radio
    memory_limit: gr.Slider
    min_score: gr.Slider
    task: gr.Dropdown
    more: gr.Accordion
    opened: gr.Dropdown
    plot: gr.Plot
    best: gr.HTML
    legend: gr.HTML
    table: gr.Dataframe
    card: gr.HTML

    @property
    def filter(self) -> list[Any]:
        """The components that select results, in the order of ``read_filter``'s parameters."""
        return [
            self.hardware,
            self.families,
            self.techniques,
            self.axis,
            self.memory_limit,
            self.min_score,
            self.task,
        ]

    @property
    def outputs(self) -> list[Any]:
        """The components that ``draw`` updates."""
        return [self.plot, self.best, self.legend, self.table, self.task, self.opened, self.card]


def memory_needs(hardware: str | None) -> list[int]:
    """Bytes that the results of a machine need to answer, ascending, without duplicates."""
    return sorted(
        {required_memory(r) for r in results.reports() if r.hardware.slug == hardware and r.size and not r.error}
    )


def largest_megabytes(hardware: str | None) -> float:
    """The right end of the memory slider in MB, where every result fits."""
    largest_bytes = max(memory_needs(hardware), default=10**6)
    return float(max(1, math.ceil(largest_bytes / 10**6)))


def read_filter(
    hardware: str | None,
    families: Any,
    techniques: Any,
    axis: str,
    fits: float | None,
    least: float | None,
    task: str | None = None,
) -> ResultFilter:
    """The filter of the components' values; ``fits`` is in MB, ``least`` in percent."""
    fits_all = fits is None or fits >= largest_megabytes(hardware)
    return ResultFilter(
        hardware,
        tuple(families or ()),
        tuple(techniques or ()),
        axis if axis in results.AXES else "speed",
        None if fits_all else int(fits * 1e6),
        (least or 0) / 100,
        task or None,
    )


def task_dropdown(hardware: str | None, families: Sequence[str], task: str | None = None) -> gr.Dropdown:
    """A choice of the tasks that the families were measured on, visible if there are several."""
    tasks = results.tasks_on(hardware, families)
    chosen = task if task in tasks else next(iter(tasks), None)
    return gr.Dropdown(tasks, value=chosen, label="Task", visible=len(tasks) > 1, min_width=160)


def parse_megabytes(text: str, hardware: str | None) -> float:
    """Value of the memory slider for text such as ``60MB``; its right end for none."""
    limit = largest_megabytes(hardware)
    return min(parse_bytes(text) / 1e6, limit) if text else limit


def draw(*values: Any) -> tuple[Any, ...]:
    """New values of ``ExploreComponents.outputs``, from the filter, the opened recipe and the live measurements."""
    *filter_values, opened, live = values
    view = read_filter(*filter_values)
    measured = [LiveMeasurement(**{**m, "recipe": Recipe.parse(m["recipe"])}) for m in live or ()]
    lines = tables.table(view)
    # every recipe of this machine, whatever the filter: a dropdown that shrinks while it is open fails in the browser
    names = [r.recipe for r in results.select(results.reports(), ResultFilter(view.hardware, axis="size")).shown]
    opened = opened if opened in names else None
    return (
        charts.scatter(view, measured, opened),
        f'<p class="best">{relative.frontier_sentence(view)}</p>',
        legend(view, measured),
        lines,
        task_dropdown(view.hardware, view.models, view.task),
        gr.Dropdown(names, value=opened),
        details.render(view.hardware, opened, view.task),
    )


def legend(view: ResultFilter, live: Sequence[LiveMeasurement] = ()) -> str:
    """The legend of the chart as HTML: the colors and symbols that it uses, and what is not drawn and why."""
    selection = results.select(results.reports(), view)
    points = relative.relative_points(selection.shown, view, selection.task)
    shapes = charts.symbols(results.models_on(view.hardware))
    techniques = {point.recipe.technique for point in points}
    models = dict.fromkeys(point.recipe.model for point in points)
    chips = [f'<i style="background:{color}"></i>{name}' for name, color in COLORS.items() if name in techniques]
    if len(models) > 1:
        chips += [f"<b>{charts.SIGNS[shapes[model]]}</b>{model}" for model in models]
    if view.axis == "speed" and relative.live_points(live, points):
        chips.append(
            "<b>○</b>hollow: measured just now, relative to the FP16 measured just now; an arrow points beyond the axis"
        )
    keys = "".join(f'<span class="key">{chip}</span>' for chip in chips)
    notes = " ".join(_notes(view, selection, points, live))
    return f'<div class="legend">{keys}</div><p class="note">{notes}</p>'


def _notes(
    view: ResultFilter, selection: results.Selection, points: Sequence[Point], live: Sequence[LiveMeasurement]
) -> list[str]:
    """How the chart is read, and what it leaves out."""
    where = f" measured on {results.hardware_title(view.hardware)}" if view.hardware and points else ""
    notes = [
        f"{format_count(len(points), 'result')}{html.escape(where)}, each relative to FP16 of the same model there."
    ]
    if len({point.recipe.model for point in points}) == 1:
        notes.append("Bars: 95 % intervals.")
    notes.append("Purple ring and dotted line: the frontier, ties within the noise included.")
    if missing := len(selection.shown) - len(points):
        reason = "that were not timed together with FP16" if view.axis == "speed" else "without an FP16 to compare with"
        notes.append(f"Not drawn: {missing} {reason}.")
    filtered = (results.TOO_LARGE, results.TOO_INACCURATE)
    if num_left_out := sum(reason not in filtered for _, reason in selection.left_out):
        notes.append(f"Not shown: {num_left_out} that failed or were measured under other conditions.")
    if view.axis == "speed" and (note := relative.live_note(live, points)):
        notes.append(note)
    return notes


def _of_hardware(hardware: str | None, families: Sequence[str]) -> tuple[Any, Any]:
    """The families and the memory slider of another machine."""
    models = results.models_on(hardware)
    selected = [m for m in families or () if m in models] or models[:1]
    limit = largest_megabytes(hardware)
    return gr.CheckboxGroup(models, value=selected), gr.Slider(0, limit, limit)


def _clicked(event: gr.EventData) -> Any:
    recipe = event._data.get("recipe") if isinstance(event._data, dict) else None
    return recipe if any(r.recipe == recipe for r in results.reports()) else gr.skip()


def _row(event: gr.SelectData) -> Any:
    return event.row_value[0] if event.row_value else gr.skip()


def _filters(model: str) -> tuple[Any, ...]:
    """The components of ``ExploreComponents.filter``, and the fold of those that most visitors leave alone."""
    machines = results.hardware()
    first = machines[0] if machines else None
    there = results.models_on(first)
    shown = results.default_models(first, model)
    end = largest_megabytes(first)
    with gr.Row(elem_classes="filters"):
        titles = [(results.hardware_title(slug), slug) for slug in machines]
        hardware = gr.Dropdown(titles, value=first, label="Measured on", min_width=260, elem_id="hardware")
        axis = gr.Radio([(t, n) for n, t in results.AXES.items()], value="speed", label="Chart", min_width=300)
        task = task_dropdown(first, shown)
    families = gr.CheckboxGroup(there, value=shown, label="Models (each relative to its own FP16)")
    with gr.Accordion("More filters", open=False, elem_id="more-filters") as more:
        with gr.Row(elem_classes="filters"):
            text = "none ticked: all of them"
            techniques = gr.CheckboxGroup(list(COLORS), value=[], label="Technique", info=text, min_width=260)
            text = "memory that answering may take; all the way right: any"
            fits = gr.Slider(0, end, end, step=0.1, label="Fits in (MB)", info=text, min_width=220, elem_id="fits")
            text = "of the questions; 0: any"
            least = gr.Slider(
                0, 100, 0, step=1, label="Score of at least (%)", info=text, min_width=220, elem_id="least"
            )
    return hardware, families, techniques, axis, fits, least, task, more


def build(model: str, live: gr.State) -> ExploreComponents:
    """Lays out the tab and connects its events.

    Args:
        model: the family that is selected at first.
        live: the live measurements, which the chart shows as hollow points.
    """
    best = gr.HTML("", elem_id="frontier")
    plot = gr.Plot(elem_id="scatter", elem_classes="scatter", show_label=False, label="Quality against speed or size")
    key = gr.HTML("", elem_id="legend")
    bridge = gr.HTML("", js_on_load=CHART_CLICK_JS, elem_id="bridge")
    filters = _filters(model)
    info = "or click a point of the chart or a row of the table"
    opened = gr.Dropdown([], label="Open a recipe", info=info, elem_id="open")
    card = gr.HTML(details.EMPTY, elem_id="details")
    table = gr.Dataframe(
        headers=list(tables.HEAD),
        interactive=False,
        show_search="search",
        elem_id="table",
        label="Results",
        column_widths=list(tables.WIDTHS),
    )
    made = ExploreComponents(*filters, opened, plot, best, key, table, card)
    downloads.build(made.filter, read_filter)
    _wire(made, bridge, live)
    return made


def _wire(made: ExploreComponents, bridge: gr.HTML, live: gr.State) -> None:
    """Redraws after every change of a filter, and shows the card of what is opened."""
    drawing = {"fn": draw, "inputs": [*made.filter, made.opened, live], "outputs": made.outputs, **NO_PROGRESS}
    machine = [made.hardware, made.families], [made.families, made.memory_limit]
    made.hardware.input(_of_hardware, *machine, **NO_PROGRESS).then(**drawing)
    # of events during a redraw the last one is drawn after it: a slider that is moved sends many
    filters = (made.families, made.techniques, made.axis, made.task, made.memory_limit, made.min_score)
    for component in filters:
        component.input(**drawing, trigger_mode="always_last")
    opening = [
        made.opened.input(**drawing),
        _opens(bridge.select, _clicked, made, drawing),
        _opens(made.table.select, _row, made, drawing),
    ]
    for event in opening:
        event.then(None, made.opened, None, js=SHOW_CARD_JS, **NO_PROGRESS)


def _opens(event: Any, take: Any, made: ExploreComponents, drawing: dict[str, Any]) -> Any:
    """``event`` opens the recipe that ``take`` reads from it."""
    return event(take, None, made.opened, **NO_PROGRESS).then(**drawing)


def format_megabytes(fits: float | None, hardware: str | None) -> str:
    """The value of the memory slider as text for a link; empty at its right end."""
    return "" if fits is None or fits >= largest_megabytes(hardware) else f"{fits:g}MB"
