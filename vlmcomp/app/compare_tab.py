"""The tab Compare: one image, one question, several variants, whose answers stream side by side."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_base64_to_cache

from vlmcomp.app import cards, handlers
from vlmcomp.app.details import data_uri
from vlmcomp.app.errors import user_errors
from vlmcomp.app.events import NO_PROGRESS, UNQUEUED
from vlmcomp.data.images import open_image
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe

EXAMPLE_STRIP_JS = Path(__file__).with_name("strip.js").read_text(encoding="utf-8")
NO_KNOWN_ANSWER: dict[str, str] = {}


class Upload(gr.Image):
    """An image component that passes the uploaded bytes on as they are: ``open_image`` alone decodes them.

    Gradio would decode what comes within a URL in any format that Pillow knows, and encode it again.
    """

    is_template = True  # rendered as the component it extends

    def preprocess(self, payload: Any) -> str | None:
        if payload is None or not (payload.url or "").startswith("data:"):
            return payload and payload.path
        try:
            return save_base64_to_cache(payload.url, self.GRADIO_CACHE)
        except (OSError, ValueError):
            raise gr.Error("the image cannot be read: its URL holds no base64", print_exception=False) from None


@dataclass(frozen=True)
class CompareComponents:
    """The components that the page connects to others.

    Attributes:
        image: the image, as a path.
        question: the question.
        model: the model of the variants.
        variants: the selected recipes.
        known_answer: example, question and correct answer of the image, as far as they are known.
        measurements: the newest live measurement of each recipe.
        status: the models in memory.
        ask_events: the events that answer a question.
    """

    image: gr.Image
    question: gr.Textbox
    model: gr.Dropdown
    variants: gr.CheckboxGroup
    known_answer: gr.State
    measurements: gr.State
    status: gr.Markdown
    ask_events: tuple[Any, ...]


def variant_choices(model: str) -> list[tuple[str, str]]:
    """Label and recipe of each variant that a model offers."""
    return [(Recipe.parse(v).name, v) for v in handlers.variants(model)]


def example_strip() -> str:
    """The examples as HTML buttons with their images."""
    buttons = "".join(
        f'<button type="button" data-name="{html.escape(e.name)}" aria-label="Example: {html.escape(e.question)}">'
        f'<img src="{data_uri(open_image(e.image))}" alt=""><span>{html.escape(_short(e.question))}</span></button>'
        for e in handlers.examples()
    )
    return f'<div class="strip" role="group" aria-label="Examples">{buttons}</div>'


def _short(question: str) -> str:
    return question.removesuffix(" Answer with one word.")


def load_example(name: str | None) -> tuple[Any, Any, dict[str, str]]:
    """Image and question of an example, and the value of ``CompareComponents.known_answer``.

    Raises:
        ValueError: no such example.
    """
    example = handlers.example(name)
    if example is None:
        raise ValueError("there is no such example: choose one of those shown")
    known = {"example": example.name, "question": example.question, "answer": example.answer or ""}
    return open_image(example.image), example.question, known


def _take_example(event: gr.EventData) -> tuple[Any, Any, dict[str, str]]:
    name = event._data.get("name") if isinstance(event._data, dict) else None
    with user_errors():
        return load_example(name)


def _random_scene() -> tuple[Any, Any, dict[str, str]]:
    image, question, answer = handlers.random_scene()
    return image, question, {"question": question, "answer": answer}


def _known_answer(known: dict[str, str], question: str) -> str | None:
    """The correct answer; None if the visitor has changed the question."""
    return known.get("answer") or None if known.get("question") == question else None


def _merge_live(before: Sequence[dict[str, Any]], comparison: handlers.Comparison) -> list[dict[str, Any]]:
    """The newest measurement of each recipe, as ``gr.State`` stores them."""
    new = {str(m.recipe): {**asdict(m), "recipe": str(m.recipe)} for m in comparison.measurements}
    return [*({m["recipe"]: m for m in before or ()} | new).values()]


@dataclass(eq=False)
class Run:
    """What was asked by one press of Ask or Run again, until Stop or the next press ends it.

    Attributes:
        inputs: image, question, recipes and ``CompareComponents.known_answer``; None if nothing was asked.
        stopped: Stop was pressed.
        replaced: something else was asked.
    """

    inputs: tuple[str | None, str, list[str], dict[str, str]] | None = None
    stopped: bool = False
    replaced: bool = False


def _begin(run: Run, *inputs: Any) -> tuple[Run, Any]:
    """Ends ``run``. Returns the next one, and its recorded answers, which are shown while the live ones wait."""
    run.replaced = True
    return Run(inputs or run.inputs), _show_recorded(inputs or run.inputs)


def _stop(run: Run) -> None:
    run.stopped = True


def _ask(run: Run, live: list[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    """Yields the cards, the live measurements, and the models in memory."""
    with user_errors():
        if run.inputs is None:
            raise ValueError("there is no question to run again: ask one first")
        image, question, recipes, known = run.inputs
        answers = handlers.compare(image, question, recipes, lambda: run.stopped or run.replaced)
        with closing(answers) as comparisons:
            for comparison in comparisons:
                if run.replaced:
                    return
                html_cards = cards.render(comparison, _known_answer(known or {}, question))
                yield html_cards, _merge_live(live, comparison), handlers.status()


def _show_recorded(inputs: Any, stopped: bool = False) -> Any:
    """The recorded answers, with or without live ones to follow."""
    try:
        image, question, recipes, known = inputs
        comparison = handlers.recorded_first(image, question, recipes)
    except (TypeError, ValueError):
        return gr.skip()  # ``_ask`` reports the error
    return cards.render(handlers.stopped(comparison) if stopped else comparison, _known_answer(known or {}, question))


def _update_variants(model: str) -> Any:
    return gr.CheckboxGroup(choices=variant_choices(model), value=handlers.default_variants(model))


def _image_column() -> tuple[gr.Image, gr.HTML]:
    with gr.Column(scale=2, min_width=300):
        image = Upload(
            type="filepath",
            format="png",
            image_mode=None,
            sources=["upload", "webcam", "clipboard"],
            label="Image",
            height=250,
        )
        examples = gr.HTML(example_strip(), js_on_load=EXAMPLE_STRIP_JS, elem_id="examples")
    return image, examples


def _question_column(model: str) -> tuple[gr.Textbox, gr.Dropdown, gr.CheckboxGroup, dict[str, gr.Button]]:
    with gr.Column(scale=3, min_width=300):
        question = gr.Textbox(label="Question", placeholder="What color is the shape?", max_lines=4, elem_id="question")
        models = gr.Dropdown([(m.title, m.name) for m in registry.MODELS.values()], value=model, label="Model")
        variants = gr.CheckboxGroup(
            variant_choices(model),
            value=handlers.default_variants(model),
            label=f"Variants (up to {handlers.MAX_VARIANTS})",
            elem_id="variants",
        )
        with gr.Row(elem_classes="actions"):
            buttons = {"ask": gr.Button("Ask", variant="primary", elem_id="ask", min_width=90)}
            for name, text in (("again", "Run again"), ("stop", "Stop"), ("surprise", "Surprise me")):
                buttons[name] = gr.Button(text, elem_id=name, min_width=90)
    return question, models, variants, buttons


def build(model: str, live_options: dict[str, Any]) -> CompareComponents:
    """Lays out the tab and connects its events.

    Args:
        model: the model that is selected at first.
        live_options: options of the events whose answers are live.
    """
    known = gr.State(NO_KNOWN_ANSWER)
    measurements = gr.State([])
    run = gr.State(Run())
    with gr.Row(elem_classes="sides"):
        image, examples = _image_column()
        question, models, variants, buttons = _question_column(model)
    answers = gr.HTML(cards.EMPTY, elem_id="cards")
    status = gr.Markdown(handlers.status(), elem_classes="status")
    begun = (
        gr.on(
            [buttons["ask"].click, question.submit],
            _begin,
            [run, image, question, variants, known],
            [run, answers],
            **NO_PROGRESS,
        ),
        buttons["again"].click(_begin, run, [run, answers], **NO_PROGRESS),
    )
    # A press while another run is ending begins after it.
    options = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "always_last", **live_options}
    ask_events = tuple(
        event.then(_ask, [run, measurements], [answers, measurements, status], **options) for event in begun
    )
    for event in ask_events:
        event.failure(lambda run: _show_recorded(run.inputs, stopped=True), run, answers, **NO_PROGRESS)
    buttons["stop"].click(_stop, run, None, **UNQUEUED)
    models.input(_update_variants, models, variants, **UNQUEUED)
    examples.select(_take_example, None, [image, question, known], **UNQUEUED)
    buttons["surprise"].click(_random_scene, None, [image, question, known], **UNQUEUED)
    for event in (image.upload, image.clear):
        event(lambda: NO_KNOWN_ANSWER, None, known, **UNQUEUED)
    return CompareComponents(image, question, models, variants, known, measurements, status, ask_events)
