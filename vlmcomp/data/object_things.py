"""The things of the objects world: their names, what kind they are, and what is true of them.

``assets/objects/things.csv`` has a row a thing. Its name is plain English; under its code of Unicode the artists' sets
have its picture. What is true of it (``yes``) and what people may argue about (``unclear``) was written by hand, after
the groups and keywords of Unicode CLDR; everything else is false.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from vlmcomp.data.unicode_text import escape

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "objects"
FILE = "things.csv"
COLOR = "color"  # unclear of things whose pictures show more of a box or a fish, or whose color people name differently
KINDS = {  # categories that a person names when asked for the kind of a thing; others are too vague to ask for
    "animal": "animal",
    "plant": "plant",
    "food": "food",
    "drink": "drink",
    "vehicle": "vehicle",
    "building": "building",
    "clothing": "clothing",
    "instrument": "instrument",
    "tool": "tool",
    "body": "body part",
}
_SPOKEN_YOU = ("uf", "un", "uk")  # words that begin with the sound of "you", as UFO does


@dataclass(frozen=True)
class Property:
    """What may be true of things: ``singular`` and ``plural`` follow their names, ``things`` counts them."""

    singular: str
    plural: str
    things: str


PROPERTIES = {
    "animal": Property("is an animal", "are animals", "animals"),
    "plant": Property("is a plant", "are plants", "plants"),
    "vehicle": Property("is a vehicle", "are vehicles", "vehicles"),
    "building": Property("is a building", "are buildings", "buildings"),
    "drink": Property("is a drink", "are drinks", "drinks"),
    "music": Property("is a musical instrument", "are musical instruments", "musical instruments"),
    "eaten": Property("can be eaten", "can be eaten", "things that can be eaten"),
    "worn": Property("can be worn", "can be worn", "things that can be worn"),
    "fly": Property("can fly", "can fly", "things that can fly"),
    "wheels": Property("has wheels", "have wheels", "things with wheels"),
    "water": Property("lives in water", "live in water", "things that live in water"),
}


@dataclass(frozen=True)
class Thing:
    """One thing. ``number``: ``one`` (a fox), ``many`` (scissors) or ``mass`` (rice)."""

    name: str
    code: str
    category: str
    number: str
    yes: frozenset[str]
    unclear: frozenset[str]

    def has(self, name: str) -> bool | None:
        """Whether the property ``name`` is true of it; None if people may argue."""
        return None if name in self.unclear else name in self.yes

    @property
    def phrase(self) -> str:
        """Its name, after "a" or "an" where there is one of it."""
        if self.number != "one":
            return self.name
        first = self.name.lower()
        vowel = first[0] in "aeiou" and not first.startswith(_SPOKEN_YOU)
        vowel = vowel or first.startswith("x-")
        return f"{'an' if vowel else 'a'} {self.name}"

    @property
    def be(self) -> str:
        """The verb after its name."""
        return "are" if self.number == "many" else "is"

    def says(self, name: str) -> str:
        """The property ``name`` as a predicate: "can fly", "are animals"."""
        words = PROPERTIES[name]
        return words.plural if self.number == "many" else words.singular


@cache
def things(folder: Path = FOLDER) -> Mapping[str, Thing]:
    """All things by name, in the table's order.

    Raises:
        OSError: the table cannot be read.
        ValueError: it is damaged.
    """
    file = folder / FILE
    try:
        text = file.read_text(encoding="utf-8")
        if not text.endswith("\n"):
            raise ValueError("its last row is cut")
        found = [_parse(row) for row in csv.DictReader(text.splitlines())]
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is missing: restore assets/objects from the repository") from None
    except (KeyError, ValueError, AttributeError, csv.Error) as error:
        raise ValueError(f"{file} is damaged ({error}): restore assets/objects from the repository") from None
    return MappingProxyType({thing.name: thing for thing in found})


def get_thing(name: str) -> Thing:
    """The thing ``name``.

    Raises:
        ValueError: no thing has that name.
    """
    if name not in things():
        raise ValueError(f"there is no thing '{escape(str(name))}' among the {len(things())} of {FOLDER / FILE}")
    return things()[name]


def _parse(row: dict[str, str]) -> Thing:
    yes, unclear = (frozenset(row[column].split()) for column in ("yes", "unclear"))
    if unknown := (yes | unclear) - PROPERTIES.keys() - {COLOR}:
        raise ValueError(f"{row['name']} has the unknown property {min(unknown)}")
    if not row["name"] or row["number"] not in ("one", "many", "mass"):
        raise ValueError(f"a row has no name or the number '{row['number']}'")
    return Thing(row["name"], row["code"], row["category"], row["number"], yes, unclear)
