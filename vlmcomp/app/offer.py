"""The offer at the top of the page: a real model that this machine can run, and one button that gets it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vlmcomp.app import real_models
from vlmcomp.app.errors import plain_text
from vlmcomp.app.events import NO_PROGRESS, UNQUEUED
from vlmcomp.models import registry

_SECONDS_BETWEEN_LOOKS = 2.0


@dataclass(frozen=True)
class OfferComponents:
    """The components of the offer.

    Attributes:
        got: the event after which ``model`` has the name of a model that is here, or None.
        model: a state.
    """

    got: Any
    model: gr.State


def build() -> OfferComponents:
    """Lays out the offer, which stays hidden until there is one."""
    model = gr.State(None)
    timer = gr.Timer(_SECONDS_BETWEEN_LOOKS)
    with gr.Row(visible=False, elem_id="offer", equal_height=True) as row:
        text = gr.Markdown(elem_classes="offer")
        button = gr.Button("Use it", variant="secondary", scale=0, min_width=110)
    timer.tick(_look, None, [row, text, timer], **NO_PROGRESS)
    getting = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": 8}
    got = button.click(_get, None, [text, button, model], **getting)
    got.success(lambda name: gr.Row(visible=not name), model, row, **UNQUEUED)
    return OfferComponents(got, model)


def _look() -> tuple[Any, Any, Any]:
    """Shows the offer once it is known; then nobody looks again."""
    is_known, offer = real_models.model_offer()
    if not is_known:
        return gr.skip(), gr.skip(), gr.skip()
    return gr.Row(visible=offer is not None), f"{offer}." if offer else "", gr.Timer(active=False)


def _get() -> Iterator[tuple[Any, Any, Any]]:
    """Downloads the offered model and names it; what fails is a sentence in the place of the offer."""
    _, offer = real_models.model_offer()
    if offer is None:
        return
    spec = registry.get_model_spec(offer.model)
    waiting = gr.Button("Getting it…", interactive=False)
    try:
        for text in real_models.download(spec.name):
            yield f"{spec.title}: {plain_text(text)}", waiting, None
    except ValueError as error:
        yield f"{spec.title} is not here: {plain_text(str(error))}.", gr.Button("Try again", interactive=True), None
        return
    yield f"{spec.title} is here.", gr.Button("Use it", interactive=True), spec.name
