"""The tab Compare: one image, one question, several variants, whose answers stream side by side."""

from __future__ import annotations

import html
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_base64_to_cache

from vlmcomp.app import charts, compare_run, handlers, offer, relative, variant_picker
from vlmcomp.app.details import data_uri
from vlmcomp.app.errors import plain_text, user_errors
from vlmcomp.app.events import NO_PROGRESS, UNQUEUED
from vlmcomp.data.images import open_image
from vlmcomp.models import registry
from vlmcomp.serving.examples import DRAWN_SCENE, Example, draw_scene, find_example, get_examples

EXAMPLE_STRIP_JS = Path(__file__).with_name("strip.js").read_text(encoding="utf-8")
_SHOW_ANSWERS_JS = """() => {
  if (innerWidth < 700) document.querySelector("#cards").scrollIntoView({ behavior: "smooth", block: "start" });
}"""
_WITH_TIME_JS = "(time, ...inputs) => [performance.now(), ...inputs]"
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
    variants: gr.Dropdown
    known_answer: gr.State
    measurements: gr.State
    status: gr.Markdown
    ask_events: tuple[Any, ...]


def example_strip(model: str) -> str:
    """The examples of a model as HTML buttons with their images."""
    buttons = "".join(
        f'<button type="button" data-name="{html.escape(e.name)}" aria-label="Example: {html.escape(e.question)}">'
        f'<img src="{data_uri(open_image(e.image))}" alt=""><span>{html.escape(_short(e.question))}</span></button>'
        for e in get_examples(model)
    )
    return f'<div class="strip" role="group" aria-label="Examples">{buttons}</div>'


def _short(question: str) -> str:
    return question.removesuffix(" Answer with one word.")


def load_example(name: str | None) -> tuple[Any, Any, dict[str, str]]:
    """Image and question of an example or of a drawn scene, and the value of ``CompareComponents.known_answer``.

    Raises:
        ValueError: no such example.
    """
    if drawn := DRAWN_SCENE.fullmatch(name or ""):
        image, question, answer = draw_scene(int(drawn[1]))
        return image, question, {"example": drawn[0], "question": question, "answer": answer}
    example = find_example(name)
    if example is None:
        raise ValueError("there is no such example: choose one of those shown")
    return open_image(example.image), example.question, known_of(example)


def known_of(example: Example) -> dict[str, str]:
    """The value of ``CompareComponents.known_answer`` for an example."""
    return {"example": example.name, "question": example.question, "answer": example.answer or ""}


def _take_example(event: gr.EventData) -> tuple[Any, Any, dict[str, str]]:
    name = event._data.get("name") if isinstance(event._data, dict) else None
    with user_errors():
        return load_example(name)


def _random_scene() -> tuple[Any, Any, dict[str, str]]:
    return load_example(f"drawn-{random.randrange(10**9)}")


def change_model(model: str) -> tuple[Any, ...]:
    """What changes with the model: variants, examples, and what it knows; then its first example."""
    spec = registry.get_model_spec(model)
    variants = variant_picker.dropdown(model, handlers.default_variants(model))
    return variants, example_strip(model), _knows(spec), *load_example(get_examples(model)[0].name)


def _knows(spec: registry.ModelSpec) -> str:
    """What a model cannot answer about, said where a photograph would be uploaded."""
    if not spec.knows:
        return ""
    return f"**{spec.title}** is a small demo: it knows {spec.knows}, no photographs. For photos choose a real model."


def _best(model: str) -> str:
    """The best recorded variants of a model, in words."""
    return relative.frontier_sentence(charts.compact_view(model)) if charts.has_results(model) else ""


def _chart(model: str, recipes: Sequence[str], live: Sequence[dict[str, Any]] = ()) -> Any:
    """The recorded results of a model with the selected variants marked; nothing for a model without any."""
    if not charts.has_results(model):
        return gr.Plot(visible=False)
    figure = charts.compact_figure(model, None, recipes, relative.parse_live(live))
    return gr.Plot(figure, visible=True)


def _image_column(model: str, first: Example) -> tuple[gr.Image, gr.HTML, gr.Markdown]:
    with gr.Column(scale=2, min_width=300):
        image = Upload(
            str(first.image),
            type="filepath",
            format="png",
            image_mode=None,
            sources=["upload", "webcam", "clipboard"],
            label="Image",
            height=210,
        )
        knows = gr.Markdown(_knows(registry.get_model_spec(model)), elem_classes="note", elem_id="knows")
        strip = gr.HTML(example_strip(model), js_on_load=EXAMPLE_STRIP_JS, elem_id="examples")
    return image, strip, knows


def _question_column(
    model: str, first: Example
) -> tuple[gr.Textbox, gr.Dropdown, variant_picker.VariantPicker, dict[str, gr.Button]]:
    with gr.Column(scale=3, min_width=300):
        with gr.Row(equal_height=True):
            question = gr.Textbox(
                first.question,
                label="Question",
                placeholder="What is in the image?",
                max_lines=4,
                elem_id="question",
                scale=3,
                min_width=240,
            )
            titles = [(m.title, m.name) for m in registry.MODELS.values()]
            models = gr.Dropdown(titles, value=model, label="Model", scale=2, min_width=180)
        picker = variant_picker.build(model, handlers.default_variants(model))
        with gr.Row(elem_classes="actions"):
            buttons = {"ask": gr.Button("Ask", variant="primary", elem_id="ask", min_width=90)}
            for name, text in (("again", "Run again"), ("stop", "Stop"), ("surprise", "Surprise me")):
                buttons[name] = gr.Button(text, elem_id=name, min_width=90)
    return question, models, picker, buttons


def build(model: str, live_options: dict[str, Any]) -> CompareComponents:
    """Lays out the tab, its first example answered by recordings, and connects its events.

    Args:
        model: the model that is selected at first.
        live_options: options of the events whose answers are live.
    """
    first = get_examples(model)[0]
    known = gr.State(known_of(first))
    measurements = gr.State([])
    session = gr.State(compare_run.Session())
    offered = offer.build()
    with gr.Row(elem_classes="sides"):
        image, strip, knows = _image_column(model, first)
        question, models, picker, buttons = _question_column(model, first)
    selected = handlers.default_variants(model)
    answers = gr.HTML(
        compare_run.recorded_cards(str(first.image), first.question, selected, known_of(first)), elem_id="cards"
    )
    clicked = gr.HTML(js_on_load=charts.click_js(".scatter.compact"))
    shown = charts.compact_figure(model, None, selected)
    best = gr.HTML(_best(model), elem_classes="best")
    chart = gr.Plot(shown, visible=charts.has_results(model), show_label=False, elem_classes="scatter compact")
    status = gr.Markdown(handlers.status(), elem_classes="status")
    asked = [image, question, picker.chips, known]
    for event in (buttons["ask"].click, question.submit):
        event(None, js=_SHOW_ANSWERS_JS, api_visibility="private")
    time = gr.Number(visible=False)
    timed: dict[str, Any] = {"js": _WITH_TIME_JS, "outputs": answers, **NO_PROGRESS}
    begun = (
        gr.on([buttons["ask"].click, question.submit], compare_run.begin, [time, session, *asked], **timed),
        buttons["again"].click(compare_run.begin, [time, session], **timed),
    )
    # A press while another run is ending begins after it.
    options = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "always_last", **live_options}
    ask_events = tuple(
        event.then(compare_run.ask, [session, measurements], [answers, measurements, status], **options)
        for event in begun
    )
    for event in ask_events:
        event.failure(compare_run.show_stopped, session, answers, **NO_PROGRESS)
    buttons["stop"].click(compare_run.stop, session, None, **UNQUEUED)
    changes = [image.change, question.change, picker.chips.change]
    gr.on(changes, compare_run.preview, [time, session, *asked], trigger_mode="always_last", **timed)
    depending = [picker.chips, strip, knows, image, question, known]
    picker.connect(models, clicked)
    drawn = [models, picker.chips, measurements]
    picker.chips.change(_chart, drawn, chart, **NO_PROGRESS)
    models.change(_best, models, best, **NO_PROGRESS)
    for event in ask_events:
        event.then(_chart, drawn, chart, **NO_PROGRESS)
    models.input(change_model, models, depending, **UNQUEUED)
    got = offered.got.success(lambda name: name or gr.skip(), offered.model, models, **UNQUEUED)
    got.success(_change_to_offered, offered.model, depending, **UNQUEUED)
    strip.select(_take_example, None, [image, question, known], **UNQUEUED)
    buttons["surprise"].click(_random_scene, None, [image, question, known], **UNQUEUED)
    upload = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
    image.upload(_check_upload, image, image, **upload)
    for event in (image.upload, image.clear):
        event(lambda: NO_KNOWN_ANSWER, None, known, **UNQUEUED)
    return CompareComponents(image, question, models, picker.chips, known, measurements, status, ask_events)


def _check_upload(image: str | None) -> Any:
    """Clears an image that cannot be read, and says why at once instead of at the first question."""
    try:
        open_image(image)
    except ValueError as error:
        gr.Warning(plain_text(str(error)))
        return None
    return gr.skip()


def _change_to_offered(model: str | None) -> Any:
    return change_model(model) if model else (gr.skip(),) * 6
