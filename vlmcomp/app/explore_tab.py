"""The tab Explore: the chart, its filters, a searchable table, and the card of one result."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from vlmcomp.app import charts, details, results
from vlmcomp.app.charts import LiveMeasurement
from vlmcomp.app.errors import user_errors
from vlmcomp.app.events import NO_PROGRESS
from vlmcomp.app.results import ResultFilter
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import export, figures_matplotlib
from vlmcomp.reporting.figures import build_plots
from vlmcomp.reporting.palette import COLORS
from vlmcomp.reporting.recommend import parse_bytes, required_memory

CHART_CLICK_JS = Path(__file__).with_name("bridge.js").read_text(encoding="utf-8")
SAVE_FILE_JS = Path(__file__).with_name("save.js").read_text(encoding="utf-8")


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
    opened: gr.Dropdown
    plot: gr.Plot
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
        return [self.plot, self.legend, self.table, self.task, self.opened, self.card]


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
    lines = results.table(view)
    # every recipe of this machine, whatever the filter: a dropdown that shrinks while it is open fails in the browser
    names = [r.recipe for r in results.select(results.reports(), ResultFilter(view.hardware, axis="size")).shown]
    opened = opened if opened in names else None
    return (
        charts.scatter(view, measured, opened),
        legend(view, len(lines)),
        lines,
        task_dropdown(view.hardware, view.models, view.task),
        gr.Dropdown(names, value=opened),
        details.render(view.hardware, opened, view.task),
    )


def legend(view: ResultFilter, count: int) -> str:
    """The legend of the chart as HTML: colors, symbols, rings and lines, and how many results were left out."""
    shapes = charts.symbols(results.models_on(view.hardware))
    families = [m for m in shapes if not view.models or m in view.models]
    chips = [f'<span class="key"><i style="background:{color}"></i>{name}</span>' for name, color in COLORS.items()]
    chips += [f'<span class="key"><b>{charts.SIGNS[shapes[m]]}</b>{m}</span>' for m in families]
    chips.append('<span class="key"><b>○</b>hollow: measured just now</span>')
    notes = [f"{count} results. Area: bytes of weights. Bars: 95 % intervals. Ring: on the Pareto frontier."]
    selection = results.select(results.reports(), view)
    if view.axis == "speed" and selection.shown:
        sets = results.comparable(selection.shown, "speed")
        if not sets:
            notes.append("No frontier: these recipes were not timed together, so their speeds do not compare.")
        elif len(sets) > 1:
            notes.append("One line for each set of recipes that were timed together.")
    filtered = (results.TOO_LARGE, results.TOO_INACCURATE)
    num_left_out = sum(reason not in filtered for _, reason in selection.left_out)
    if num_left_out:
        notes.append(f"Not shown: {num_left_out} that failed or were measured under other conditions.")
    return f'<div class="legend">{"".join(chips)}</div><p class="note">{" ".join(notes)}</p>'


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


def save_table(*chosen: Any) -> dict[str, str]:
    """The shown results as a CSV file."""
    selection = results.select(results.reports(), read_filter(*chosen))
    shown = selection.shown
    with user_errors():
        if not shown:
            raise ValueError("there is nothing to save: no result matches the filters")
        text = export.WRITERS["csv"](export.to_rows(_with_baselines(shown), results.rows, selection.task))
    head, *lines = text.splitlines(keepends=True)
    column = head.split(",").index("recipe")
    names = {r.recipe for r in shown}
    shown_lines = [line for line in lines if line.split(",")[column] in names]
    return _file("vlmcomp.csv", "text/csv", (head + "".join(shown_lines)).encode())


def _with_baselines(shown: Sequence[Any]) -> list[Any]:
    """The shown reports and their FP16 baselines, which differences need even if a filter hides them."""
    wanted = {r.recipe for r in shown} | {str(Recipe.parse(r.recipe).baseline) for r in shown}
    return [r for r in results.reports() if r.hardware.slug == shown[0].hardware.slug and r.recipe in wanted]


def save_chart(kind: str, *chosen: Any) -> dict[str, str]:
    """The chart as a PNG or HTML file."""
    view = read_filter(*chosen)
    selection = results.select(results.reports(), view)
    with user_errors():
        name = "quality-size" if view.axis == "size" else "quality-latency"
        plots = build_plots(selection.shown, results.rows, selection.task)
        made = next((plot for plot in plots if plot.name == name), None)
        if made is None:
            raise ValueError("there is nothing to plot: no result matches the filters")
    type_ = {"png": "image/png", "html": "text/html"}[kind]
    return _file(f"{name}.{kind}", type_, figures_matplotlib.WRITERS[kind](made))


def _file(name: str, type_: str, content: bytes) -> dict[str, str]:
    return {"name": name, "type": type_, "content": base64.b64encode(content).decode()}


def _filters(model: str) -> tuple[Any, ...]:
    machines = results.hardware()
    first = machines[0] if machines else None
    there = results.models_on(first)
    end = largest_megabytes(first)
    with gr.Row(elem_classes="filters"):
        hardware = gr.Dropdown(machines, value=first, label="Measured on", min_width=220)
        axis = gr.Radio([(t, n) for n, t in results.AXES.items()], value="speed", label="Chart", min_width=220)
        fits = gr.Slider(0, end, end, label="Fits in, MB", info="right end: no limit", min_width=200)
        least = gr.Slider(0, 100, 0, step=1, label="Score of at least, %", min_width=200)
    with gr.Row(elem_classes="filters"):
        families = gr.CheckboxGroup(there, value=results.default_models(first, model), label="Family")
        techniques = gr.CheckboxGroup(list(COLORS), value=[], label="Technique (none: all)")
        task = task_dropdown(first, results.default_models(first, model))
    return hardware, families, techniques, axis, fits, least, task


def build(model: str, live: gr.State) -> ExploreComponents:
    """Lays out the tab and connects its events.

    Args:
        model: the family that is selected at first.
        live: the live measurements, which the chart shows as hollow points.
    """
    filters = _filters(model)
    plot = gr.Plot(elem_id="scatter", show_label=False, label="Quality against speed or size")
    key = gr.HTML("", elem_id="legend")
    bridge = gr.HTML("", js_on_load=CHART_CLICK_JS, elem_id="bridge")
    with gr.Row(elem_classes="actions"):
        csv = gr.Button("Table as CSV", size="sm", elem_id="csv", scale=0, min_width=130)
        png = gr.Button("Chart as PNG", size="sm", elem_id="png", scale=0, min_width=130)
        page = gr.Button("Chart as HTML", size="sm", elem_id="html", scale=0, min_width=130)
    info = "or click a point of the chart or a row of the table"
    opened = gr.Dropdown([], label="Open a recipe", info=info, elem_id="open")
    card = gr.HTML(details.EMPTY, elem_id="details")
    table = gr.Dataframe(
        headers=list(results.HEAD),
        interactive=False,
        show_search="search",
        elem_id="table",
        label="Results",
    )
    made = ExploreComponents(*filters, opened, plot, key, table, card)
    inputs = [*made.filter, opened, live]
    again = {"fn": draw, "inputs": inputs, "outputs": made.outputs, "trigger_mode": "always_last", **NO_PROGRESS}
    moved = made.hardware.input(
        _of_hardware, [made.hardware, made.families], [made.families, made.memory_limit], **NO_PROGRESS
    )
    moved.then(**{k: v for k, v in again.items() if k != "trigger_mode"})
    for event in (made.families.input, made.techniques.input, made.axis.input, made.task.input, opened.input):
        event(**again)
    for slider in (made.memory_limit, made.min_score):
        slider.release(**again)
    for event, take in ((bridge.select, _clicked), (table.select, _row)):
        event(take, None, opened, **NO_PROGRESS).then(**{k: v for k, v in again.items() if k != "trigger_mode"})
    _wire_saving(made, csv, png, page)
    return made


def _wire_saving(made: ExploreComponents, csv: gr.Button, png: gr.Button, page: gr.Button) -> None:
    file = gr.JSON(visible="hidden")  # what the script in the browser saves

    def chart(kind: str) -> Any:
        return lambda *chosen: save_chart(kind, *chosen)

    for button, make in ((csv, save_table), (png, chart("png")), (page, chart("html"))):
        done = button.click(make, made.filter, file, api_visibility="private", show_progress="minimal")
        done.success(None, file, None, js=SAVE_FILE_JS, api_visibility="private")


def format_megabytes(fits: float | None, hardware: str | None) -> str:
    """The value of the memory slider as text for a link; empty at its right end."""
    return "" if fits is None or fits >= largest_megabytes(hardware) else f"{fits:g}MB"
