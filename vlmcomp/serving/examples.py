"""The app's examples: images with a question, some with the correct answer, by model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vlmcomp.models import registry

EXAMPLES_DIR = registry.ASSETS / "examples"  # of what the bundled models know
PHOTOS_DIR = EXAMPLES_DIR / "photos"  # for models that know photographs
_FILE = "examples.json"


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
