"""Compare: one image, one question, several variants; answers stream side by side."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL.Image import DecompressionBombError

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
    """An image whose unreadable file is one sentence, and not an error inside the component."""

    is_template = True  # drawn as the component it extends

    def preprocess(self, payload: Any) -> Any:
        try:
            return super().preprocess(payload)
        except (OSError, SyntaxError, ValueError, DecompressionBombError):
            raise gr.Error(
                "the image cannot be read: use a PNG, JPEG or WebP file of usual size", print_exception=False
            ) from None


@dataclass(frozen=True)
class CompareComponents:
    """The components that others need. ``known``: the example or drawn scene on show, and its right answer."""

    image: gr.Image
    question: gr.Textbox
    model: gr.Dropdown
    variants: gr.CheckboxGroup
    known_answer: gr.State
    measurements: gr.State
    ask_events: tuple[Any, ...]


def variant_choices(model: str) -> list[tuple[str, str]]:
    return [(Recipe.parse(v).name, v) for v in handlers.variants(model)]


def example_strip() -> str:
    """The examples as buttons with their images."""
    buttons = "".join(
        f'<button type="button" data-name="{html.escape(e.name)}" aria-label="Example: {html.escape(e.question)}">'
        f'<img src="{data_uri(open_image(e.image))}" alt=""><span>{html.escape(_short(e.question))}</span></button>'
        for e in handlers.examples()
    )
    return f'<div class="strip" role="group" aria-label="Examples">{buttons}</div>'


def _short(question: str) -> str:
    return question.removesuffix(" Answer with one word.")


def load_example(name: str | None) -> tuple[Any, Any, dict[str, str]]:
    """Image, question and what is known of an example.

    Raises:
        ValueError: no such example.
    """
    found = handlers.example(name)
    if found is None:
        raise ValueError("there is no such example: choose one of those shown")
    known = {"example": found.name, "question": found.question, "answer": found.answer or ""}
    return open_image(found.image), found.question, known


def _take_example(event: gr.EventData) -> tuple[Any, Any, dict[str, str]]:
    name = event._data.get("name") if isinstance(event._data, dict) else None
    with user_errors():
        return load_example(name)


def _random_scene() -> tuple[Any, Any, dict[str, str]]:
    image, question, answer = handlers.random_scene()
    return image, question, {"question": question, "answer": answer}


def _known_answer(known: dict[str, str], question: str) -> str | None:
    """The right answer, as long as the question is the one that it answers."""
    return known.get("answer") or None if known.get("question") == question else None


def _merge_live(before: Sequence[dict[str, Any]], comparison: handlers.Comparison) -> list[dict[str, Any]]:
    """The newest live answer of each recipe."""
    new = {str(m.recipe): {**asdict(m), "recipe": str(m.recipe)} for m in comparison.measurements}
    return [*({m["recipe"]: m for m in before or ()} | new).values()]


def _ask(
    image: str | None,
    question: str,
    recipes: list[str],
    known: dict[str, str],
    live: list[dict[str, Any]],
    progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default
) -> Iterator[tuple[Any, ...]]:
    """Yields the cards, the live answers, what is in memory, and what would be run again."""
    again = (image, question, recipes, known)
    with user_errors():
        told = handlers.compare(image, question, recipes, lambda text, share: progress(share, desc=text))
        with closing(told) as news:
            for comparison in news:
                told = cards.render(comparison, _known_answer(known or {}, question))
                yield told, _merge_live(live, comparison), handlers.status(), again


def _show_recorded(image: str | None, question: str, recipes: list[str], known: dict[str, str]) -> Any:
    """The recorded answers, while the live ones wait for their turn on this machine."""
    try:
        return cards.render(handlers.recorded_first(image, question, recipes), _known_answer(known or {}, question))
    except ValueError:
        return gr.skip()  # the turn that follows says what is wrong


def _run_again(
    last: Any, live: list[dict[str, Any]], progress: gr.Progress = gr.Progress()
) -> Iterator[tuple[Any, ...]]:
    with user_errors():
        if not last:
            raise ValueError("nothing was asked yet: ask first, then run it again")
    yield from _ask(*last, live, progress)


def _update_variants(model: str) -> Any:
    return gr.CheckboxGroup(choices=variant_choices(model), value=handlers.default_variants(model))


def build(model: str, gpu: dict[str, Any]) -> CompareComponents:
    """Lays the view out and wires it; ``gpu`` holds what keeps timed answers apart."""
    known, live, last = gr.State(NO_KNOWN_ANSWER), gr.State([]), gr.State(None)
    with gr.Row(elem_classes="sides"):
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
        with gr.Column(scale=3, min_width=300):
            question = gr.Textbox(
                label="Question", placeholder="What color is the shape?", max_lines=4, elem_id="question"
            )
            names = gr.Dropdown([(m.title, m.name) for m in registry.MODELS.values()], value=model, label="Model")
            picked = gr.CheckboxGroup(
                variant_choices(model),
                value=handlers.default_variants(model),
                label="Variants, two to six",
                elem_id="variants",
            )
            with gr.Row(elem_classes="actions"):
                go = gr.Button("Ask", variant="primary", elem_id="ask", min_width=90)
                again = gr.Button("Run again", elem_id="again", min_width=90)
                stop = gr.Button("Stop", elem_id="stop", min_width=90)
                chance = gr.Button("Surprise me", elem_id="surprise", min_width=90)
    shown = gr.HTML(cards.EMPTY, elem_id="cards")
    held = gr.Markdown(handlers.status(), elem_classes="status")
    outputs, inputs = [shown, live, held, last], [image, question, picked, known]
    busy = {"api_visibility": "private", "show_progress_on": held, **gpu}
    first = [event(_show_recorded, inputs, shown, **NO_PROGRESS) for event in (go.click, question.submit)]
    runs = (
        *(event.then(_ask, [*inputs, live], outputs, **busy) for event in first),
        again.click(_run_again, [last, live], outputs, **busy),
    )
    stop.click(None, cancels=list(runs), **UNQUEUED)
    names.input(_update_variants, names, picked, **UNQUEUED)
    examples.select(_take_example, None, [image, question, known], **UNQUEUED)
    chance.click(_random_scene, None, [image, question, known], **UNQUEUED)
    for event in (image.upload, image.clear):
        event(lambda: NO_KNOWN_ANSWER, None, known, **UNQUEUED)
    return CompareComponents(image, question, names, picked, known, live, runs)
