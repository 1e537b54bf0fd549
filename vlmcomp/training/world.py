"""What the bundled models are taught: scenes, questions about them, and what patches of their pictures show."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vlmcomp.data import object_questions, object_rendering, object_scenes, questions, scenes
from vlmcomp.data.object_sprites import TRAIN, TRAIN_ONLY
from vlmcomp.data.object_things import things
from vlmcomp.data.questions import Question

Labels = dict[str, np.ndarray]
_ROLES = (TRAIN, TRAIN_ONLY)  # of the pictures of things; those of the held-out artist are never trained on
_TOWER_COUNT_WEIGHTS = (1, 1, 2, 3, 4, 4)  # of one to six things in a picture that the tower learns names from


@dataclass(frozen=True)
class World:
    """A source of scenes without end.

    Attributes:
        canvas: pixels a side of its pictures.
        question_types: the types of its questions.
        attributes: returns the number of classes, nothing included, of each attribute of a thing. The labels of patches
            have it for what fills a patch (``kind``) and what has its center there (``center_kind``), and
            ``center_box``.
        sample_scene: a scene from a generator.
        sample_question: a question about a scene.
        draw: the picture of a scene, and the labels of its patches from their side in pixels.
        sample_tower_scene: a scene for the training of the vision tower alone.
        augment: changes the pictures of that training in ways that keep the names of things, but not every answer.
    """

    canvas: int
    question_types: tuple[str, ...]
    attributes: Callable[[], Mapping[str, int]]
    sample_scene: Callable[[random.Random], Any]
    sample_question: Callable[[random.Random, Any], Question]
    draw: Callable[[Any, int], tuple[Image.Image, Labels]]
    sample_tower_scene: Callable[[random.Random], Any]
    augment: Callable[[random.Random, Image.Image], Image.Image]


def _draw_shapes(scene: scenes.Scene, patch: int) -> tuple[Image.Image, Labels]:
    return scenes.render_scene(scene), scenes.patch_labels(scene, patch)


def _sample_objects(rng: random.Random) -> object_scenes.Scene:
    return object_scenes.sample_scene(rng, _ROLES)


def _sample_many_objects(rng: random.Random) -> object_scenes.Scene:
    [count] = rng.choices(range(1, len(_TOWER_COUNT_WEIGHTS) + 1), weights=_TOWER_COUNT_WEIGHTS)
    return object_scenes.sample_scene(rng, _ROLES, count)


def _draw_objects(scene: object_scenes.Scene, patch: int) -> tuple[Image.Image, Labels]:
    image, owners = object_rendering.draw(scene)
    return image, object_rendering.patch_labels(scene, owners, patch)


def _change_colors(rng: random.Random, image: Image.Image) -> Image.Image:
    """Other colors in three of ten pictures, so that shapes count: gray, channels swapped, or the negative of one."""
    change = rng.random()
    if change < 0.1:
        return image.convert("L").convert("RGB")
    if change < 0.3:
        channels = list(image.split())
        rng.shuffle(channels)
        if change < 0.15:
            channels[0] = channels[0].point(lambda value: 255 - value)
        return Image.merge("RGB", channels)
    return image


SHAPES = World(
    canvas=scenes.CANVAS,
    question_types=questions.TYPES,
    attributes=lambda: {"kind": len(scenes.SHAPE_KINDS) + 1, "color": len(scenes.COLOR_NAMES) + 1},
    sample_scene=scenes.sample_scene,
    sample_question=questions.sample_question,
    draw=_draw_shapes,
    sample_tower_scene=scenes.sample_scene,
    augment=lambda rng, image: image,
)


OBJECTS = World(
    canvas=object_scenes.CANVAS,
    question_types=object_questions.TYPES,
    attributes=lambda: {"thing": len(things()) + 1},
    sample_scene=_sample_objects,
    sample_question=object_questions.sample_question,
    draw=_draw_objects,
    sample_tower_scene=_sample_many_objects,
    augment=_change_colors,
)
