"""Recorded answers to the app's examples: ``precomputed/<hardware>/examples.json``. Finding one needs no torch."""

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
from vlmcomp.data.images import clean_question, open_image
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.results import store
from vlmcomp.results.answer import Answer

if TYPE_CHECKING:
    from vlmcomp.runtime.engine import Engine

EXAMPLES = registry.ASSETS / "examples"
FILE = "examples.json"
_TIMES = ("preprocess_ms", "ttft_ms", "total_ms")
_ROUNDS = 5  # times are medians of so many
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recorded:
    """An answer, and where and when it was given. ``weight_bytes``: of the weights as stored."""

    answer: Answer
    weight_bytes: int
    hardware: str
    date: str

    @property
    def place(self) -> str:
        """Where and when, for people."""
        return f"recorded on {self.hardware}, {self.date[:10]}"


def examples() -> list[tuple[Path, str]]:
    """Image and question of each bundled example."""
    items = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    return [(EXAMPLES / item["image"], item["question"]) for item in items]


def find(
    recipes: Sequence[Recipe], image: Image.Image, question: str, root: Path = store.PRECOMPUTED
) -> dict[Recipe, Recorded]:
    """The newest recorded answer to that question about an image of exactly those pixels, of each recipe with one."""
    known, pixels = _all(root), _pixels(image)
    return {r: known[place] for r in recipes if (place := (str(r), pixels, question)) in known}


@cache
def _all(root: Path) -> dict[tuple[str, str, str], Recorded]:
    found: list[tuple[tuple[str, str, str], Recorded]] = []
    for file in root.glob(f"*/{FILE}"):
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            for row in data["answers"]:
                place = (row["recipe"], row["image"], row["question"])
                kept = Recorded(Answer(**row["answer"]), row["weight_bytes"], data["hardware"]["name"], row["date"])
                found.append((place, kept))
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("left out %s: %s", file, error)
    return dict(sorted(found, key=lambda pair: pair[1].date))


def _pixels(image: Image.Image) -> str:
    upright = open_image(image)
    return hashlib.sha256(f"{upright.size}".encode() + upright.tobytes()).hexdigest()


def answers(engine: Engine, rounds: int = _ROUNDS) -> list[dict[str, object]]:
    """What ``engine`` answers to every example, as rows of the file; times are medians of ``rounds`` answers."""
    from vlmcomp.compression.size import weight_bytes
    from vlmcomp.results import provenance

    rows = []
    for file, text in examples():
        image, question = open_image(file), clean_question(text)
        given = [engine.generate(image, question) for _ in range(rounds + 1)][1:]
        times = {name: round(statistics.median(getattr(a, name) for a in given), 3) for name in _TIMES}
        facts = {
            "recipe": str(engine.vlm.recipe),
            "image": _pixels(image),
            "question": question,
            "date": provenance.now(),
        }
        size = sum(weight_bytes(engine.vlm.model).values())
        rows.append({**facts, "weight_bytes": size, "answer": asdict(replace(given[-1], **times))})
    return rows


def save(rows: Sequence[dict[str, object]], device: str | None, root: Path = store.PRECOMPUTED) -> Path:
    """Write ``rows`` to this machine's file; older answers of the same recipes go."""
    from vlmcomp import hardware as hardware_module
    from vlmcomp.results import provenance

    hardware = hardware_module.hardware(device)
    file = root / hardware.slug / FILE
    new = {row["recipe"] for row in rows}
    old: Iterable[dict[str, object]] = json.loads(file.read_text(encoding="utf-8"))["answers"] if file.exists() else ()
    kept = [row for row in old if row["recipe"] not in new]
    facts = {
        "hardware": asdict(hardware),
        "versions": provenance.versions(),
        "commit": provenance.commit(registry.ASSETS.parent),
    }
    files.write_json(file, {**facts, "answers": [*kept, *rows]})
    _all.cache_clear()
    return file
