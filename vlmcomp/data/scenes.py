"""Scenes of colored shapes: sampling, rendering, and labels of image patches.

A scene is a plain description, which ``render_scene`` turns into pixels. Both depend only on the seed, so a held-out
split is defined by its seeds.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

CANVAS = 96  # pixels, width and height
SHAPE_KINDS = ("circle", "rectangle", "triangle", "diamond", "star", "cross")
# The first eight have the RGB values of easy-VQA, so that one model can learn both.
COLORS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "teal": (0, 128, 128),
    "brown": (165, 42, 42),
    "yellow": (255, 255, 0),
    "orange": (255, 150, 0),
    "purple": (150, 30, 190),
}
COLOR_NAMES = tuple(COLORS)
LARGE_FROM = 10.0  # radius in pixels from which an object is large
_COUNT_WEIGHTS = (3, 3, 3, 3, 2, 2, 1, 1)  # of one to eight objects
_MIN_VISIBLE = 0.6  # minimum visible fraction of each object
_SUPERSAMPLE = 2


@dataclass(frozen=True)
class SceneObject:
    """One object: center ``x``, ``y`` and ``radius`` in pixels. Objects are painted in scene order."""

    kind: str
    color: str
    x: float
    y: float
    radius: float
    aspect: float = 1.0

    @property
    def large(self) -> bool:
        return self.radius >= LARGE_FROM


@dataclass(frozen=True)
class Scene:
    """The objects of one image and the seed of its background, texture, distractors and noise."""

    objects: tuple[SceneObject, ...]
    seed: int


def outline(obj: SceneObject, scale: float = 1.0) -> list[tuple[float, float]]:
    """Polygon of ``obj`` in pixels times ``scale``; for a circle, its bounding box."""
    x = obj.x * scale
    y = obj.y * scale
    r = obj.radius * scale
    if obj.kind == "circle":
        return [(x - r, y - r), (x + r, y + r)]
    if obj.kind == "rectangle":
        w = r * min(1.0, obj.aspect)
        h = r * min(1.0, 1.0 / obj.aspect)
        return [(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]
    if obj.kind == "triangle":
        return [(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)]
    if obj.kind == "diamond":
        return [(x, y - 1.1 * r), (x + 0.8 * r, y), (x, y + 1.1 * r), (x - 0.8 * r, y)]
    if obj.kind == "star":
        tips = [(1.15 if i % 2 == 0 else 0.5, -math.pi / 2 + i * math.pi / 5) for i in range(10)]
        return [(x + r * k * math.cos(a), y + r * k * math.sin(a)) for k, a in tips]
    return _cross(x, y, r)


def _cross(x: float, y: float, r: float) -> list[tuple[float, float]]:
    """The twelve corners of a cross."""
    t = 0.36 * r
    top = ((-t, -r), (t, -r), (t, -t), (r, -t))
    bottom = ((r, t), (t, t), (t, r), (-t, r))
    left = ((-t, t), (-r, t), (-r, -t), (-t, -t))
    return [(x + dx, y + dy) for dx, dy in (*top, *bottom, *left)]


def _paint(draw: ImageDraw.ImageDraw, obj: SceneObject, fill: int | tuple[int, ...], scale: float) -> None:
    points = outline(obj, scale)
    if obj.kind == "circle":
        draw.ellipse([points[0], points[1]], fill=fill)
    else:
        draw.polygon(points, fill=fill)


def object_map(objects: tuple[SceneObject, ...]) -> np.ndarray:
    """The object at each pixel: uint8 ``(CANVAS, CANVAS)``, 0 for background, i + 1 for ``objects[i]``."""
    image = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(image)
    for i, obj in enumerate(objects):
        _paint(draw, obj, i + 1, 1.0)
    return np.asarray(image)


def _all_visible(objects: tuple[SceneObject, ...]) -> bool:
    shown = np.bincount(object_map(objects).ravel(), minlength=len(objects) + 1)
    for i, obj in enumerate(objects):
        alone = np.count_nonzero(object_map((obj,)))
        if shown[i + 1] < _MIN_VISIBLE * alone:
            return False
    return True


def _sample_positions(rng: random.Random, count: int) -> list[tuple[float, float, float]] | None:
    """``count`` positions and radii with distinguishable centers; None if they do not fit."""
    spots: list[tuple[float, float, float]] = []
    for _ in range(count):
        for _ in range(40):
            r = rng.uniform(5.5, 8.5) if rng.random() < 0.5 else rng.uniform(11.0, 15.0)
            x = rng.uniform(r, CANVAS - r)
            y = rng.uniform(r, CANVAS - r)
            if all(
                math.hypot(x - a, y - b) > max(12.0, 0.75 * (r + c)) and abs(x - a) > 3 and abs(y - b) > 2
                for a, b, c in spots
            ):
                spots.append((x, y, r))
                break
        else:
            return None
    return spots


def sample_scene(rng: random.Random) -> Scene:
    """Draw a random scene of one to eight objects.

    Colors and kinds come from a small palette of the scene, so that objects share attributes and counting or comparing
    by attribute is not trivial.
    """
    count = rng.choices(range(1, 9), weights=_COUNT_WEIGHTS)[0]
    kinds = rng.sample(SHAPE_KINDS, rng.randint(1 if count < 3 else 2, min(len(SHAPE_KINDS), 1 + (count + 1) // 2)))
    colors = rng.sample(COLOR_NAMES, rng.randint(1 if count < 3 else 2, min(6, 2 + count // 2)))
    while True:
        spots = _sample_positions(rng, count)
        if spots is None:
            continue
        objects = tuple(
            SceneObject(rng.choice(kinds), rng.choice(colors), x, y, r, rng.choice((0.6, 1.0, 1.0, 1.6)))
            for x, y, r in spots
        )
        if _all_visible(objects):
            return Scene(objects, rng.getrandbits(32))


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A pale background, float32 ``(size, size, 3)``: plain, gradient, stripes or checks."""
    base = rng.uniform(205, 255, 3)
    other = np.clip(base + rng.uniform(-28, 28, 3), 180, 255)
    ys, xs = np.mgrid[0:size, 0:size] / size
    angle = rng.uniform(0, math.pi)
    waves = rng.integers(3, 9)
    ramp = xs * math.cos(angle) + ys * math.sin(angle)
    style = rng.integers(4)
    if style == 0:
        mix = np.zeros_like(ramp)
    elif style == 1:
        mix = np.clip(ramp, 0, 1)
    elif style == 2:
        mix = 0.5 + 0.5 * np.sin(2 * math.pi * waves * ramp)
    else:
        mix = ((xs * waves).astype(int) + (ys * waves).astype(int)) % 2
    return (base + (other - base) * mix[..., None]).astype(np.float32)


def render_scene(scene: Scene) -> Image.Image:
    """Paint a scene: RGB, ``CANVAS`` x ``CANVAS``, anti-aliased, with faint distractor lines and noise."""
    rng = np.random.default_rng(scene.seed)
    size = CANVAS * _SUPERSAMPLE
    ground = Image.fromarray(_background(rng, CANVAS).astype(np.uint8))
    image = ground.resize((size, size), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 4)):  # distractors: hairlines
        tone = tuple(int(v) for v in rng.integers(120, 200, 3))
        draw.line([tuple(rng.uniform(0, size, 2)), tuple(rng.uniform(0, size, 2))], fill=tone, width=1)
    for obj in scene.objects:
        jitter = rng.integers(-14, 15, 3)
        color = tuple(int(v) for v in np.clip(np.array(COLORS[obj.color]) + jitter, 0, 255))
        _paint(draw, obj, color, _SUPERSAMPLE)
    pixels = np.asarray(image.reduce(_SUPERSAMPLE), dtype=np.float32)
    pixels = pixels + rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(0, 7)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def patch_labels(scene: Scene, patch: int) -> dict[str, np.ndarray]:
    """Labels of the N = (CANVAS / patch)^2 patches, row by row.

    ``kind``, ``color`` (N,): the object that covers most of the patch, 0 if none covers an eighth of it;
    ``center_kind``, ``center_color`` (N,): the object whose center is in the patch, else 0;
    ``center_box`` (N, 3): its offset from the center of the patch in patches, and its radius / 16.
    """
    side = CANVAS // patch
    tiles = object_map(scene.objects).reshape(side, patch, side, patch).swapaxes(1, 2).reshape(side * side, -1)
    shares = np.stack([(tiles == i + 1).sum(1) for i in range(len(scene.objects))], 1)
    top = np.where(shares.max(1) * 8 >= patch * patch, shares.argmax(1) + 1, 0)
    kind_of = np.array([0] + [SHAPE_KINDS.index(t.kind) + 1 for t in scene.objects])
    color_of = np.array([0] + [COLOR_NAMES.index(t.color) + 1 for t in scene.objects])
    center = np.zeros(side * side, dtype=np.int64)
    box = np.zeros((side * side, 3), dtype=np.float32)
    for i, obj in enumerate(scene.objects):
        col = min(int(obj.x // patch), side - 1)
        row = min(int(obj.y // patch), side - 1)
        center[row * side + col] = i + 1
        box[row * side + col] = (obj.x / patch - col - 0.5, obj.y / patch - row - 0.5, obj.radius / 16)
    return {
        "kind": kind_of[top],
        "color": color_of[top],
        "center_kind": kind_of[center],
        "center_color": color_of[center],
        "center_box": box,
    }
