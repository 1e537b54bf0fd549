"""Recorded answers to the app's examples: ``precomputed/<hardware>/examples.json``. Looking one up needs no torch."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from vlmcomp import files
from vlmcomp.data.images import open_image
from vlmcomp.hardware import get_hardware
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.results import provenance, store
from vlmcomp.results.answer import Answer

FILE_NAME = "examples.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordedAnswer:
    """An answer, and where and when it was recorded.

    Attributes:
        weight_bytes: bytes of the weights as stored.
        date: ISO 8601.
    """

    answer: Answer
    weight_bytes: int
    hardware: str
    date: str

    @property
    def provenance(self) -> str:
        """Where and when it was recorded, in words."""
        return f"recorded on {self.hardware}, {self.date[:10]}"


def lookup(
    recipes: Sequence[Recipe], image: Image.Image, question: str, root: Path = store.PRECOMPUTED
) -> dict[Recipe, RecordedAnswer]:
    """The newest recorded answer of each recipe to this question about an image with exactly these pixels.

    Recipes without one are left out.
    """
    recorded = _load_all(root)
    pixels = pixel_digest(image)
    keys = {recipe: (str(recipe), pixels, question) for recipe in recipes}
    return {recipe: recorded[key] for recipe, key in keys.items() if key in recorded}


@cache
def _load_all(root: Path) -> dict[tuple[str, str, str], RecordedAnswer]:
    """All recorded answers below ``root`` by recipe, pixel digest and question."""
    found: list[tuple[tuple[str, str, str], RecordedAnswer]] = []
    for file in root.glob(f"*/{FILE_NAME}"):
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            for row in data["answers"]:
                key = (row["recipe"], row["image"], row["question"])
                answer = RecordedAnswer(
                    Answer(**row["answer"]), row["weight_bytes"], data["hardware"]["name"], row["date"]
                )
                found.append((key, answer))
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("skipped %s: %s", file, error)
    return dict(sorted(found, key=lambda pair: pair[1].date))


def pixel_digest(image: Image.Image) -> str:
    """SHA-256 of size and pixels, as hex."""
    upright = open_image(image)
    return hashlib.sha256(f"{upright.size}".encode() + upright.tobytes()).hexdigest()


def check(device: str | None, root: Path) -> None:
    """Check before recording that ``save`` will succeed.

    Raises:
        OSError: ``root`` cannot be written.
        ValueError: there is no such device, or this machine's file is damaged.
    """
    file = root / get_hardware(device).slug / FILE_NAME
    files.check_file_writable(file)
    _saved_rows(file)


def save(rows: Sequence[dict[str, object]], device: str | None, root: Path = store.PRECOMPUTED) -> Path:
    """Write ``rows`` to this machine's file, in place of older answers of the same recipes."""
    hardware = get_hardware(device)
    file = root / hardware.slug / FILE_NAME
    recipes = {row["recipe"] for row in rows}
    others = [row for row in _saved_rows(file) if row["recipe"] not in recipes]
    facts = {
        "hardware": asdict(hardware),
        "versions": provenance.package_versions(),
        "commit": provenance.git_commit(registry.ASSETS.parent),
    }
    files.write_json(file, {**facts, "answers": [*others, *rows]})
    _load_all.cache_clear()
    return file


def _saved_rows(file: Path) -> list[dict[str, object]]:
    """The rows of ``file``; none if it does not exist."""
    if not file.exists():
        return []
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["answers"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} is damaged: move it away") from None
