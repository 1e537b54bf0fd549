"""The app's examples: images with a question, some with the correct answer, by model."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from vlmcomp.data.questions import sample_question
from vlmcomp.data.scenes import render_scene, sample_scene
from vlmcomp.models import registry

EXAMPLES_DIR = registry.ASSETS / "examples"  # of what the bundled models know
PHOTOS_DIR = EXAMPLES_DIR / "photos"  # for models that know photographs
_FILE = "examples.json"
DRAWN_SCENE = re.compile(r"drawn-(\d{1,9})")  # the name of the scene of a seed, as of an example


@dataclass(frozen=True)
class Example:
    """An image and a question, with the correct answer if it is known; ``name`` is unique."""

    name: str
    image: Path
    question: str
    answer: str | None = None


def get_examples(model: str = registry.DEFAULT_MODEL) -> tuple[Example, ...]:
    """What ``model`` can be asked about: photographs, unless it was trained on drawn scenes.

    Raises:
        ValueError: no such model.
    """
    return _read(EXAMPLES_DIR if registry.get_model_spec(model).bundled else PHOTOS_DIR)


def find_example(name: str | None) -> Example | None:
    """The example of that name, whichever models know it."""
    return next((e for e in (*_read(EXAMPLES_DIR), *_read(PHOTOS_DIR)) if e.name == name), None)


@cache
def _read(folder: Path) -> tuple[Example, ...]:
    items = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    return tuple(
        Example(
            item.get("name", Path(item["image"]).stem), folder / item["image"], item["question"], item.get("answer")
        )
        for item in items
    )


def draw_scene(seed: int) -> tuple[Image.Image, str, str]:
    """A random scene, a question about it, and the correct answer."""
    rng = random.Random(seed)
    scene = sample_scene(rng)
    question = sample_question(rng, scene)
    return render_scene(scene), question.text, question.answer
