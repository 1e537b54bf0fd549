"""Noun phrases that denote objects of a scene, such as "the large red circle"."""

from __future__ import annotations

import random
from dataclasses import dataclass

from vlmcomp.data.scenes import COLOR_NAMES, SHAPE_KINDS, Scene, SceneObject


@dataclass(frozen=True)
class ObjectFilter:
    """A noun phrase and the objects it denotes; None stands for any value."""

    kind: str | None = None
    color: str | None = None
    large: bool | None = None
    noun: str = "object"

    def matches(self, obj: SceneObject) -> bool:
        return (
            (self.kind is None or obj.kind == self.kind)
            and (self.color is None or obj.color == self.color)
            and (self.large is None or obj.large == self.large)
        )

    def phrase(self, plural: bool = False) -> str:
        size = None if self.large is None else ("large" if self.large else "small")
        noun = self.kind or self.noun
        if plural:
            noun += "es" if noun.endswith("s") else "s"
        return " ".join(w for w in (size, self.color, noun) if w)


def with_article(phrase: str) -> str:
    """``phrase`` after "a" or "an"."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def random_noun(rng: random.Random) -> str:
    """A word for any object."""
    return rng.choice(("object", "shape"))


def unique_object(rng: random.Random, scene: Scene, forms: tuple[str, ...]) -> tuple[SceneObject, str] | None:
    """An object and a noun phrase that denotes only this object; None if there is none."""
    found = []
    for obj in scene.objects:
        for form in forms:
            wanted = ObjectFilter(
                obj.kind if "kind" in form else None, obj.color if "color" in form else None, noun=random_noun(rng)
            )
            if sum(wanted.matches(t) for t in scene.objects) == 1:
                found.append((obj, wanted.phrase()))
    return rng.choice(found) if found else None


def random_filter(rng: random.Random, scene: Scene) -> ObjectFilter:
    """A noun phrase that often, but not always, matches an object in the scene."""
    near = rng.choice(scene.objects)
    kind = near.kind if rng.random() < 0.75 else rng.choice(SHAPE_KINDS)
    other = rng.choice(scene.objects)
    color = other.color if rng.random() < 0.75 else rng.choice(COLOR_NAMES)
    form = rng.choice(("kind", "kind", "color", "color", "both", "both", "size"))
    return ObjectFilter(
        kind if form in ("kind", "both") else None,
        color if form in ("color", "both") else None,
        rng.random() < 0.5 if form == "size" else None,
        random_noun(rng),
    )
