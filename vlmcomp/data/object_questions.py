"""Questions about scenes of things, with a short answer and one in a sentence."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from vlmcomp.data.object_phrases import (
    SIDES,
    ask,
    beside,
    deny,
    extremes,
    holders,
    is_countable,
    may_be_called,
    nearest,
    random_extreme,
)
from vlmcomp.data.object_scenes import PlacedThing, Scene
from vlmcomp.data.object_things import KINDS, PROPERTIES, Thing, things
from vlmcomp.data.questions import Question

BRIEFLY = "Answer briefly."
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
_CLEAR_SIDE = 12  # pixels by which a thing is left of another in a yes-or-no question
_CLEAR_ORDER = 6  # pixels between neighbors in a description from left to right
_UNCOUNTED = ("food", "clothing")  # kinds that take no article


@dataclass(frozen=True)
class _Draft:
    text: str
    short: str | None  # None: the answer needs a sentence
    sentence: str


def _start(subject: str) -> str:
    """``subject`` at the start of a sentence."""
    return subject[0].upper() + subject[1:]


def _name(rng: random.Random, scene: Scene) -> _Draft | None:
    if (hit := random_extreme(rng, scene)) is None:
        return None
    subject, obj = hit
    if subject != "this":
        return _Draft(f"What is {subject}?", obj.name, f"{_start(subject)} is {obj.thing.phrase}.")
    text = rng.choice(("What is this?", "What does the picture show?", "What do you see?"))
    this = "These are" if obj.thing.number == "many" else "This is"
    return _Draft(text, obj.name, f"{this} {obj.thing.phrase}.")


def _kind_draft(text: str, thing: Thing) -> _Draft | None:
    kind = KINDS.get(thing.category)
    if kind is None:
        return None
    article = "" if kind in _UNCOUNTED else "an " if kind[0] in "aeiou" else "a "
    return _Draft(text, kind, f"It is {article}{kind}.")


def _kind(rng: random.Random, scene: Scene) -> _Draft | None:
    if (hit := random_extreme(rng, scene)) is None:
        return None
    return _kind_draft(f"What kind of thing is {hit[0]}?", hit[1].thing)


def _which(rng: random.Random, scene: Scene) -> _Draft | None:
    """The one thing that is unlike all others in a property."""
    if len(scene.objects) < 2:
        return None
    found: list[tuple[str, PlacedThing, bool]] = []
    for name in PROPERTIES:
        having = holders(scene.objects, name)
        if having is not None and len(having) == 1:
            found.append((name, having[0], True))
        elif having is not None and len(having) == len(scene.objects) - 1 > 1:
            found.append((name, next(t for t in scene.objects if t not in having), False))
    if not found:
        return None
    name, obj, has = rng.choice(found)
    singular = PROPERTIES[name].singular
    if has:
        text = rng.choice((f"Which of these {singular}?", f"Which thing {singular}?"))
        return _Draft(text, obj.name, f"The {obj.name} {obj.thing.says(name)}.")
    return _Draft(f"Which of these {deny(name)}?", obj.name, f"The {obj.name} {deny(name, obj.thing.be)}.")


def _color(rng: random.Random, scene: Scene) -> _Draft | None:
    colored = [t for t in scene.objects if t.color]
    if not colored:
        return None
    obj = rng.choice(colored)
    be = obj.thing.be
    sentence = f"The {obj.name} {be} {obj.color}."
    if len(scene.objects) == 1 and rng.random() < 0.5:
        return _Draft("What color is this?", obj.color, f"It is {obj.color}.")
    return _Draft(f"What color {be} the {obj.name}?", obj.color, sentence)


def _number_draft(text: str, count: int, tail: str) -> _Draft:
    """``tail``: what is counted, in the plural."""
    number = NUMBERS[count]
    sentence = "There is one." if count == 1 else f"There are {number if count else 'no'} {tail}."
    return _Draft(text, number, sentence)


def _count(rng: random.Random, scene: Scene) -> _Draft | None:
    if rng.random() < 0.2:
        tail = "things in the picture"
        counted: list[PlacedThing] | None = list(scene.objects)
    else:
        counts = {name: holders(scene.objects, name) for name in PROPERTIES}
        names = [name for name, having in counts.items() if having] if rng.random() < 0.85 else list(PROPERTIES)
        if not names:
            return None
        name = rng.choice(names)
        tail, counted = PROPERTIES[name].things, counts[name]
    if counted is None or not is_countable(counted) or (len(counted) == 1 and rng.random() < 0.6):
        return None  # fewer ones
    if tail == "things in the picture":
        return _number_draft("How many things are in the picture?", len(counted), tail)
    return _number_draft(rng.choice((f"How many {tail} are there?", f"Count the {tail}.")), len(counted), tail)


def _exist(rng: random.Random, scene: Scene) -> _Draft | None:
    if rng.random() < 0.3:
        return _exist_property(rng, scene)
    near = rng.choice(scene.objects).thing
    if rng.random() < 0.5:
        thing, is_there = near, True
    else:
        alike = [thing for thing in things().values() if thing.category == near.category]
        thing = rng.choice(alike if rng.random() < 0.6 else list(things().values()))
        is_there = False
        if any(may_be_called(t.thing, thing.name) or may_be_called(thing, t.name) for t in scene.objects):
            return None
    be = thing.be
    text = rng.choice((f"{_start(be)} there {thing.phrase}?", f"{_start(be)} there {thing.phrase} in the picture?"))
    if is_there:
        return _Draft(text, "yes", f"Yes, there {be} {thing.phrase}.")
    return _Draft(text, "no", f"No, there {be} no {thing.name}.")


def _exist_property(rng: random.Random, scene: Scene) -> _Draft | None:
    wanted = rng.random() < 0.5
    found = {name: holders(scene.objects, name) for name in PROPERTIES}
    names = [name for name, having in found.items() if having is not None and bool(having) == wanted]
    if not names:
        return None
    singular = PROPERTIES[rng.choice(names)].singular
    what = singular.removeprefix("is ") if singular.startswith("is ") else f"anything that {singular}"
    if wanted:
        return _Draft(f"Is there {what}?", "yes", f"Yes, there is {what.replace('anything', 'something')}.")
    return _Draft(f"Is there {what}?", "no", f"No, there is not {what}.")


def _relation(rng: random.Random, scene: Scene) -> _Draft | None:
    if len(scene.objects) < 2:
        return None
    first, second = rng.sample(scene.objects, 2)
    side = rng.choice(tuple(SIDES))
    if rng.random() < 0.4:
        return _what_is_beside(scene, side, second)
    lead = SIDES[side](first, second)
    if abs(lead) < _CLEAR_SIDE:
        return None
    a, b, be = f"the {first.name}", f"the {second.name}", first.thing.be
    if lead > 0:
        sentence = f"Yes, {a} {be} {side} {b}."
    else:
        sentence = f"No, {a} {be} not {side} {b}."
    return _Draft(f"{_start(be)} {a} {side} {b}?", "yes" if lead > 0 else "no", sentence)


def _what_is_beside(scene: Scene, side: str, anchor: PlacedThing) -> _Draft | None:
    found = beside(scene, side, anchor)
    if found is None or len(found) != 1:
        return None
    obj = found[0]
    return _Draft(
        f"What is {side} the {anchor.name}?", obj.name, f"The {obj.name} {obj.thing.be} {side} the {anchor.name}."
    )


def _two_step(rng: random.Random, scene: Scene) -> _Draft | None:
    """A question that needs one thing to find another, or a thing to know something of it."""
    if rng.random() < 0.3:
        return _property_of_extreme(rng, scene)
    if len(scene.objects) < 3:
        return None
    anchor = rng.choice(scene.objects)
    if rng.random() < 0.35:
        return _count_beside(rng, scene, anchor)
    if (obj := nearest(scene, anchor)) is None:
        return None
    form = rng.choice(("name", "kind", "color"))
    if form == "kind":
        return _kind_draft(f"What kind of thing is nearest to the {anchor.name}?", obj.thing)
    if form == "color" and obj.color:
        text = f"What color is the thing nearest to the {anchor.name}?"
        return _Draft(text, obj.color, f"It is {obj.color}.")
    sentence = f"The {obj.name} {obj.thing.be} nearest to the {anchor.name}."
    return _Draft(f"What is nearest to the {anchor.name}?", obj.name, sentence)


def _property_of_extreme(rng: random.Random, scene: Scene) -> _Draft | None:
    wanted = rng.random() < 0.5
    found = [(s, t, name) for s, t in extremes(scene) for name in PROPERTIES if t.thing.has(name) is wanted]
    if not found:
        return None
    subject, obj, name = rng.choice(found)
    answer = "yes" if wanted else "no"
    return _Draft(ask(name, subject), answer, f"{_start(answer)}, it is {obj.thing.phrase}.")


def _count_beside(rng: random.Random, scene: Scene, anchor: PlacedThing) -> _Draft | None:
    side = rng.choice(tuple(SIDES))
    found = beside(scene, side, anchor)
    tail = "things"
    if found and rng.random() < 0.6:
        tail_name = rng.choice(list(PROPERTIES))
        tail, found = PROPERTIES[tail_name].things, holders(found, tail_name)
        if not found and rng.random() < 0.7:
            return None  # fewer zeros
    if found is None or not is_countable(found):
        return None
    place = f"{side} the {anchor.name}"
    return _number_draft(f"How many {tail} are {place}?", len(found), f"{tail} {place}")


def _letter(rng: random.Random, scene: Scene) -> _Draft | None:
    if (hit := random_extreme(rng, scene)) is None:
        return None
    subject, obj = hit
    letter = obj.name[0].upper()
    return _Draft(f"What letter does the name of {subject} begin with?", letter, f"It begins with {letter}.")


def _describe(rng: random.Random, scene: Scene) -> _Draft | None:
    row = sorted(scene.objects, key=lambda t: t.x)
    if any(second.x - first.x < _CLEAR_ORDER for first, second in pairwise(row)):
        return None
    names = [t.thing.phrase for t in row]
    if len(names) == 1:
        return _Draft("Describe the picture.", None, f"There {row[0].thing.be} {names[0]}.")
    text = rng.choice(("Describe the picture from left to right.", "List everything from left to right."))
    listing = f"{', '.join(names[:-1])} and {names[-1]}"
    return _Draft(text, None, f"There are {NUMBERS[len(names)]} things: {listing}.")


_GENERATORS: dict[str, tuple[Callable[[random.Random, Scene], _Draft | None], int]] = {
    "name": (_name, 22),
    "kind": (_kind, 8),
    "which": (_which, 12),
    "color": (_color, 8),
    "count": (_count, 10),
    "exist": (_exist, 10),
    "relation": (_relation, 12),
    "two-step": (_two_step, 12),
    "letter": (_letter, 4),
    "describe": (_describe, 7),
}
TYPES = tuple(_GENERATORS)


def sample_question(rng: random.Random, scene: Scene) -> Question:
    """Draw one question with an unambiguous answer: six in ten ask for a short answer, the others get a sentence."""
    weights = [weight for _, weight in _GENERATORS.values()]
    while True:
        question_type = rng.choices(TYPES, weights=weights)[0]
        generate, _ = _GENERATORS[question_type]
        draft = next(filter(None, (generate(rng, scene) for _ in range(4))), None)
        if draft is None:
            continue
        text = draft.text.lower() if rng.random() < 0.2 else draft.text
        if draft.short is not None and rng.random() < 0.6:
            return Question(question_type, f"{text} {BRIEFLY}", draft.short)
        return Question(question_type, text, draft.sentence)
