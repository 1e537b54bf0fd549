"""What the app does, as plain functions without Gradio; torch is imported by the first live answer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from vlmcomp import hardware
from vlmcomp.app import results
from vlmcomp.app.charts import LiveMeasurement
from vlmcomp.app.text_diff import same_words
from vlmcomp.data.images import normalize_question, open_image
from vlmcomp.data.questions import sample_question
from vlmcomp.data.scenes import render_scene, sample_scene
from vlmcomp.feedback import error_summary, format_bytes, format_count
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import grouping
from vlmcomp.results.answer import Answer
from vlmcomp.runtime.vision_cache import VisionCache
from vlmcomp.serving import recorded
from vlmcomp.serving.backend import AnswerBackend, create_backend
from vlmcomp.serving.local import import_libraries
from vlmcomp.serving.waiting import Waiting

MAX_VARIANTS = 6
_DEFAULT_VARIANTS = ("fp16", "int8", "int4", "glu30+fp16")
_served = {"model": registry.DEFAULT_MODEL}
_PRUNING_STEPS = ("glu10", "glu20", "glu30", "glu40", "glu50", "heads25", "heads50")


@dataclass(frozen=True)
class Example:
    """A bundled image and question, with the correct answer if it is known."""

    name: str
    image: Path
    question: str
    answer: str | None = None


def serve(model: str) -> None:
    """Sets the model of which ZeroGPU loads variants; before the first call of ``backend``."""
    _served["model"] = model


@cache
def backend() -> AnswerBackend:
    """The backend that answers on this machine, created once; on ZeroGPU by the main thread, before the launch."""
    model = _served["model"]
    mlp = registry.get_model_spec(model).mlp
    combined = (f"{model}/{mlp}30+int8", f"{model}/heads25+{mlp}30+int4")
    return create_backend([Recipe.parse(text) for text in (*default_variants(model), *combined)])


def warm_up() -> None:
    """Imports what the first live answer needs, so that no visitor waits for it."""
    if backend().name == "local":
        import_libraries()


@dataclass(frozen=True)
class Card:
    """The answer of one variant, as the page shows it.

    Attributes:
        recipe: the variant.
        status: ``"answering"``, ``"done"``, ``"stopped"``, the error, or else what the answer waits for.
        answer: the recorded answer until the live one begins, then the live one.
        weight_bytes: bytes of the weights as stored.
        agrees: whether the answer has the same words as FP16's; None as long as one of them is missing.
        error: whether ``status`` is an error.
        device: what computed a live answer.
        recorded: where and when a recorded answer was computed; empty for a live one.
        reason: why a recorded answer is shown instead of a live one.
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

    @property
    def is_over(self) -> bool:
        """Whether nothing will change it any more."""
        return self.error or self.status in ("done", "stopped")


@dataclass(frozen=True)
class Comparison:
    """The cards of one question, and the measurements of its live answers so far."""

    cards: tuple[Card, ...]
    measurements: tuple[LiveMeasurement, ...] = ()


def variants(model: str) -> list[str]:
    """The recipes that the page offers for a model: the standard ones and the measured ones, sorted."""
    measured = {r.recipe for r in results.reports() if r.error is None and Recipe.parse(r.recipe).model == model}
    spec = registry.get_model_spec(model)
    names = ["fp16", "int8", "int4", *(f"{step.replace('glu', spec.mlp)}+fp16" for step in _PRUNING_STEPS)]
    names += [f"{spec.mlp}30+int8", f"{spec.mlp}30+int4", "heads25+int8", f"heads25+{spec.mlp}30+int4"]
    if "vis" in spec.pruning_targets:
        names += ["vis50+fp16", "vis50+int8"]
    offered = measured | {f"{model}/{name}" for name in names}
    return sorted(offered, key=lambda text: grouping.sort_key(Recipe.parse(text)))


def default_variants(model: str) -> list[str]:
    """The recipes of a model that are selected when the page opens."""
    mlp = registry.get_model_spec(model).mlp
    return [f"{model}/{name.replace('glu', mlp)}" for name in _DEFAULT_VARIANTS]


def parse_recipes(texts: Sequence[str] | None) -> list[Recipe]:
    """The selected recipes without duplicates, FP16 first if it is among them.

    Raises:
        ValueError: no recipe, too many, one that cannot be parsed, or a step that its model does not support.
    """
    if not texts or not all(isinstance(t, str) for t in texts):
        raise ValueError("no variant is selected: select at least one")
    recipes = list(dict.fromkeys(Recipe.parse(t) for t in texts))
    if len(recipes) > MAX_VARIANTS:
        raise ValueError(
            f"{format_count(len(recipes), 'variant')} are too many for one question: select at most {MAX_VARIANTS}"
        )
    for recipe in recipes:
        registry.validate_recipe(recipe)
    return sorted(recipes, key=lambda r: r != r.baseline)


def compare(
    image: Any,
    question: str | None,
    recipes: Sequence[str] | None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Comparison]:
    """Asks the variants one after another, and yields all cards whenever one of them changes, and while it waits.

    What is in memory answers first, then what must be loaded, then what must be built, so that no variant is built
    beside the visitor's own answers. The first cards show the recorded answers. If a variant fails, its card shows its
    recorded answer or the error, and the others continue. Closing the iterator stops the generation within a token,
    and a build that nobody else wants.

    Args:
        image: a path, or what ``open_image`` accepts.
        question: at most ``MAX_QUESTION`` characters.
        recipes: one to ``MAX_VARIANTS``.
        is_stopped: asked after each token and while something is waited for; the last cards then say so.

    Raises:
        ValueError: the image, the question or the recipes cannot be used; one sentence.
    """
    variants = parse_recipes(recipes)
    text = normalize_question(question)
    picture = open_image(image)
    cards = _recorded_cards(variants, picture, text)
    measurements: list[LiveMeasurement] = []
    vision_cache = VisionCache()
    yield _comparison(cards, measurements)
    while variants and not is_stopped():
        recipe = min(variants, key=backend().readiness)
        variants.remove(recipe)
        recorded_card = cards[recipe]
        try:
            with closing(_live_cards(recorded_card, picture, text, vision_cache)) as live_cards:
                for card in live_cards:
                    cards[recipe] = card
                    if is_stopped():
                        break
                    yield _comparison(cards, measurements)
        except Exception as error:  # the failure of one variant must not end the others
            cards[recipe] = _fallback_card(recorded_card, error_summary(error))
        if cards[recipe].status == "done" and not cards[recipe].recorded:
            measurements.append(_live_measurement(recipe, cards[recipe].answer))
        yield _comparison(cards, measurements)
    if is_stopped():
        yield stopped(_comparison(cards, measurements))


def stopped(comparison: Comparison) -> Comparison:
    """``comparison`` as it stays: what is not done says that it was stopped."""
    return replace(comparison, cards=tuple(c if c.is_over else replace(c, status="stopped") for c in comparison.cards))


def recorded_first(image: Any, question: str | None, recipes: Sequence[str] | None) -> Comparison:
    """The first cards of ``compare``: the recorded answers, without running a model.

    Raises:
        ValueError: as ``compare``.
    """
    with closing(compare(image, question, recipes)) as comparisons:
        return next(comparisons)


def _comparison(cards: Mapping[Recipe, Card], measurements: Sequence[LiveMeasurement]) -> Comparison:
    compared = (_with_agreement(card, cards.get(recipe.baseline)) for recipe, card in cards.items())
    return Comparison(tuple(compared), tuple(measurements))


def _recorded_cards(recipes: Sequence[Recipe], picture: Image.Image, text: str) -> dict[Recipe, Card]:
    cards: dict[Recipe, Card] = {}
    answers = recorded.lookup(recipes, picture, text)
    for recipe in recipes:
        cards[recipe] = Card(recipe, "waiting")
        if found := answers.get(recipe):
            facts = {"weight_bytes": found.weight_bytes, "recorded": found.provenance}
            cards[recipe] = replace(cards[recipe], answer=found.answer, **facts)
    return cards


def _live_cards(recorded_card: Card, picture: Image.Image, text: str, vision_cache: VisionCache) -> Iterator[Card]:
    """``recorded_card`` while the live answer waits, and then the live answer."""
    recipe = recorded_card.recipe
    with closing(backend().stream(recipe, picture, text, vision_cache)) as answers:
        for answer in answers:
            if isinstance(answer, Waiting):
                yield replace(recorded_card, status=answer.text)
            else:
                status = "done" if answer.finished else "answering"
                yield Card(recipe, status, answer, backend().weight_bytes(recipe), device=device())


def _fallback_card(recorded_card: Card, reason: str) -> Card:
    """The recorded answer if there is one, otherwise the error."""
    if recorded_card.recorded:
        return replace(recorded_card, status="done", reason=reason)
    return Card(recorded_card.recipe, reason, error=True)


def _with_agreement(card: Card, baseline: Card | None) -> Card:
    """``card`` with ``agrees`` set, if both answers are complete."""
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
    """The bundled example of that name."""
    return next((e for e in examples() if e.name == name), None)


def random_scene(seed: int | None = None) -> tuple[Image.Image, str, str]:
    """A random scene, a question about it, and the correct answer."""
    rng = random.Random(seed)
    scene = sample_scene(rng)
    question = sample_question(rng, scene)
    return render_scene(scene), question.text, question.answer


@cache
def device() -> str:
    """Name of the device that computes the answers."""
    machine = hardware.get_hardware(None)
    return machine.name if machine.device != "cpu" else f"{machine.name} CPU, {format_count(machine.cores, 'core')}"


def status() -> str:
    """The models in memory, as one line."""
    if backend().name == "recorded":
        return "No model can run on this machine: the examples show recorded answers."
    loaded = backend().loaded_models()
    if not loaded:
        return "No model is in memory: the first question will load one."
    names = ", ".join(f"{m.recipe.name} ({format_bytes(backend().weight_bytes(m.recipe))})" for m in loaded)
    budget = backend().budget_bytes
    return f"In memory: {names}" + (f". Limit: {format_bytes(budget)}." if budget else ".")
