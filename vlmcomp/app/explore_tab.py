"""Explore: the scatter, its filters, a table that can be searched, and the card of one result."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from vlmcomp.app import charts, details, results
from vlmcomp.app.charts import Live
from vlmcomp.app.errors import refuse
from vlmcomp.app.events import QUIET
from vlmcomp.app.results import View
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import export
from vlmcomp.reporting.figures import plots
from vlmcomp.reporting.palette import COLORS
from vlmcomp.reporting.recommend import needs, read_amount

BRIDGE = Path(__file__).with_name("bridge.js").read_text(encoding="utf-8")
SAVE = Path(__file__).with_name("save.js").read_text(encoding="utf-8")
_ANY = "any size"


@dataclass(frozen=True)
class Explore:
    """The components of the view; ``filter`` holds those that choose what is shown, in the order of ``read_view``."""

    hardware: gr.Dropdown
    families: gr.CheckboxGroup
    techniques: gr.CheckboxGroup
    axis: gr.Radio
    fits: gr.Slider
    least: gr.Slider
    opened: gr.Dropdown
    plot: gr.Plot
    legend: gr.HTML
    table: gr.Dataframe
    card: gr.HTML

    @property
    def filter(self) -> list[Any]:
        return [self.hardware, self.families, self.techniques, self.axis, self.fits, self.least]

    @property
    def drawn(self) -> list[Any]:
        return [self.plot, self.legend, self.table, self.opened, self.card]


def steps(hardware: str | None) -> list[int]:
    """What the results of a machine need to answer, in bytes, ascending: the places of the slider."""
    return sorted({needs(r) for r in results.reports() if r.hardware.slug == hardware and r.size and not r.error})


def largest(hardware: str | None) -> float:
    """The slider's right end, in MB: everything fits there."""
    return float(max(1, -(-max(steps(hardware), default=10**6) // 10**6)))


def read_view(
    hardware: str | None, families: Any, techniques: Any, axis: str, fits: float | None, least: float | None
) -> View:
    """The view of the filter's values; ``fits`` in MB, ``least`` in percent."""
    whole = fits is None or fits >= largest(hardware)
    return View(
        hardware,
        tuple(families or ()),
        tuple(techniques or ()),
        axis if axis in results.AXES else "speed",
        None if whole else int(fits * 1e6),
        (least or 0) / 100,
    )


def megabytes(text: str, hardware: str | None) -> float:
    """Where the slider stands for an amount such as ``60MB``; at its end for none."""
    return min(read_amount(text) / 1e6, largest(hardware)) if text else largest(hardware)


def draw(*values: Any) -> tuple[Any, ...]:
    """What ``Explore.drawn`` shows, of the filter's values, what is open, and the live answers."""
    *chosen, opened, live = values
    view = read_view(*chosen)
    measured = [Live(**{**m, "recipe": Recipe.parse(m["recipe"])}) for m in live or ()]
    lines = results.table(view)
    # every recipe of this machine, whatever the filter: a list that shrinks while it is open fails in the browser
    names = [r.recipe for r in results.select(results.reports(), View(view.hardware, axis="size")).shown]
    opened = opened if opened in names else None
    return (
        charts.scatter(view, measured, opened),
        legend(view, len(lines)),
        lines,
        gr.Dropdown(names, value=opened),
        details.details(view.hardware, opened),
    )


def legend(view: View, count: int) -> str:
    """What the marks mean, as text: colours, shapes, rings, lines, and what was left out."""
    shapes = charts.symbols(results.models_on(view.hardware))
    families = [m for m in shapes if not view.models or m in view.models]
    chips = [f'<span class="key"><i style="background:{color}"></i>{name}</span>' for name, color in COLORS.items()]
    chips += [f'<span class="key"><b>{charts.SIGNS[shapes[m]]}</b>{m}</span>' for m in families]
    chips.append('<span class="key"><b>○</b>hollow: measured just now</span>')
    said = [f"{count} results. Area: bytes of weights. Bars: 95 % intervals. Ringed: on the Pareto frontier."]
    selection = results.select(results.reports(), view)
    if view.axis == "speed" and selection.shown:
        sets = results.comparable(selection.shown, "speed")
        if not sets:
            said.append("No line: these were not timed in turns, so their speeds are not told apart.")
        elif len(sets) > 1:
            said.append("One line for each set of models that was timed in turns.")
    odd = [why for _, why in selection.left_out if why not in ("does not fit", "below the least quality")]
    if odd:
        said.append(f"Left out: {len(odd)} that failed, or were asked or timed otherwise.")
    return f'<div class="legend">{"".join(chips)}</div><p class="note">{" ".join(said)}</p>'


def _of_hardware(hardware: str | None, families: Sequence[str]) -> tuple[Any, Any]:
    there = results.models_on(hardware)
    kept = [m for m in families or () if m in there] or there[:1]
    end = largest(hardware)
    return gr.CheckboxGroup(there, value=kept), gr.Slider(0, end, end)


def _clicked(event: gr.EventData) -> Any:
    recipe = event._data.get("recipe") if isinstance(event._data, dict) else None
    return recipe if any(r.recipe == recipe for r in results.reports()) else gr.skip()


def _row(event: gr.SelectData) -> Any:
    return event.row_value[0] if event.row_value else gr.skip()


def save_table(*chosen: Any) -> dict[str, str]:
    """The flat rows of the view as a CSV file."""
    shown = results.select(results.reports(), read_view(*chosen)).shown
    with refuse():
        if not shown:
            raise ValueError("there is nothing to save: no result fits this choice")
        text = export.FORMATS["csv"](export.flatten(_with_baselines(shown), results.rows))
    head, *lines = text.splitlines(keepends=True)
    column = head.split(",").index("recipe")
    names = {r.recipe for r in shown}
    kept = [line for line in lines if line.split(",")[column] in names]
    return _file("vlmcomp.csv", "text/csv", (head + "".join(kept)).encode())


def _with_baselines(shown: Sequence[Any]) -> list[Any]:
    """With the FP16 reports that the differences are to, even where the filter hides them."""
    wanted = {r.recipe for r in shown} | {str(Recipe.parse(r.recipe).baseline) for r in shown}
    return [r for r in results.reports() if r.hardware.slug == shown[0].hardware.slug and r.recipe in wanted]


def save_chart(kind: str, *chosen: Any) -> dict[str, str]:
    """The plot of the view as a PNG or a page of its own."""
    from vlmcomp.reporting import figures_matplotlib as pictures

    view = read_view(*chosen)
    shown = results.select(results.reports(), view).shown
    with refuse():
        name = "quality-size" if view.axis == "size" else "quality-latency"
        made = next((p for p in plots(shown, results.rows) if p.name == name), None)
        if made is None:
            raise ValueError("there is nothing to draw: no result fits this choice")
    type_ = {"png": "image/png", "html": "text/html"}[kind]
    return _file(f"{name}.{kind}", type_, pictures.PICTURES[kind](made))


def _file(name: str, type_: str, content: bytes) -> dict[str, str]:
    return {"name": name, "type": type_, "content": base64.b64encode(content).decode()}


def _filters(model: str) -> tuple[Any, ...]:
    machines = results.hardware()
    first = machines[0] if machines else None
    there, end = results.models_on(first), largest(first)
    with gr.Row(elem_classes="filters"):
        hardware = gr.Dropdown(machines, value=first, label="Measured on", min_width=220)
        axis = gr.Radio([(t, n) for n, t in results.AXES.items()], value="speed", label="Chart", min_width=220)
        fits = gr.Slider(0, end, end, label="Fits in, MB", info=f"right end: {_ANY}", min_width=200)
        least = gr.Slider(0, 100, 0, step=1, label="At least, % exact match", min_width=200)
    with gr.Row(elem_classes="filters"):
        families = gr.CheckboxGroup(there, value=results.usual_models(first, model), label="Family")
        techniques = gr.CheckboxGroup(list(COLORS), value=[], label="Technique (none: all)")
    return hardware, families, techniques, axis, fits, least


def view(model: str, live: gr.State) -> Explore:
    """Lays the view out and wires it."""
    filters = _filters(model)
    plot = gr.Plot(elem_id="scatter", show_label=False, label="Quality against speed or size")
    key = gr.HTML("", elem_id="legend")
    bridge = gr.HTML("", js_on_load=BRIDGE, elem_id="bridge")
    with gr.Row(elem_classes="actions"):
        csv = gr.Button("Table as CSV", size="sm", elem_id="csv", scale=0, min_width=130)
        png = gr.Button("Chart as PNG", size="sm", elem_id="png", scale=0, min_width=130)
        page = gr.Button("Chart as HTML", size="sm", elem_id="html", scale=0, min_width=130)
    opened = gr.Dropdown([], label="Open a recipe", info="or click a point, or take a row of the table", elem_id="open")
    card = gr.HTML(details.EMPTY, elem_id="details")
    table = gr.Dataframe(
        headers=list(results.HEAD),
        interactive=False,
        show_search="search",
        elem_id="table",
        label="The same as a table",
    )
    made = Explore(*filters, opened, plot, key, table, card)
    inputs = [*made.filter, opened, live]
    again = {"fn": draw, "inputs": inputs, "outputs": made.drawn, "trigger_mode": "always_last", **QUIET}
    moved = made.hardware.input(_of_hardware, [made.hardware, made.families], [made.families, made.fits], **QUIET)
    moved.then(**{k: v for k, v in again.items() if k != "trigger_mode"})
    for event in (made.families.input, made.techniques.input, made.axis.input, opened.input):
        event(**again)
    for slider in (made.fits, made.least):
        slider.release(**again)
    for event, take in ((bridge.select, _clicked), (table.select, _row)):
        event(take, None, opened, **QUIET).then(**{k: v for k, v in again.items() if k != "trigger_mode"})
    _wire_saving(made, csv, png, page)
    return made


def _wire_saving(made: Explore, csv: gr.Button, png: gr.Button, page: gr.Button) -> None:
    held = gr.JSON(visible="hidden")

    def chart(kind: str) -> Any:
        return lambda *chosen: save_chart(kind, *chosen)

    for button, make in ((csv, save_table), (png, chart("png")), (page, chart("html"))):
        done = button.click(make, made.filter, held, api_visibility="private", show_progress="minimal")
        done.success(None, held, None, js=SAVE, api_visibility="private")


def fits_text(fits: float | None, hardware: str | None) -> str:
    """The slider's place for a link; empty at its end."""
    return "" if fits is None or fits >= largest(hardware) else f"{fits:g}MB"
