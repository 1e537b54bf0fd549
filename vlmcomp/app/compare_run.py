"""What Ask, Run again, Stop and a change of the question do to the cards of the tab Compare."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
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


@dataclass(eq=False)
class Session:
    """What a visitor asked last. The object stays the same, so that events of one page that overlap agree about it."""

    run: Run = field(default_factory=Run)


_changing = threading.Lock()  # of the runs of all sessions


def begin(time: float, session: Session, *inputs: Any) -> Any:
    """Ends the run, and begins the next one. Returns its recorded answers, which are shown while the live ones wait."""
    with _changing:
        session.run.replaced = True
        session.run = Run(inputs or session.run.inputs, time)
    return show_recorded(session.run.inputs)


def preview(time: float, session: Session, *inputs: Any) -> Any:
    """After a change of image, question or variants: ends the run, whose answers are to something else, and shows what
    was recorded. Requests of a page may overtake each other, so a change before the press changes nothing."""
    with _changing:
        run = session.run
        is_asked = run.inputs is not None and run.inputs[:3] == inputs[:3]
        if is_asked or time < run.time:
            return gr.skip()
        run.replaced = True
        session.run = Run(time=time)
    return recorded_cards(*inputs)


def recorded_cards(image: str | None, question: str, recipes: list[str], known: dict[str, str]) -> str:
    """The recorded answers before anything is asked; what to do where there are none."""
    try:
        comparison = handlers.recorded_alone(image, question, recipes)
    except ValueError:
        return cards.EMPTY
    if not any(card.answer for card in comparison.cards):
        return cards.EMPTY
    return cards.render(comparison, _known_answer(known or {}, question))


def stop(session: Session) -> None:
    """Stops the run."""
    session.run.stopped = True


def show_stopped(session: Session) -> Any:
    """The recorded answers of a run that failed, if nothing else was asked meanwhile."""
    return show_recorded(session.run.inputs, stopped=True)


def ask(session: Session, live: list[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    """Yields the cards, the live measurements, and the models in memory."""
    run = session.run
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
