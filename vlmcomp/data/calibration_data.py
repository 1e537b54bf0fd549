"""Calibration samples (image, question, answer): synthetic scenes of shapes, and the user's own files and objects."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from vlmcomp.data.bad_rows import BadRow, check_choice, refuse
from vlmcomp.data.calibration_source import ANSWER, GIVEN, IMAGE, QUESTION, SELF
from vlmcomp.data.images import IMAGE_PLACEHOLDER, has_text, open_image
from vlmcomp.data.json_lines import parse_object, read_lines
from vlmcomp.data.questions import sample_question
from vlmcomp.data.scenes import render_scene, sample_scene
from vlmcomp.data.tasks import majority_answer
from vlmcomp.data.unicode_text import clean

CalibrationSample: TypeAlias = tuple[Image.Image, str, str]  # image, question, answer
CheckedSamples: TypeAlias = tuple[list[CalibrationSample], list[BadRow]]  # those to use, those that were skipped
CALIBRATION_SEED = 0
COLUMNS = f"{IMAGE}, {QUESTION} and {ANSWER}"  # of a calibration file
DEFAULT_QUESTION = "Describe the image."  # about images that come without one


def synthetic_calibration_data(count: int, seed: int = CALIBRATION_SEED) -> Iterator[CalibrationSample]:
    """Samples over random scenes of shapes; no training or test split shares their seeds."""
    rng = random.Random(f"calibrate-{seed}")
    for _ in range(count):
        scene = sample_scene(rng)
        question = sample_question(rng, scene)
        yield render_scene(scene), question.text, question.answer


def load_calibration_file(file: str | Path, bad_rows: str = "error", answers: str = GIVEN) -> CheckedSamples:
    """The samples of a JSON Lines file; image paths are relative to it.

    Args:
        file: one object a line with ``image``, ``question`` and ``answer``, or ``answers`` of several people, of which
            the most common is taken.
        bad_rows: what to do with lines that cannot be used, one of ``BAD_ROWS``.
        answers: one of ``ANSWERS``; ``self`` requires the column ``image`` alone.

    Returns:
        The samples, and the lines that were skipped.

    Raises:
        ValueError: no such file, or lines that have not the columns or an unreadable image and may not be skipped.
    """
    file = Path(file)
    try:
        lines = read_lines(file)
    except OSError as error:
        raise ValueError(f"the calibration file {file} cannot be read: {error}") from None
    rows = [(f"{file}, line {number}", partial(_parse_line, file, line, answers)) for number, line in lines]
    return _collect(rows, bad_rows)


def load_images(images: Sequence[Path], bad_rows: str = "error") -> CheckedSamples:
    """Samples of image files alone: the original model answers ``DEFAULT_QUESTION`` about each."""
    return _collect([(str(file), partial(_open_sample, file, SELF)) for file in images], bad_rows)


def open_calibration_samples(data: Iterable[Any], bad_rows: str = "error", answers: str = GIVEN) -> CheckedSamples:
    """The samples of ``data`` with their images opened.

    Args:
        data: (image, question, answer) triples; images are what ``open_image`` accepts.
        bad_rows: what to do with samples that cannot be used, one of ``BAD_ROWS``.
        answers: one of ``ANSWERS``; ``self`` allows (image, question) pairs and images too.

    Returns:
        The samples, and those that were skipped.

    Raises:
        ValueError: samples are no triples or their images cannot be read, and they may not be skipped.
    """
    rows = [(f"calibration sample {n}", partial(_open_sample, sample, answers)) for n, sample in enumerate(data)]
    return _collect(rows, bad_rows)


def fill_in(question: str | None, answer: str | None, answers: str) -> tuple[str, str]:
    """The texts of a sample, as a model is given them; what the original model needs not be given is filled in.

    Raises:
        ValueError: the answers are to be given, and a text is missing or blank.
    """
    question, answer = (clean(text or "", (IMAGE_PLACEHOLDER,)) for text in (question, answer))
    if answers == SELF:
        return question if has_text(question) else DEFAULT_QUESTION, ""
    if not has_text(question) or not has_text(answer):
        raise ValueError(f"it has no {ANSWER if has_text(question) else QUESTION}")
    return question, answer


def _collect(rows: Sequence[tuple[str, Callable[[], CalibrationSample]]], bad_rows: str) -> CheckedSamples:
    """The samples of ``rows``: what names each of them in an error, and a function that may raise ``ValueError``."""
    check_choice(bad_rows)
    samples: list[CalibrationSample] = []
    bad: list[BadRow] = []
    for number, (name, read) in enumerate(rows):
        try:
            samples.append(read())
        except ValueError as error:
            bad.append(BadRow(None, f"{name}: {error}", number))
    refuse(bad, len(rows), bad_rows)
    return samples, bad


def _open_sample(sample: Any, answers: str) -> CalibrationSample:
    parts = tuple(sample) if isinstance(sample, tuple | list) else (sample,)
    if answers == SELF and 1 <= len(parts) <= 3:
        question = parts[1] if len(parts) > 1 else DEFAULT_QUESTION
        if not has_text(question):
            raise ValueError("its question must be a non-empty string")
        return open_image(parts[0]), question, ""
    if len(parts) != 3:
        raise ValueError("it is not (image, question, answer)")
    image, question, answer = parts
    if not has_text(question) or not has_text(answer):
        raise ValueError("its question and answer must be non-empty strings")
    return open_image(image), question, answer


def _parse_line(file: Path, line: str, answers: str) -> CalibrationSample:
    row = parse_object(line, COLUMNS)
    people = row.get("answers")
    if ANSWER not in row and isinstance(people, list) and all(isinstance(text, str) for text in people):
        row[ANSWER] = majority_answer(people)
    needed = (IMAGE, QUESTION, ANSWER) if answers == GIVEN else (IMAGE,)
    if missing := [column for column in needed if column not in row]:
        raise ValueError(f"it must be a JSON object with {', '.join(needed)}, and has no {missing[0]}")
    image = row[IMAGE]
    if not isinstance(image, str) or not image.strip():
        raise ValueError(f"{', '.join(needed)} must be non-empty strings")
    if answers == SELF:
        return _open_sample((file.parent / image, *([row[QUESTION]] if QUESTION in row else [])), SELF)
    return _open_sample((file.parent / image, row[QUESTION], row[ANSWER]), GIVEN)


def short_digest(samples: Iterable[CalibrationSample]) -> str:
    """``sha256:`` and 16 hex digits over pixels and texts: what a pruned model was calibrated on."""
    digest = hashlib.sha256()
    for image, question, answer in samples:
        upright = open_image(image)
        digest.update(json.dumps([upright.size, question, answer]).encode())
        digest.update(upright.tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"
