"""What the app does, as plain functions: no Gradio here, and torch only inside the function that needs it."""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from vlmcomp.app import results
from vlmcomp.app.charts import LiveMeasurement
from vlmcomp.app.text_diff import same_words
from vlmcomp.data.images import normalize_question, open_image
from vlmcomp.feedback import Progress, format_bytes
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import grouping
from vlmcomp.results.answer import Answer
from vlmcomp.runtime.vision_cache import VisionCache
from vlmcomp.serving import recorded
from vlmcomp.serving.backend import AnswerBackend, create_backend

MAX_VARIANTS = 6
_DEFAULT_VARIANTS = ("fp16", "int8", "int4", "glu30+fp16")
_PRUNING_STEPS = ("glu10", "glu20", "glu30", "glu40", "glu50", "heads25", "heads50")


@dataclass(frozen=True)
class Example:
    """A bundled image and question; ``answer`` where it is known."""

    name: str
    image: Path
    question: str
    answer: str | None = None


@cache
def backend() -> AnswerBackend:
    """What answers here. Made once; on ZeroGPU before the app is launched, by the main thread."""
    mlp = registry.get_model_spec(registry.DEFAULT_MODEL).mlp
    combined = (f"{mlp}30+int8", f"heads25+{mlp}30+int4")
    return create_backend(
        [
            Recipe.parse(v)
            for v in (*default_variants(registry.DEFAULT_MODEL), *(f"{registry.DEFAULT_MODEL}/{c}" for c in combined))
        ]
    )


def warm_up() -> None:
    """Import what the first live answer needs: seconds that nobody has to wait for."""
    if backend().name == "local":
        importlib.import_module("vlmcomp.compression.pipeline")


@dataclass(frozen=True)
class Card:
    """One variant's place on the page. ``agrees``: same words as FP16, None while that is not known.

    ``device``: what answered; ``recorded``: where and when, for an answer that is not live, and ``why`` it is not.
    A card with an answer that is not done shows the recorded one until the live one begins.
    """

    recipe: Recipe
    status: str
    answer: Answer | None = None
    weight_bytes: int = 0
    agrees: bool | None = None
    error: bool = False
    device: str = ""
    recorded: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """All cards of one question, and what was measured so far."""

    cards: tuple[Card, ...]
    measurements: tuple[LiveMeasurement, ...] = ()


def variants(model: str) -> list[str]:
    """The recipes offered for ``model``: the standard ones and those measured, as the tables order them."""
    known = {r.recipe for r in results.reports() if r.error is None and Recipe.parse(r.recipe).model == model}
    mlp = registry.get_model_spec(model).mlp
    names = ["fp16", "int8", "int4", *(f"{s.replace('glu', mlp)}+fp16" for s in _PRUNING_STEPS)]
    names += [f"{mlp}30+int8", f"{mlp}30+int4", "heads25+int8", f"heads25+{mlp}30+int4"]
    names += ["vis50+fp16", "vis50+int8"] if "vis" in registry.get_model_spec(model).pruning_targets else []
    offered = known | {f"{model}/{name}" for name in names}
    return sorted(offered, key=lambda text: grouping.sort_key(Recipe.parse(text)))


def default_variants(model: str) -> list[str]:
    return [f"{model}/{n.replace('glu', registry.get_model_spec(model).mlp)}" for n in _DEFAULT_VARIANTS]


def parse_recipes(texts: Sequence[str] | None) -> list[Recipe]:
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
        registry.validate_recipe(recipe)
    return sorted(recipes, key=lambda r: r != r.baseline)


def compare(
    image: Any, question: str | None, recipes: Sequence[str] | None, progress: Progress = lambda text, share: None
) -> Iterator[Comparison]:
    """Ask every variant in turn; yields the cards with what is recorded, and each time one of them has news.

    A variant that cannot be run shows its recorded answer or says why, and the others go on. Closing the iterator stops
    the generation within a token.

    Raises:
        ValueError: image, question or recipes cannot be used, in one sentence.
    """
    chosen, text, picture = parse_recipes(recipes), normalize_question(question), open_image(image)
    first = _recorded_cards(chosen, picture, text)
    cards = dict(first)
    measurements: list[LiveMeasurement] = []
    vision = VisionCache()
    yield Comparison(tuple(cards.values()))
    for recipe in chosen:
        cards[recipe] = replace(cards[recipe], status="building")
        yield Comparison(tuple(cards.values()), tuple(measurements))
        try:
            with closing(_live_cards(recipe, picture, text, progress, vision)) as news:
                for card in news:
                    cards[recipe] = _with_agreement(card, cards.get(recipe.baseline))
                    yield Comparison(tuple(cards.values()), tuple(measurements))
        except Exception as error:  # any failure of one variant is that card's news, not the page's end
            sentence = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            cards[recipe] = _with_agreement(_fallback_card(first[recipe], sentence), cards.get(recipe.baseline))
        else:
            measurements.append(_live_measurement(recipe, cards[recipe].answer))
        yield Comparison(tuple(cards.values()), tuple(measurements))


def recorded_first(image: Any, question: str | None, recipes: Sequence[str] | None) -> Comparison:
    """What ``compare`` can say before any model is asked: the recorded answers. It waits for nobody.

    Raises:
        ValueError: as ``compare``.
    """
    with closing(compare(image, question, recipes)) as news:
        return next(news)


def _recorded_cards(chosen: Sequence[Recipe], picture: Image.Image, text: str) -> dict[Recipe, Card]:
    cards: dict[Recipe, Card] = {}
    there = recorded.lookup(chosen, picture, text)
    for recipe in chosen:
        card = Card(recipe, "waiting")
        if found := there.get(recipe):
            card = replace(card, answer=found.answer, weight_bytes=found.weight_bytes, recorded=found.provenance)
        cards[recipe] = _with_agreement(card, cards.get(recipe.baseline))
    return cards


def _live_cards(recipe: Recipe, picture: Any, text: str, progress: Progress, vision: VisionCache) -> Iterator[Card]:
    def told_on(what: str, share: float) -> None:
        progress(f"{recipe.name}: {what}", share)

    told = backend().stream(recipe, picture, text, told_on, vision)
    with closing(told) as news:
        for answer in news:
            state = "done" if answer.finished else "answering"
            yield Card(recipe, state, answer, backend().weight_bytes(recipe), device=device())


def _fallback_card(first: Card, reason: str) -> Card:
    """The recorded answer that was there at first, or else what went wrong."""
    return replace(first, status="done", reason=reason) if first.recorded else Card(first.recipe, reason, error=True)


def _with_agreement(card: Card, baseline: Card | None) -> Card:
    if baseline is None or baseline.answer is None or card.answer is None or card.recipe == baseline.recipe:
        return card
    if not (card.answer.finished and baseline.answer.finished):
        return card
    return replace(card, agrees=same_words(card.answer.text, baseline.answer.text))


def _live_measurement(recipe: Recipe, answer: Answer | None) -> LiveMeasurement:
    assert answer is not None
    decode = answer.decode_ms_per_token if answer.new_tokens > 1 else None
    return LiveMeasurement(recipe, answer.ttft_ms, decode, answer.total_ms, answer.new_tokens)


def examples() -> list[Example]:
    """The bundled examples."""
    items = json.loads((recorded.EXAMPLES_DIR / "examples.json").read_text(encoding="utf-8"))
    return [
        Example(Path(i["image"]).stem, recorded.EXAMPLES_DIR / i["image"], i["question"], i.get("answer"))
        for i in items
    ]


def example(name: str | None) -> Example | None:
    return next((e for e in examples() if e.name == name), None)


def random_scene(seed: int | None = None) -> tuple[Image.Image, str, str]:
    """A scene drawn by chance, a question about it, and the right answer."""
    from vlmcomp.data.questions import sample_question
    from vlmcomp.data.scenes import render_scene, sample_scene

    rng = random.Random(seed)
    scene = sample_scene(rng)
    question = sample_question(rng, scene)
    return render_scene(scene), question.text, question.answer


@cache
def device() -> str:
    """What answers here, for people."""
    from vlmcomp import hardware

    here = hardware.get_hardware(None)
    return here.name if here.device != "cpu" else f"{here.name} CPU, {here.cores} cores"


def status() -> str:
    """What answers here and what is in memory, in one line."""
    if backend().name == "recorded":
        return "No model runs on this machine: the examples show recorded answers."
    held = backend().loaded_models()
    if not held:
        return "No model is in memory yet: the first question builds it."
    names = ", ".join(f"{h.recipe.name} ({format_bytes(backend().weight_bytes(h.recipe))})" for h in held)
    budget = backend().budget_bytes
    return f"In memory: {names}" + (f"; room for {format_bytes(budget)}." if budget else ".")
