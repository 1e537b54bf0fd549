"""How questions point to things of a scene, and what may be said of them without argument."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from vlmcomp.data.object_scenes import PlacedThing, Scene
from vlmcomp.data.object_things import PROPERTIES, Thing

CLEAR = 8  # pixels between two centers from which a person sees which is further
CLEAR_RATIO = 1.25  # of two sizes, or of two distances
_EXTREMES: dict[str, Callable[[PlacedThing], int]] = {
    "leftmost": lambda t: -t.x,
    "rightmost": lambda t: t.x,
    "highest": lambda t: -t.y,
    "lowest": lambda t: t.y,
    "largest": lambda t: t.size,
    "smallest": lambda t: -t.size,
}
SIDES: dict[str, Callable[[PlacedThing, PlacedThing], int]] = {  # positive: the first thing is on that side
    "left of": lambda a, b: b.x - a.x,
    "right of": lambda a, b: a.x - b.x,
    "above": lambda a, b: b.y - a.y,
    "below": lambda a, b: a.y - b.y,
}
# Things that a person may also call by the name of another thing.
_ALSO = {
    "poodle": ("dog",),
    "chick": ("chicken",),
    "turkey": ("chicken",),
    "moose": ("deer",),
    "orca": ("whale",),
    "taxi": ("car",),
    "gorilla": ("monkey",),
    "orangutan": ("monkey",),
    "pickup truck": ("car", "truck"),
    "ambulance": ("car", "truck"),
    "scooter": ("motorcycle",),
    "speedboat": ("ship",),
    "sailboat": ("ship",),
    "laptop": ("computer",),
    "sneaker": ("shoe",),
    "hiking boot": ("shoe",),
    "high heel": ("shoe",),
    "flip-flop": ("sandal", "shoe"),
    "sandal": ("shoe",),
    "cap": ("hat",),
    "kimono": ("dress",),
    "sari": ("dress",),
    "blouse": ("t-shirt",),
    "cupcake": ("cake",),
    "camcorder": ("camera", "movie camera"),
    "movie camera": ("camera", "camcorder"),
    "mailbox": ("postbox",),
    "postbox": ("mailbox",),
    "hamster": ("mouse",),
    "burrito": ("sandwich",),
    "bagel": ("donut",),
    "briefcase": ("suitcase", "handbag"),
    "seedling": ("plant",),
    "hibiscus": ("cherry blossom",),
    "cherry blossom": ("hibiscus",),
    "drumstick": ("meat", "chicken"),
    "steak": ("meat",),
    "bacon": ("meat",),
    "spaghetti": ("noodles",),
    "noodles": ("spaghetti",),
    "oil lamp": ("candle",),
    "dagger": ("knife", "swords"),
}


def may_be_called(thing: Thing, name: str) -> bool:
    """Whether a person may call ``thing`` by the name of another thing."""
    words = thing.name.lower().replace("-", " ").split()
    return name == thing.name or name in _ALSO.get(thing.name, ()) or bool({name, f"{name}s"} & set(words))


def holders(objects: Sequence[PlacedThing], name: str) -> list[PlacedThing] | None:
    """The objects that have the property ``name``; None if that is unclear of any of them."""
    if any(t.thing.has(name) is None for t in objects):
        return None
    return [t for t in objects if t.thing.has(name)]


def is_countable(objects: Sequence[PlacedThing]) -> bool:
    """Whether everybody counts the same: a bunch of grapes may be one thing or many."""
    return all(t.thing.number != "many" for t in objects)


def extremes(scene: Scene) -> list[tuple[str, PlacedThing]]:
    """Phrases such as "the leftmost thing" with their things, by a clear margin; "this" if there is one thing alone."""
    if len(scene.objects) == 1:
        return [("this", scene.objects[0])]
    found = []
    for word, score in _EXTREMES.items():
        first, second = sorted(scene.objects, key=score, reverse=True)[:2]
        if word in ("largest", "smallest"):
            small, large = sorted((first.size, second.size))
            is_clear = large >= CLEAR_RATIO * small
        else:
            is_clear = score(first) - score(second) >= CLEAR
        if is_clear:
            found.append((f"the {word} thing", first))
    return found


def random_extreme(rng: random.Random, scene: Scene) -> tuple[str, PlacedThing] | None:
    """One of ``extremes``; None if there is none."""
    found = extremes(scene)
    return rng.choice(found) if found else None


def nearest(scene: Scene, anchor: PlacedThing) -> PlacedThing | None:
    """The thing nearest to ``anchor``, by a clear margin; None if there is none."""
    others = [t for t in scene.objects if t is not anchor]
    squares = {t: (t.x - anchor.x) ** 2 + (t.y - anchor.y) ** 2 for t in others}
    first, second = sorted(others, key=lambda t: squares[t])[:2]
    return first if squares[second] >= CLEAR_RATIO**2 * squares[first] else None


def beside(scene: Scene, side: str, anchor: PlacedThing) -> list[PlacedThing] | None:
    """The things on one side of ``anchor``; None if one of them is too close to call."""
    leads = {t: SIDES[side](t, anchor) for t in scene.objects if t is not anchor}
    if any(abs(lead) < CLEAR for lead in leads.values()):
        return None
    return [t for t, lead in leads.items() if lead > 0]


def ask(name: str, subject: str, be: str = "is") -> str:
    """The yes-or-no question whether ``subject`` has the property ``name``."""
    words = PROPERTIES[name]
    verb, _, rest = (words.singular if be == "is" else words.plural).partition(" ")
    if verb in ("is", "are", "can"):
        return f"{verb.capitalize()} {subject} {rest}?"
    helper = "Does" if be == "is" else "Do"
    return f"{helper} {subject} {words.plural}?"


def deny(name: str, be: str = "is") -> str:
    """The predicate of things that lack the property ``name``."""
    words = PROPERTIES[name]
    verb, _, rest = (words.singular if be == "is" else words.plural).partition(" ")
    if verb in ("is", "are"):
        return f"{verb} not {rest}"
    if verb == "can":
        return f"cannot {rest}"
    return f"{'does' if be == 'is' else 'do'} not {words.plural}"
