"""Calibration samples (image, question, answer): synthetic scenes of shapes, or the user's own file."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from vlmcomp.data.images import open_image
from vlmcomp.data.questions import sample_question
from vlmcomp.data.scenes import render_scene, sample_scene

CALIBRATION_SEED = 0
COLUMNS = ("image", "question", "answer")  # of a calibration file


def synthetic_calibration_data(count: int, seed: int = CALIBRATION_SEED) -> Iterator[tuple[Image.Image, str, str]]:
    """Samples over random scenes of shapes; no training or test split shares their seeds."""
    rng = random.Random(f"calibrate-{seed}")
    for _ in range(count):
        scene = sample_scene(rng)
        question = sample_question(rng, scene)
        yield render_scene(scene), question.text, question.answer


def load_calibration_file(file: str | Path) -> list[tuple[Image.Image, str, str]]:
    """The samples of a JSON Lines file; image paths are relative to it.

    Raises:
        ValueError: no such file, a line without the three columns, or an unreadable image.
    """
    file = Path(file)
    samples = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the calibration file {file} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            image, question, answer = (row[column] for column in COLUMNS)
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{file}, line {number}: it must be a JSON object with {', '.join(COLUMNS)}") from None
        if not all(isinstance(part, str) and part.strip() for part in (image, question, answer)):
            raise ValueError(f"{file}, line {number}: {', '.join(COLUMNS)} must be non-empty strings")
        samples.append((open_image(file.parent / image), question, answer))
    return samples
