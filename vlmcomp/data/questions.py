"""Questions about a scene, with the answer in one word and in one sentence."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from vlmcomp.data.noun_phrases import ObjectFilter, random_filter, random_noun, unique_object, with_article
from vlmcomp.data.scenes import Scene, SceneObject

ONE_WORD = "Answer with one word."
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
_SIDES: dict[str, Callable[[SceneObject, SceneObject], float]] = {  # positive: the first object is on that side
    "left of": lambda a, b: b.x - a.x,
    "right of": lambda a, b: a.x - b.x,
    "above": lambda a, b: b.y - a.y,
    "below": lambda a, b: a.y - b.y,
}
_EXTREMES: dict[str, Callable[[SceneObject], float]] = {
    "leftmost": lambda t: -t.x,
    "rightmost": lambda t: t.x,
    "topmost": lambda t: -t.y,
    "bottommost": lambda t: t.y,
    "largest": lambda t: t.radius,
    "smallest": lambda t: -t.radius,
}


@dataclass(frozen=True)
class Question:
    """One question: its type, its text, and the reference answer in the style that the text requests."""

    type: str
    text: str
    answer: str


@dataclass(frozen=True)
class _Draft:
    text: str
    word: str | None  # None: the answer needs a sentence
    sentence: str


def _color(rng: random.Random, scene: Scene) -> _Draft | None:
    if len(scene.objects) == 1 and rng.random() < 0.5:
        obj = scene.objects[0]
        name = random_noun(rng)
    elif (hit := unique_object(rng, scene, ("kind",))) is not None:
        obj, name = hit
    else:
        return None
    text = rng.choice(
        (f"What color is the {name}?", f"What is the color of the {name}?", f"Which color does the {name} have?")
    )
    return _Draft(text, obj.color, f"The {name} is {obj.color}.")


def _shape(rng: random.Random, scene: Scene) -> _Draft | None:
    if (hit := unique_object(rng, scene, ("color",))) is None:
        return None
    obj, name = hit
    if len(scene.objects) == 1 and rng.random() < 0.3:
        return _Draft("What shape does the image contain?", obj.kind, f"The image contains {with_article(obj.kind)}.")
    text = rng.choice((f"What shape is the {name}?", f"What is the {name}?", f"What kind of shape is the {name}?"))
    return _Draft(text, obj.kind, f"The {name} is {with_article(obj.kind)}.")


def _count(rng: random.Random, scene: Scene) -> _Draft:
    wanted = ObjectFilter(noun=random_noun(rng)) if rng.random() < 0.2 else random_filter(rng, scene)
    n = sum(wanted.matches(t) for t in scene.objects)
    many = wanted.phrase(plural=True)
    text = rng.choice((f"How many {many} are there?", f"Count the {many}.", f"What is the number of {many}?"))
    if n == 1:
        return _Draft(text, NUMBERS[1], f"There is one {wanted.phrase()}.")
    return _Draft(text, NUMBERS[n], f"There are {NUMBERS[n] if n else 'no'} {many}.")


def _exist(rng: random.Random, scene: Scene) -> _Draft:
    wanted = random_filter(rng, scene)
    should_exist = rng.random() < 0.5
    for _ in range(12):  # as many yes as no
        if any(wanted.matches(t) for t in scene.objects) == should_exist:
            break
        wanted = random_filter(rng, scene)
    yes = any(wanted.matches(t) for t in scene.objects)
    a = with_article(wanted.phrase())
    text = rng.choice(
        (f"Is there {a}?", f"Is there {a} in the image?", f"Does the image contain {a}?", f"Is {a} present?")
    )
    sentence = f"Yes, there is {a}." if yes else f"No, there is no {wanted.phrase()}."
    return _Draft(text, "yes" if yes else "no", sentence)


def _compare(rng: random.Random, scene: Scene) -> _Draft | None:
    first = random_filter(rng, scene)
    second = random_filter(rng, scene)
    if first.phrase() == second.phrase() or (first.large is None) != (second.large is None):
        return None
    a = sum(first.matches(t) for t in scene.objects)
    b = sum(second.matches(t) for t in scene.objects)
    p = first.phrase(plural=True)
    q = second.phrase(plural=True)
    word, truth = rng.choice((("more", a > b), ("fewer", a < b), ("as many", a == b)))
    if word != "as many" and not truth and rng.random() < 0.35:
        return None  # fewer no, for a better balance
    tail = f"{word} {p} {'as' if word == 'as many' else 'than'} {q}"
    sentence = f"Yes, there are {tail}." if truth else f"No, there are not {tail}."
    return _Draft(f"Are there {tail}?", "yes" if truth else "no", sentence)


def _extreme(rng: random.Random, objects: list[SceneObject]) -> tuple[str, SceneObject] | None:
    """A superlative and its object, by a clear margin: 4 pixels in position, 1.5 in radius."""
    names = list(_EXTREMES)
    rng.shuffle(names)
    for name in names:
        score = _EXTREMES[name]
        ranked = sorted(objects, key=score, reverse=True)
        margin = 1.5 if name in ("largest", "smallest") else 4.0
        if len(ranked) > 1 and score(ranked[0]) - score(ranked[1]) >= margin:
            return name, ranked[0]
    return None


def _attribute(rng: random.Random, obj: SceneObject, name: str) -> _Draft:
    if rng.random() < 0.5:
        return _Draft(f"What color is the {name}?", obj.color, f"The {name} is {obj.color}.")
    return _Draft(f"What shape is the {name}?", obj.kind, f"The {name} is {with_article(obj.kind)}.")


def _relation(rng: random.Random, scene: Scene) -> _Draft | None:
    if rng.random() < 0.45:
        hit = _extreme(rng, list(scene.objects))
        return _attribute(rng, hit[1], f"{hit[0]} {random_noun(rng)}") if hit else None
    first = unique_object(rng, scene, ("kind", "color", "kind+color", "kind+color"))
    second = unique_object(rng, scene, ("kind", "color", "kind+color", "kind+color"))
    if first is None or second is None or first[0] is second[0]:
        return None
    a, p = first
    b, q = second
    if rng.random() < 0.3:
        if max(a.radius, b.radius) < 1.25 * min(a.radius, b.radius):
            return None
        word, truth = rng.choice((("larger than", a.radius > b.radius), ("smaller than", a.radius < b.radius)))
    else:
        word = rng.choice(tuple(_SIDES))
        lead = _SIDES[word](a, b)
        if abs(lead) < 4:
            return None
        truth = lead > 0
    sentence = f"Yes, the {p} is {word} the {q}." if truth else f"No, the {p} is not {word} the {q}."
    return _Draft(f"Is the {p} {word} the {q}?", "yes" if truth else "no", sentence)


def _two_step(rng: random.Random, scene: Scene) -> _Draft | None:
    """A question that needs one object to find another."""
    if len(scene.objects) < 3:
        return None
    form = rng.choice(("nearest", "side", "subset"))
    if form == "subset":
        return _extreme_of_subset(rng, scene)
    found = unique_object(rng, scene, ("kind", "color", "kind+color"))
    if found is None:
        return None
    anchor, name = found
    others = [t for t in scene.objects if t is not anchor]
    if form == "nearest":
        return _nearest(rng, others, anchor, name)
    return _count_beside(rng, others, anchor, name)


def _extreme_of_subset(rng: random.Random, scene: Scene) -> _Draft | None:
    """The color of the leftmost star, the shape of the largest red object."""
    wanted = random_filter(rng, scene)
    hit = _extreme(rng, [t for t in scene.objects if wanted.matches(t)])
    if hit is None or (wanted.kind and wanted.color):
        return None
    superlative, obj = hit
    name = f"{superlative} {wanted.phrase()}"
    if wanted.kind:
        return _Draft(f"What color is the {name}?", obj.color, f"The {name} is {obj.color}.")
    return _Draft(f"What shape is the {name}?", obj.kind, f"The {name} is {with_article(obj.kind)}.")


def _nearest(rng: random.Random, others: list[SceneObject], anchor: SceneObject, name: str) -> _Draft | None:
    """An attribute of the object nearest to ``anchor``, if it is nearest by a clear margin."""
    ranked = sorted(others, key=lambda t: math.hypot(t.x - anchor.x, t.y - anchor.y))
    gaps = [math.hypot(t.x - anchor.x, t.y - anchor.y) for t in ranked[:2]]
    if gaps[1] < 1.2 * gaps[0]:
        return None
    return _attribute(rng, ranked[0], f"{random_noun(rng)} nearest to the {name}")


def _count_beside(rng: random.Random, others: list[SceneObject], anchor: SceneObject, name: str) -> _Draft | None:
    """The number of objects on one side of ``anchor``, if none is too close to call."""
    side = rng.choice(tuple(_SIDES))
    leads = [_SIDES[side](t, anchor) for t in others]
    if any(abs(lead) < 4 for lead in leads):
        return None
    n = sum(lead > 0 for lead in leads)
    noun = random_noun(rng)
    many = noun if n == 1 else noun + "s"
    verb = "is" if n == 1 else "are"
    sentence = f"There {verb} {NUMBERS[n] if n else 'no'} {many} {side} the {name}."
    return _Draft(f"How many {noun}s are {side} the {name}?", NUMBERS[n], sentence)


def _describe(rng: random.Random, scene: Scene) -> _Draft:
    names = [with_article(f"{t.color} {t.kind}") for t in sorted(scene.objects, key=lambda t: t.x)]
    text = rng.choice(("Describe the image.", "What do you see in the image?", "Describe everything in the picture."))
    if len(names) == 1:
        return _Draft(text, None, f"There is {names[0]}.")
    listing = f"{', '.join(names[:-1])} and {names[-1]}"
    return _Draft(text, None, f"There are {NUMBERS[len(names)]} shapes: {listing}.")


_GENERATORS: dict[str, tuple[Callable[[random.Random, Scene], _Draft | None], int]] = {
    "color": (_color, 12),
    "shape": (_shape, 12),
    "count": (_count, 16),
    "exist": (_exist, 14),
    "compare": (_compare, 12),
    "relation": (_relation, 16),
    "two-step": (_two_step, 12),
    "describe": (_describe, 6),
}
TYPES = tuple(_GENERATORS)


def sample_question(rng: random.Random, scene: Scene) -> Question:
    """Draw one question with an unambiguous answer: six in ten ask for one word, the others get a sentence."""
    weights = [weight for _, weight in _GENERATORS.values()]
    while True:
        question_type = rng.choices(TYPES, weights=weights)[0]
        generate, _ = _GENERATORS[question_type]
        for _ in range(4):
            draft = generate(rng, scene)
            if draft is not None:
                break
        else:
            continue
        text = draft.text.lower() if rng.random() < 0.25 else draft.text
        if draft.word is not None and rng.random() < 0.6:
            return Question(question_type, f"{text} {ONE_WORD}", draft.word)
        return Question(question_type, text, draft.sentence)
