"""Choose for me: a memory, a loss that can be borne and a goal -> one recipe, why, and how to get it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vlmcomp.app import results
from vlmcomp.app.errors import user_errors
from vlmcomp.app.events import NO_PROGRESS
from vlmcomp.feedback import format_bytes
from vlmcomp.models import registry
from vlmcomp.reporting import recommend as recommendation
from vlmcomp.reporting.grid import comparable_reports
from vlmcomp.reporting.grouping import list_tasks
from vlmcomp.reporting.palette import COLORS
from vlmcomp.reporting.recommend import Candidate, Constraints, Recommendation

GOALS = [("memory: the fewest bytes", "memory"), ("speed: the fastest decoding", "speed")]
DEFAULT_MEMORY = "8GB"


def _arithmetic(name: str) -> Any:
    from vlmcomp.compression import size_estimate

    return size_estimate.estimate_by_recipe(name)


def advise(model: str, memory: str, loss: float, goal: str, task: str | None = None) -> Recommendation:
    """The advice for what a visitor wrote; ``task``: of the loss (None: the model's headline task).

    Raises:
        ValueError: it cannot be used, in one sentence.
    """
    if not all(isinstance(text, str) for text in (model, memory, goal)):
        raise ValueError("model, memory and goal must be texts, such as llava-1.5-7b, 8GB and memory")
    if isinstance(loss, bool) or not isinstance(loss, int | float):
        raise ValueError("the loss must be a number of points, such as 2")
    if task is not None and not isinstance(task, str):
        raise ValueError("the task must be a text, such as vqav2")
    wish = Constraints(model, recommendation.parse_bytes(memory), float(loss), goal)
    return recommendation.recommend(wish, results.reports(), results.rows, _arithmetic, task or None)


def tasks_of(model: str) -> list[str]:
    """The tasks that ``model`` was measured on, its headline task first."""
    return list_tasks(comparable_reports(model, results.reports()))


def task_dropdown(model: str, task: str | None = None) -> gr.Dropdown:
    """A choice of the tasks that ``model`` was measured on, visible if there are several."""
    tasks = tasks_of(model)
    chosen = task if task in tasks else next(iter(tasks), None)
    return gr.Dropdown(tasks, value=chosen, label="Task", visible=len(tasks) > 1)


def render(advice: Recommendation) -> str:
    """The advice as HTML."""
    kind = "measured" if advice.measured else "arithmetic"
    basis = f'<p class="badge {kind}">{html.escape(advice.basis)}</p>'
    if advice.best is None:
        return (
            f'<section class="advice none"><h3>Nothing will do</h3><p>{html.escape(advice.reason)}</p>{basis}</section>'
        )
    best = advice.best
    return (
        f'<section class="advice" style="--hue:{COLORS[best.recipe.technique]}" aria-live="polite">'
        f'<p class="kicker">Take</p><h3>{html.escape(str(best.recipe))}</h3><p>{html.escape(best.recipe.label)}</p>'
        f"<p><b>Why.</b> {html.escape(advice.reason)}</p><p><b>What it costs.</b> {html.escape(advice.cost)}</p>"
        f"{basis}</section>"
    )


def render_candidates(advice: Recommendation) -> str:
    """Every recipe that was looked at, and why it was not taken."""
    rows = "".join(_row(o, o == advice.best) for o in advice.candidates)
    head = "".join(f"<th scope='col'>{h}</th>" for h in ("Recipe", "Weights", "Needs", "Points to FP16", "Speed", ""))
    return (
        f'<details class="others"><summary>All {len(advice.candidates)} recipes that were looked at</summary>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _row(option: Candidate, taken: bool) -> str:
    lost = "not known"
    if option.difference is not None:
        lost = "{} ({} to {})".format(*option.difference.points())
    speed = "not known" if option.speed is None else f"{1 + option.speed.value:.2f}x"
    said = "taken" if taken else option.refused or "would do"
    cells = (
        option.recipe.name,
        format_bytes(option.weight_bytes),
        format_bytes(option.required_bytes),
        lost,
        speed,
        said,
    )
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


@dataclass(frozen=True)
class RecommendComponents:
    """The components whose values a link holds."""

    model: gr.Dropdown
    memory: gr.Textbox
    loss: gr.Slider
    goal: gr.Radio
    task: gr.Dropdown


def _choose(model: str, memory: str, loss: float, goal: str, task: str | None) -> tuple[Any, ...]:
    with user_errors():
        found = advise(model, memory, loss, goal, task)
    there = found.best is not None
    code = (gr.Code(found.command, visible=there), gr.Code(found.python, visible=there))
    return render(found), *code, render_candidates(found)


def build(model: str) -> RecommendComponents:
    """Lays the view out and wires it."""
    with gr.Row(elem_classes="sides"):
        with gr.Column(scale=2, min_width=300):
            names = gr.Dropdown([(m.title, m.name) for m in registry.MODELS.values()], value=model, label="Model")
            memory = gr.Textbox(DEFAULT_MEMORY, label="My device has", info="such as 8GB or 60MB", max_lines=1)
            loss = gr.Slider(0, 20, 1, step=0.5, label="I can lose at most, points of exact match")
            goal = gr.Radio(GOALS, value="memory", label="I want")
            task = task_dropdown(model)
            go = gr.Button("Choose for me", variant="primary", elem_id="choose")
        with gr.Column(scale=3, min_width=300):
            told = gr.HTML(
                '<div class="empty">Say what you have and what you can bear: '
                "the recipe, its price and its commands appear here.</div>",
                elem_id="advice",
            )
            command = gr.Code(label="Build it", language="shell", lines=1, visible=False, interactive=False)
            python = gr.Code(label="Load and ask it", language="python", visible=False, interactive=False)
            table = gr.HTML("", elem_id="others")
    inputs, outputs = [names, memory, loss, goal, task], [told, command, python, table]
    names.input(task_dropdown, [names, task], task, **NO_PROGRESS)
    for event in (go.click, memory.submit):
        event(_choose, inputs, outputs, api_visibility="private", show_progress_on=told, concurrency_limit=None)
    return RecommendComponents(names, memory, loss, goal, task)
