"""Calibration samples (image, question, answer): scenes of shapes, or a file of one's own."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from vlmcomp.data.images import open_image
from vlmcomp.data.questions import sample_question
from vlmcomp.data.scenes import render, sample_scene

CALIBRATION_SEED = 0


COLUMNS = ("image", "question", "answer")  # of a calibration file


def calibration_samples(count: int, seed: int = CALIBRATION_SEED) -> Iterator[tuple[Image.Image, str, str]]:
    """Image, question and answer over scenes of shapes drawn for calibration alone: no split shares their seed."""
    rng = random.Random(f"calibrate-{seed}")
    for _ in range(count):
        scene = sample_scene(rng)
        question = sample_question(rng, scene)
        yield render(scene), question.text, question.answer


def read_samples(file: str | Path) -> list[tuple[Image.Image, str, str]]:
    """The (image, question, answer) samples of a JSON Lines file; image paths are relative to it.

    Raises:
        ValueError: no such file, a line without the three columns, or an image that cannot be read.
    """
    file, samples = Path(file), []
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
            raise ValueError(f"{file}, line {number}: {', '.join(COLUMNS)} must be texts that are not empty")
        samples.append((open_image(file.parent / image), question, answer))
    return samples
