"""The shown results as files that the browser saves: the table as CSV, the chart as PNG or HTML."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from vlmcomp.app import results
from vlmcomp.app.errors import user_errors
from vlmcomp.app.results import ResultFilter
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import export, figures_matplotlib
from vlmcomp.reporting.figures import build_plots

SAVE_FILE_JS = Path(__file__).with_name("save.js").read_text(encoding="utf-8")


def save_table(view: ResultFilter) -> dict[str, str]:
    """The shown results as a CSV file."""
    selection = results.select(results.reports(), view)
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


def save_chart(kind: str, view: ResultFilter) -> dict[str, str]:
    """The chart as a PNG or HTML file."""
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


def build(filters: list[Any], read_filter: Callable[..., ResultFilter]) -> None:
    """Lays out the buttons and connects them.

    Args:
        filters: the components that select results.
        read_filter: makes a filter of their values.
    """
    with gr.Row(elem_classes="actions"):
        csv = gr.Button("Table as CSV", size="sm", elem_id="csv", scale=0, min_width=130)
        png = gr.Button("Chart as PNG", size="sm", elem_id="png", scale=0, min_width=130)
        page = gr.Button("Chart as HTML", size="sm", elem_id="html", scale=0, min_width=130)
    file = gr.JSON(visible="hidden")  # what the script in the browser saves

    def chart(kind: str) -> Any:
        return lambda *chosen: save_chart(kind, read_filter(*chosen))

    def table(*chosen: Any) -> dict[str, str]:
        return save_table(read_filter(*chosen))

    for button, make in ((csv, table), (png, chart("png")), (page, chart("html"))):
        done = button.click(make, filters, file, api_visibility="private", show_progress="minimal")
        done.success(None, file, None, js=SAVE_FILE_JS, api_visibility="private")
