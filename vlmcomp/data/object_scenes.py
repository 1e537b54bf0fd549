"""Scenes of things: what is in a picture and where, drawn from a seed in whole numbers, so that all machines agree."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from vlmcomp.data.object_sprites import drawn_by, renderings
from vlmcomp.data.object_things import PROPERTIES, Thing, get_thing, things

CANVAS = 128  # pixels, width and height
_COUNT_WEIGHTS = (4, 3, 4, 4, 3, 3)  # of one to six things
_SIZES = ((60, 108), (46, 74), (38, 60), (34, 52), (32, 46), (30, 42))  # of the things, by their number
_POOL_SHARE = 0.7  # of the things are drawn from the pools of the scene
_ONE_ARTIST_SHARE = 0.4  # of the scenes are by one artist
_MAX_TURN = 30  # degrees
_WIDTHS = (85, 110)  # percent of the artist's picture, at the same height
_GAP = 80  # percent of the sum of their radii that two centers are apart, at least
_MARGIN = 38  # percent of a thing's size between its center and the border, at least


@dataclass(frozen=True)
class PlacedThing:
    """One thing in a scene: center ``x``, ``y`` and ``size`` in pixels, ``angle`` in degrees, ``width`` in percent."""

    name: str
    rendering: str
    x: int
    y: int
    size: int
    angle: int = 0
    mirrored: bool = False
    width: int = 100

    @property
    def thing(self) -> Thing:
        return get_thing(self.name)

    @property
    def color(self) -> str | None:
        """Its main color as this artist draws it, if it has one."""
        return renderings()[self.rendering].colors.get(self.name)


@dataclass(frozen=True)
class Scene:
    """The things of one picture, each another one, painted in order, and the seed of everything else in it."""

    objects: tuple[PlacedThing, ...]
    seed: int


@cache
def _pools() -> tuple[tuple[str, ...], ...]:
    """Things that share a property, and all others: scenes draw from few of these, so that counting is not trivial."""
    shared = [tuple(thing.name for thing in things().values() if name in thing.yes) for name in PROPERTIES]
    return (*shared, tuple(thing.name for thing in things().values() if not thing.yes))


def sample_scene(rng: random.Random, roles: tuple[str, ...], num_things: int | None = None) -> Scene:
    """Draw a random scene.

    Args:
        rng: decides everything.
        roles: of the renderings that may be used.
        num_things: how many things there are; None for one to six.
    """
    count = num_things or rng.choices(range(1, len(_SIZES) + 1), weights=_COUNT_WEIGHTS)[0]
    names = _sample_names(rng, count)
    common = sorted(set.intersection(*(set(drawn_by(name, *roles)) for name in names)))
    artist = rng.choice(common) if common and rng.random() < _ONE_ARTIST_SHARE else None
    spots = None
    while spots is None:
        spots = _sample_spots(rng, count)
    objects = tuple(
        PlacedThing(
            name,
            artist or rng.choice(drawn_by(name, *roles)),
            x,
            y,
            size,
            rng.randint(-_MAX_TURN, _MAX_TURN) if rng.random() < 0.6 else 0,
            rng.random() < 0.3,
            rng.randint(*_WIDTHS),
        )
        for name, (x, y, size) in zip(names, spots)
    )
    return Scene(objects, rng.getrandbits(32))


def _sample_names(rng: random.Random, count: int) -> list[str]:
    everything = list(things())
    pools = rng.sample(_pools(), 2)
    names: list[str] = []
    while len(names) < count:
        pool = rng.choice(pools) if rng.random() < _POOL_SHARE else everything
        if (name := rng.choice(pool)) not in names:
            names.append(name)
    return names


def _sample_spots(rng: random.Random, count: int) -> list[tuple[int, int, int]] | None:
    """``count`` centers and sizes whose things hardly overlap; None if they do not fit."""
    spots: list[tuple[int, int, int]] = []
    low, high = _SIZES[count - 1]
    for _ in range(count):
        for _ in range(40):
            size = rng.randint(low, high)
            edge = size * _MARGIN // 100
            x = rng.randint(edge, CANVAS - edge)
            y = rng.randint(edge, CANVAS - edge)
            if all(_are_apart(x, y, size, *spot) for spot in spots):
                spots.append((x, y, size))
                break
        else:
            return None
    return spots


def _are_apart(x: int, y: int, size: int, a: int, b: int, other: int) -> bool:
    return ((x - a) ** 2 + (y - b) ** 2) * 200**2 >= (_GAP * (size + other)) ** 2
