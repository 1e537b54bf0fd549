"""Rendering of scenes of things.

All arithmetic is in whole numbers, or in floats that hold whole numbers, and all noise comes from Python's ``random``:
the pixels of a scene are the same on every machine and with every version of NumPy and Pillow.
"""

from __future__ import annotations

import math
import random
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from vlmcomp.data.object_backgrounds import background
from vlmcomp.data.object_degradations import degrade
from vlmcomp.data.object_scenes import CANVAS, PlacedThing, Scene
from vlmcomp.data.object_sprites import SIDE, load_sprite
from vlmcomp.data.object_things import things

_ONE = 1 << 16  # of the fixed-point numbers
_HALF_SIDE_TO = 48  # size in pixels below which a thing is drawn from a sprite of half the side
_SHADOW_SIDE = SIDE // 4
_OPAQUE = 128  # opacity from which a pixel belongs to a thing
_COVERS = 8  # a thing fills a patch if it covers one pixel in so many, or more


class _Patch(NamedTuple):
    """A thing as it lands on the canvas: where its pixels are (N,), and their color times opacity, opacity (N, 4)."""

    where: np.ndarray
    pixels: np.ndarray


def render_scene(scene: Scene) -> Image.Image:
    """The picture of a scene: RGB, ``CANVAS`` x ``CANVAS``.

    Raises:
        OSError: the sprites cannot be read.
        ValueError: the sprites are damaged, or a thing or its rendering does not exist.
    """
    return draw(scene)[0]


def draw(scene: Scene) -> tuple[Image.Image, np.ndarray]:
    """The picture, and the thing at each of its pixels: uint8 ``(CANVAS, CANVAS)``, 0 or one more than its index."""
    rng = random.Random(scene.seed)
    canvas = background(rng, CANVAS).reshape(-1, 3)
    owners = np.zeros(CANVAS * CANVAS, np.uint8)
    has_shadows = rng.random() < 0.5
    dx, dy, darkness = rng.randint(-5, 5), rng.randint(1, 5), rng.randint(30, 110)
    for number, obj in enumerate(scene.objects, start=1):
        if has_shadows:
            shadow = _place(obj, _SHADOW_SIDE, dx, dy)
            _darken(canvas, shadow, darkness)
        patch = _place(obj, SIDE if obj.size >= _HALF_SIDE_TO else SIDE // 2)
        _paint(canvas, patch)
        owners[patch.where[patch.pixels[:, 3] >= _OPAQUE]] = number
    pixels = degrade(rng, canvas.reshape(CANVAS, CANVAS, 3))
    return Image.fromarray(pixels), owners.reshape(CANVAS, CANVAS)


@cache
def _premultiplied(rendering: str, thing: str, side: int) -> np.ndarray:
    """The sprite with color times opacity at ``side`` pixels inside a transparent frame: uint8 ``(side + 3)^2 x 4``."""
    sprite = load_sprite(rendering, thing).astype(np.int32)
    sprite[..., :3] = (sprite[..., :3] * sprite[..., 3:] + 127) // 255
    factor = SIDE // side
    blocks = sprite.reshape(side, factor, side, factor, 4).sum((1, 3))
    small = (blocks + factor * factor // 2) // (factor * factor)
    framed = np.pad(small, ((1, 2), (1, 2), (0, 0)))
    return framed.astype(np.uint8).reshape(-1, 4)


def _place(obj: PlacedThing, side: int, dx: int = 0, dy: int = 0) -> _Patch:
    """``obj``, moved by ``dx``, ``dy``, interpolated linearly from its sprite of ``side`` pixels."""
    reach = obj.size * 7 // 10 + 1
    x = np.arange(max(0, obj.x + dx - reach), min(CANVAS, obj.x + dx + reach), dtype=np.int64)
    y = np.arange(max(0, obj.y + dy - reach), min(CANVAS, obj.y + dy + reach), dtype=np.int64)[:, None]
    right, down = 2 * (x - obj.x - dx) + 1, 2 * (y - obj.y - dy) + 1  # from the center, in half pixels
    cos, sin = (round(f(math.radians(obj.angle)) * _ONE) for f in (math.cos, math.sin))
    u, v = (cos * right + sin * down) * 100 // obj.width, cos * down - sin * right
    if obj.mirrored:
        u = -u
    middle = (side + 1) * _ONE // 2  # in the frame, where the first pixel's center is 1
    u, v = (t * side // (2 * obj.size) + middle for t in (u, v))
    end = (side + 1) * _ONE
    row, column = np.nonzero((u > 0) & (u < end) & (v > 0) & (v < end))
    u, v = u[row, column], v[row, column]
    sprite = _premultiplied(obj.rendering, obj.name, side)
    pixels = _interpolate(sprite, side + 3, u, v)
    return _Patch((row + y[0, 0]) * CANVAS + column + x[0], pixels)


def _interpolate(sprite: np.ndarray, width: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Pixels (N, 4) at the fixed-point positions ``u``, ``v`` of a sprite with ``width`` pixels a row."""
    at = (v >> 16) * width + (u >> 16)
    fu, fv = (((t >> 8) & 255).astype(np.int32) for t in (u, v))
    corners = ((0, (256 - fu) * (256 - fv)), (1, fu * (256 - fv)), (width, (256 - fu) * fv), (width + 1, fu * fv))
    packed = sprite.view(np.uint32).ravel()
    total = np.full((len(at), 4), 1 << 15, np.int32)
    for offset, weight in corners:
        total += packed[at + offset].view(np.uint8).reshape(-1, 4) * weight[:, None]
    return total >> 16


def _paint(canvas: np.ndarray, patch: _Patch) -> None:
    under = canvas[patch.where]
    hidden = (under * patch.pixels[:, 3:] + 127) // 255
    canvas[patch.where] = np.minimum(under - hidden + patch.pixels[:, :3], 255)


def _darken(canvas: np.ndarray, shadow: _Patch, darkness: int) -> None:
    under = canvas[shadow.where]
    canvas[shadow.where] = under - (under * shadow.pixels[:, 3:] * darkness >> 16)


def patch_labels(scene: Scene, owners: np.ndarray, patch: int) -> dict[str, np.ndarray]:
    """Labels of the N = (CANVAS / patch)^2 patches of a drawn scene, row by row.

    ``thing`` (N,): the thing that covers most of the patch, 0 for none, else one more than its place in the table;
    ``center_thing`` (N,): the thing whose center is in the patch; ``center_box`` (N, 3): its offset from the center of
    the patch in patches, and its size / 64.
    """
    side = CANVAS // patch
    tiles = owners.reshape(side, patch, side, patch).swapaxes(1, 2).reshape(side * side, -1)
    shares = np.stack([(tiles == number + 1).sum(1) for number in range(len(scene.objects))], 1)
    top = np.where(shares.max(1) * _COVERS >= patch * patch, shares.argmax(1) + 1, 0)
    center = np.zeros(side * side, np.int64)
    box = np.zeros((side * side, 3), np.float32)
    for number, obj in enumerate(scene.objects, start=1):
        column, row = (min(t // patch, side - 1) for t in (obj.x, obj.y))
        center[row * side + column] = number
        box[row * side + column] = (obj.x / patch - column - 0.5, obj.y / patch - row - 0.5, obj.size / 64)
    classes = _classes()
    index = np.array([0] + [classes[obj.name] for obj in scene.objects])
    return {"thing": index[top], "center_thing": index[center], "center_box": box}


@cache
def _classes() -> dict[str, int]:
    """The number of each thing in the labels."""
    return {name: number for number, name in enumerate(things(), start=1)}
