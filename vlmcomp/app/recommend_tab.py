"""The tab Choose for me: from memory, acceptable loss and goal to one recipe, its reason and its commands."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vlmcomp.app import results
from vlmcomp.app.errors import user_errors
from vlmcomp.app.events import NO_PROGRESS
from vlmcomp.feedback import format_bytes, format_count
from vlmcomp.models import registry
from vlmcomp.reporting import recommend as recommendation
from vlmcomp.reporting.grid import comparable_reports
from vlmcomp.reporting.grouping import list_tasks
from vlmcomp.reporting.palette import COLORS
from vlmcomp.reporting.recommend import Candidate, Constraints, Recommendation
from vlmcomp.serving.local import import_libraries

GOALS = [("memory: the smallest recipe", "memory"), ("speed: the fastest recipe", "speed")]
DEFAULT_MEMORY = "8GB"


def _size_estimate(model: str) -> Any:
    import_libraries()
    from vlmcomp.compression import size_estimate  # imports torch, which measured models do not need

    return size_estimate.estimate_by_recipe(model)


def advise(model: str, memory: str, loss: float, goal: str, task: str | None = None) -> Recommendation:
    """The recommendation for what a visitor entered.

    Args:
        model: the model to compress.
        memory: memory of the device, such as ``8GB``.
        loss: largest acceptable loss of the task's score, in percentage points.
        goal: ``"memory"`` or ``"speed"``.
        task: the task of the loss (None: the model's headline task).

    Raises:
        ValueError: an invalid value; one sentence.
    """
    if not all(isinstance(text, str) for text in (model, memory, goal)):
        raise ValueError("model, memory and goal must be strings, such as llava-1.5-7b, 8GB and memory")
    if isinstance(loss, bool) or not isinstance(loss, int | float):
        raise ValueError("the loss must be a number of points, such as 2")
    if task is not None and not isinstance(task, str):
        raise ValueError("the task must be a string, such as vqav2")
    constraints = Constraints(model, recommendation.parse_bytes(memory), float(loss), goal)
    return recommendation.recommend(constraints, results.reports(), results.rows, _size_estimate, task or None)


def tasks_of(model: str) -> list[str]:
    """The tasks that ``model`` was measured on, its headline task first."""
    return list_tasks(comparable_reports(model, results.reports()))


def task_dropdown(model: str, task: str | None = None) -> gr.Dropdown:
    """A choice of the tasks that ``model`` was measured on, visible if there are several."""
    tasks = tasks_of(model)
    chosen = task if task in tasks else next(iter(tasks), None)
    return gr.Dropdown(tasks, value=chosen, label="Task", visible=len(tasks) > 1)


def render(recommendation: Recommendation) -> str:
    """The recommended recipe as HTML, or why there is none."""
    kind = "measured" if recommendation.measured else "arithmetic"
    basis = f'<p class="badge {kind}">{html.escape(recommendation.basis)}</p>'
    reason = html.escape(recommendation.reason)
    best = recommendation.best
    if best is None:
        return f'<section class="advice none"><h3>No recipe qualifies</h3><p>{reason}</p>{basis}</section>'
    return (
        f'<section class="advice" style="--hue:{COLORS[best.recipe.technique]}" aria-live="polite">'
        f'<p class="kicker">Recommended</p><h3>{html.escape(str(best.recipe))}</h3>'
        f"<p>{html.escape(best.recipe.label)}</p><p><b>Why:</b> {reason}</p>"
        f"<p><b>Cost:</b> {html.escape(recommendation.cost)}</p>{basis}</section>"
    )


def render_candidates(recommendation: Recommendation) -> str:
    """All candidates as an HTML table, with the reason why each was not chosen."""
    candidates = recommendation.candidates
    rows = "".join(_row(candidate, candidate == recommendation.best) for candidate in candidates)
    titles = ("Recipe", "Verdict", "Weights", "Needs", "Points to FP16", "Speed")
    head = "".join(f"<th scope='col'>{title}</th>" for title in titles)
    return (
        f'<details class="others"><summary>All {format_count(len(candidates), "candidate")}</summary>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _row(candidate: Candidate, is_best: bool) -> str:
    loss = "unknown"
    if candidate.difference is not None:
        loss = "{} ({} to {})".format(*candidate.difference.points())
    speed = "unknown" if candidate.speed is None else f"{1 + candidate.speed.value:.2f}x"
    verdict = "chosen" if is_best else candidate.refused or "qualifies"
    cells = (
        candidate.recipe.name,
        verdict,
        format_bytes(candidate.weight_bytes),
        format_bytes(candidate.required_bytes),
        loss,
        speed,
    )
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


@dataclass(frozen=True)
class RecommendComponents:
    """The components whose values a link contains."""

    model: gr.Dropdown
    memory: gr.Textbox
    loss: gr.Slider
    goal: gr.Radio
    task: gr.Dropdown


def _choose(model: str, memory: str, loss: float, goal: str, task: str | None) -> tuple[Any, ...]:
    with user_errors():
        found = advise(model, memory, loss, goal, task)
    has_recipe = found.best is not None
    code = (gr.Code(found.command, visible=has_recipe), gr.Code(found.python, visible=has_recipe))
    return render(found), *code, render_candidates(found)


def build(model: str) -> RecommendComponents:
    """Lays out the tab and connects its events; ``model`` is selected at first."""
    with gr.Row(elem_classes="sides"):
        with gr.Column(scale=2, min_width=300):
            models = gr.Dropdown([(m.title, m.name) for m in registry.MODELS.values()], value=model, label="Model")
            memory = gr.Textbox(DEFAULT_MEMORY, label="My device has", info="such as 8GB or 60MB", max_lines=1)
            loss = gr.Slider(0, 20, 1, step=0.5, label="Acceptable loss, percentage points")
            goal = gr.Radio(GOALS, value="memory", label="Optimize for")
            task = task_dropdown(model)
            choose = gr.Button("Choose for me", variant="primary", elem_id="choose")
        with gr.Column(scale=3, min_width=300):
            result = gr.HTML(
                '<div class="empty">Enter the memory of your device and the loss that you accept. '
                "The recommended recipe, its cost and its commands appear here.</div>",
                elem_id="advice",
            )
            command = gr.Code(label="Build it", language="shell", lines=1, visible=False, interactive=False)
            python = gr.Code(label="Use it in Python", language="python", visible=False, interactive=False)
            candidates = gr.HTML("", elem_id="others")
    inputs = [models, memory, loss, goal, task]
    outputs = [result, command, python, candidates]
    models.input(task_dropdown, [models, task], task, **NO_PROGRESS)
    for event in (choose.click, memory.submit):
        event(_choose, inputs, outputs, api_visibility="private", show_progress_on=result, concurrency_limit=None)
    return RecommendComponents(models, memory, loss, goal, task)
