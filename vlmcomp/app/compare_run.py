"""What Ask, Run again, Stop and a change of the question do to the cards of the tab Compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from vlmcomp.app import cards, handlers
from vlmcomp.app.errors import user_errors


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
        time: of the press, in milliseconds by the page's clock.
        stopped: Stop was pressed.
        replaced: something else was asked.
    """

    inputs: tuple[str | None, str, list[str], dict[str, str]] | None = None
    time: float = 0.0
    stopped: bool = False
    replaced: bool = False


def begin(time: float, run: Run, *inputs: Any) -> tuple[Run, Any]:
    """Ends ``run``. Returns the next one, and its recorded answers, which are shown while the live ones wait."""
    run.replaced = True
    return Run(inputs or run.inputs, time), show_recorded(inputs or run.inputs)


def preview(time: float, run: Run, *inputs: Any) -> tuple[Any, Any]:
    """After a change of image, question or variants: ends ``run``, whose answers are to something else, and shows what
    was recorded. Requests of a page may overtake each other, so a change before the press changes nothing."""
    is_asked = run.inputs is not None and run.inputs[:3] == inputs[:3]
    if is_asked or time < run.time:
        return gr.skip(), gr.skip()
    run.replaced = True
    return Run(time=time), recorded_cards(*inputs)


def recorded_cards(image: str | None, question: str, recipes: list[str], known: dict[str, str]) -> str:
    """The recorded answers before anything is asked; what to do where there are none."""
    try:
        comparison = handlers.recorded_alone(image, question, recipes)
    except ValueError:
        return cards.EMPTY
    if not any(card.answer for card in comparison.cards):
        return cards.EMPTY
    return cards.render(comparison, _known_answer(known or {}, question))


def stop(run: Run) -> None:
    run.stopped = True


def ask(run: Run, live: list[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    """Yields the cards, the live measurements, and the models in memory."""
    with user_errors():
        if run.inputs is None:
            raise ValueError("there is no question to run again: ask one first")
        image, question, recipes, known = run.inputs
        if len(recipes or ()) < handlers.MIN_VARIANTS:
            raise ValueError(f"too few are selected: choose {handlers.MIN_VARIANTS} to {handlers.MAX_VARIANTS}")
        answers = handlers.compare(image, question, recipes, lambda: run.stopped or run.replaced)
        with closing(answers) as comparisons:
            for comparison in comparisons:
                if run.replaced:
                    return
                html_cards = cards.render(comparison, _known_answer(known or {}, question))
                yield html_cards, _merge_live(live, comparison), handlers.status()


def show_recorded(inputs: Any, stopped: bool = False) -> Any:
    """The recorded answers, with or without live ones to follow."""
    try:
        image, question, recipes, known = inputs
        comparison = handlers.recorded_first(image, question, recipes)
    except (TypeError, ValueError):
        return gr.skip()  # ``ask`` reports the error
    return cards.render(handlers.stopped(comparison) if stopped else comparison, _known_answer(known or {}, question))
