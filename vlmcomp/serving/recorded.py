"""Recorded answers to the app's examples: ``precomputed/<hardware>/examples.json``. Looking one up needs no torch."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from vlmcomp import files
from vlmcomp.data.images import normalize_question, open_image
from vlmcomp.hardware import get_hardware
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.results import provenance, store
from vlmcomp.results.answer import Answer

if TYPE_CHECKING:
    from vlmcomp.runtime.engine import Engine

EXAMPLES_DIR = registry.ASSETS / "examples"
FILE_NAME = "examples.json"
_TIMES = ("preprocess_ms", "ttft_ms", "total_ms")
_DEFAULT_ROUNDS = 5  # times are medians over this many answers
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


def examples() -> list[tuple[Path, str]]:
    """Image and question of each bundled example."""
    items = json.loads((EXAMPLES_DIR / "examples.json").read_text(encoding="utf-8"))
    return [(EXAMPLES_DIR / item["image"], item["question"]) for item in items]


def lookup(
    recipes: Sequence[Recipe], image: Image.Image, question: str, root: Path = store.PRECOMPUTED
) -> dict[Recipe, RecordedAnswer]:
    """The newest recorded answer of each recipe to this question about an image with exactly these pixels.

    Recipes without one are left out.
    """
    recorded = _load_all(root)
    pixels = _pixel_digest(image)
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


def _pixel_digest(image: Image.Image) -> str:
    """SHA-256 of size and pixels, as hex."""
    upright = open_image(image)
    return hashlib.sha256(f"{upright.size}".encode() + upright.tobytes()).hexdigest()


def record_answers(engine: Engine, rounds: int = _DEFAULT_ROUNDS) -> list[dict[str, object]]:
    """Answers of ``engine`` to all examples, as rows of the file; times are medians of ``rounds`` answers."""
    from vlmcomp.compression.size import weight_bytes

    rows = []
    for file, text in examples():
        image = open_image(file)
        question = normalize_question(text)
        answers = [engine.generate(image, question) for _ in range(rounds + 1)][1:]  # the first warms up
        times = {name: round(statistics.median(getattr(a, name) for a in answers), 3) for name in _TIMES}
        facts = {
            "recipe": str(engine.vlm.recipe),
            "image": _pixel_digest(image),
            "question": question,
            "date": provenance.utc_timestamp(),
        }
        size = sum(weight_bytes(engine.vlm.model).values())
        rows.append({**facts, "weight_bytes": size, "answer": asdict(replace(answers[-1], **times))})
    return rows


def save(rows: Sequence[dict[str, object]], device: str | None, root: Path = store.PRECOMPUTED) -> Path:
    """Write ``rows`` to this machine's file, in place of older answers of the same recipes."""
    hardware = get_hardware(device)
    file = root / hardware.slug / FILE_NAME
    recipes = {row["recipe"] for row in rows}
    old: Iterable[dict[str, object]] = json.loads(file.read_text(encoding="utf-8"))["answers"] if file.exists() else ()
    others = [row for row in old if row["recipe"] not in recipes]
    facts = {
        "hardware": asdict(hardware),
        "versions": provenance.package_versions(),
        "commit": provenance.git_commit(registry.ASSETS.parent),
    }
    files.write_json(file, {**facts, "answers": [*others, *rows]})
    _load_all.cache_clear()
    return file
