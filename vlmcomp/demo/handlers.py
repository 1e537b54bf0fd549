"""What the app does, as plain functions: no Gradio here, and torch only inside the function that needs it."""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from vlmcomp import store, zoo
from vlmcomp.demo.charts import TASK, Live
from vlmcomp.manager import Manager, Progress
from vlmcomp.recipe import Recipe
from vlmcomp.report import Report

if TYPE_CHECKING:
    from vlmcomp.ask import Answer
    from vlmcomp.vlm import VLM

MAX_VARIANTS = 6
_USUAL = ("fp16", "int8", "int4", "glu30+fp16")
_STEPS = ("glu10", "glu20", "glu30", "glu40", "glu50", "heads25", "heads50")
EXAMPLES = zoo.ASSETS / "examples"


def _build(recipe: Recipe, progress: Progress) -> VLM:
    from PIL import Image

    from vlmcomp.ask import ask
    from vlmcomp.build import build

    vlm = build(recipe, progress=progress)
    ask(vlm, Image.new("RGB", (96, 96)), "What is it?", 2)  # the first answer pays for start-up: no visitor should
    return vlm


def _size(vlm: VLM) -> int:
    from vlmcomp.measure.size import weight_bytes

    return sum(weight_bytes(vlm.model).values())


MANAGER: Manager[VLM] = Manager(_build, _size)


@dataclass(frozen=True)
class Card:
    """One variant's place on the page. ``agrees``: same words as FP16, None while that is not known."""

    recipe: Recipe
    status: str
    answer: Answer | None = None
    weight_bytes: int = 0
    agrees: bool | None = None
    error: bool = False


@dataclass(frozen=True)
class Comparison:
    """All cards of one question, and what was measured so far."""

    cards: tuple[Card, ...]
    live: tuple[Live, ...] = ()


def variants(model: str) -> list[str]:
    """The recipes offered for ``model``: those measured, else the standard ones."""
    known = {r.recipe for r in reports() if r.error is None and Recipe.parse(r.recipe).model == model}
    mlp = zoo.find(model).mlp
    names = ["fp16", "int8", "int4", *(f"{s.replace('glu', mlp)}+fp16" for s in _STEPS)]
    names += [f"{mlp}30+int8", f"{mlp}30+int4", "heads25+int8", f"heads25+{mlp}30+int4"]
    usual = [f"{model}/{n}" for n in names]
    return usual + sorted(known - set(usual))


def usual_variants(model: str) -> list[str]:
    return [f"{model}/{n.replace('glu', zoo.find(model).mlp)}" for n in _USUAL]


def check_recipes(texts: Sequence[str] | None) -> list[Recipe]:
    """The recipes asked for, each once, FP16 first if it is among them.

    Raises:
        ValueError: none, too many, an unknown spelling, or a step its model cannot do.
    """
    if not texts or not all(isinstance(t, str) for t in texts):
        raise ValueError("no variant is chosen: choose at least one")
    recipes = list(dict.fromkeys(Recipe.parse(t) for t in texts))
    if len(recipes) > MAX_VARIANTS:
        raise ValueError(f"{len(recipes)} variants are too many for one question: choose at most {MAX_VARIANTS}")
    for recipe in recipes:
        zoo.check(recipe)
    return sorted(recipes, key=lambda r: r != r.baseline)


def compare(
    image: Any, question: str | None, recipes: Sequence[str] | None, progress: Progress = lambda text, share: None
) -> Iterator[Comparison]:
    """Ask every variant in turn; yields the cards each time one of them has news.

    A variant that fails says so on its card, and the others go on.

    Raises:
        ValueError: image, question or recipes cannot be used, in one sentence.
    """
    from vlmcomp.ask import clean_question, open_image

    chosen, text, picture = check_recipes(recipes), clean_question(question), open_image(image)
    cards = {r: Card(r, "waiting") for r in chosen}
    live: list[Live] = []
    for recipe in chosen:
        cards[recipe] = replace(cards[recipe], status="building")
        yield Comparison(tuple(cards.values()), tuple(live))
        try:
            for card in _answer(recipe, picture, text, progress):
                cards[recipe] = _judge(card, cards.get(recipe.baseline))
                yield Comparison(tuple(cards.values()), tuple(live))
        except Exception as error:  # any failure of one variant is that card's news, not the page's end
            sentence = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            cards[recipe] = Card(recipe, sentence, error=True)
        else:
            live.append(_measured(recipe, cards[recipe].answer))
        yield Comparison(tuple(cards.values()), tuple(live))


def _answer(recipe: Recipe, picture: Any, text: str, progress: Progress) -> Iterator[Card]:
    from vlmcomp.ask import stream

    with MANAGER.lease(recipe, lambda what, share: progress(f"{recipe.name}: {what}", share)) as vlm:
        held = _held(recipe)
        for answer in stream(vlm, picture, text):
            yield Card(recipe, "done" if answer.finished else "answering", answer, held)


def _held(recipe: Recipe) -> int:
    return next((r.weight_bytes for r in MANAGER.resident() if r.recipe == recipe), 0)


def _judge(card: Card, baseline: Card | None) -> Card:
    if baseline is None or baseline.answer is None or card.answer is None or card.recipe == baseline.recipe:
        return card
    if not (card.answer.finished and baseline.answer.finished):
        return card
    return replace(card, agrees=card.answer.text.lower() == baseline.answer.text.lower())


def _measured(recipe: Recipe, answer: Answer | None) -> Live:
    assert answer is not None
    decode = answer.decode_ms_per_token if answer.new_tokens > 1 else None
    return Live(recipe, answer.ttft_ms, decode, answer.total_ms, answer.new_tokens)


def cards_html(comparison: Comparison) -> str:
    """The cards side by side. Everything that a person or a model wrote is escaped."""
    return f'<div class="cards" role="list">{"".join(map(_card_html, comparison.cards))}</div>'


def _card_html(card: Card) -> str:
    answer = card.answer
    if card.error:
        body = f'<p class="failed">{html.escape(card.status)}</p>'
    elif answer is None:
        body = f'<p class="waiting">{html.escape(card.status)}…</p>'
    else:
        body = f'<p class="answer">{html.escape(answer.text) or "&nbsp;"}</p>{_figures(card)}'
    return (
        f'<article class="card {"done" if card.status == "done" else ""}" role="listitem">'
        f"<h3>{html.escape(card.recipe.name)}</h3><p class='what'>{html.escape(card.recipe.label)}</p>"
        f"{body}{_verdict(card)}</article>"
    )


def _figures(card: Card) -> str:
    answer = card.answer
    assert answer is not None
    rows = (
        ("First token", f"{answer.ttft_ms:.1f} ms"),
        ("Speed", f"{answer.tokens_per_second:.1f} tokens/s"),
        ("Total", f"{answer.total_ms:.1f} ms"),
        ("Weights", f"{card.weight_bytes / 1e6:.2f} MB"),
    )
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows) + "</dl>"


def _verdict(card: Card) -> str:
    if card.status != "done" or card.error:
        return ""
    if card.recipe == card.recipe.baseline:
        return '<p class="verdict">the FP16 baseline</p>'
    if card.agrees is None:
        return '<p class="verdict">add FP16 to see whether they agree</p>'
    word = "same answer as FP16" if card.agrees else "differs from FP16"
    return f'<p class="verdict {"same" if card.agrees else "differs"}">{word}</p>'


@cache
def reports() -> list[Report]:
    """Every recorded result."""
    return store.load_all()


def hardware() -> list[str]:
    """Slugs of the machines that results were recorded on, the one with the most first."""
    counts = Counter(r.hardware.slug for r in reports())
    return sorted(counts, key=lambda slug: (-counts[slug], slug))


def examples() -> list[list[str]]:
    """[image path, question] of each bundled example."""
    items = json.loads((EXAMPLES / "examples.json").read_text())
    return [[str(EXAMPLES / item["image"]), item["question"]] for item in items]


def resident_text() -> str:
    """What is in memory, in one line."""
    held = MANAGER.resident()
    if not held:
        return "No model is in memory yet: the first question builds it."
    names = ", ".join(f"{r.recipe.name} ({r.weight_bytes / 1e6:.1f} MB)" for r in held)
    budget = MANAGER.budget_bytes
    return f"In memory: {names}" + (f"; room for {budget / 1e9:.1f} GB." if budget else ".")


def results() -> list[dict[str, Any]]:
    """Every recorded result as plain numbers: the API's view of the chart."""
    found = []
    for r in reports():
        quality = r.quality.get(TASK)
        found.append(
            {
                "recipe": r.recipe,
                "hardware": r.hardware.slug,
                "error": r.error,
                "exact_match": quality.exact_match if quality else None,
                "composite": quality.composite if quality else None,
                "ttft_ms": r.latency.ttft_ms_median if r.latency else None,
                "decode_ms_per_token": r.latency.decode_ms_per_token_median if r.latency else None,
                "weight_bytes": r.size.total_bytes if r.size else None,
            }
        )
    return found


def on_zero_gpu() -> bool:
    return bool(os.environ.get("SPACES_ZERO_GPU"))
