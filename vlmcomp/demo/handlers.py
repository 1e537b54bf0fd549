"""What the app does, as plain functions: no Gradio here, and torch only inside the function that needs it."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from vlmcomp import recorded, store, zoo
from vlmcomp.demo.charts import TASK, Live
from vlmcomp.manager import Progress
from vlmcomp.policy import Policy, here
from vlmcomp.recipe import Recipe
from vlmcomp.report import Report

if TYPE_CHECKING:
    from vlmcomp.ask import Answer

MAX_VARIANTS = 6
_USUAL = ("fp16", "int8", "int4", "glu30+fp16")
_STEPS = ("glu10", "glu20", "glu30", "glu40", "glu50", "heads25", "heads50")
EXAMPLES = recorded.EXAMPLES


@cache
def models() -> Policy:
    """What answers here. Made once; on ZeroGPU before the app is launched, by the main thread."""
    mlp = zoo.find(zoo.DEFAULT).mlp
    combined = (f"{mlp}30+int8", f"heads25+{mlp}30+int4")
    return here([Recipe.parse(v) for v in (*usual_variants(zoo.DEFAULT), *(f"{zoo.DEFAULT}/{c}" for c in combined))])


@dataclass(frozen=True)
class Card:
    """One variant's place on the page. ``agrees``: same words as FP16, None while that is not known. ``recorded``:
    where and when the answer was recorded, and why it is not live; empty for a live one."""

    recipe: Recipe
    status: str
    answer: Answer | None = None
    weight_bytes: int = 0
    agrees: bool | None = None
    error: bool = False
    recorded: str = ""


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

    A variant that cannot be run shows its recorded answer or says why, and the others go on. Closing the iterator stops
    the generation within a token.

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
            with closing(_answer(recipe, picture, text, progress)) as news:
                for card in news:
                    cards[recipe] = _judge(card, cards.get(recipe.baseline))
                    yield Comparison(tuple(cards.values()), tuple(live))
        except Exception as error:  # any failure of one variant is that card's news, not the page's end
            sentence = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            cards[recipe] = _judge(_instead(recipe, picture, text, sentence), cards.get(recipe.baseline))
        else:
            live.append(_measured(recipe, cards[recipe].answer))
        yield Comparison(tuple(cards.values()), tuple(live))


def _answer(recipe: Recipe, picture: Any, text: str, progress: Progress) -> Iterator[Card]:
    told = models().answers(recipe, picture, text, lambda what, share: progress(f"{recipe.name}: {what}", share))
    with closing(told) as news:
        for answer in news:
            yield Card(recipe, "done" if answer.finished else "answering", answer, models().weight_bytes(recipe))


def _instead(recipe: Recipe, picture: Any, text: str, why: str) -> Card:
    """The recorded answer, which needs no model and waits for nobody, or else what went wrong."""
    found = recorded.find(recipe, picture, text)
    if found is None:
        return Card(recipe, why, error=True)
    where = f"recorded on {found.hardware}, {found.date[:10]}: {why}"
    return Card(recipe, "done", found.answer, found.weight_bytes, recorded=where)


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
        body = f'<p class="answer">{html.escape(answer.text) or "&nbsp;"}</p>{_origin(card)}{_figures(card)}'
    return (
        f'<article class="card {"done" if card.status == "done" else ""}" role="listitem">'
        f"<h3>{html.escape(card.recipe.name)}</h3><p class='what'>{html.escape(card.recipe.label)}</p>"
        f"{body}{_verdict(card)}</article>"
    )


def _origin(card: Card) -> str:
    return f'<p class="what">{html.escape(card.recorded)}</p>' if card.recorded else ""


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
    return [[str(image), question] for image, question in recorded.examples()]


def resident_text() -> str:
    """What is in memory, in one line."""
    if models().name == "replay":
        return "No model runs on this machine: the examples show recorded answers."
    held = models().held()
    if not held:
        return "No model is in memory yet: the first question builds it."
    names = ", ".join(f"{h.recipe.name} ({models().weight_bytes(h.recipe) / 1e6:.1f} MB)" for h in held)
    budget = models().budget_bytes
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
