"""Calibration samples (image, question, answer): synthetic scenes of shapes, or the user's own file."""

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
from vlmcomp.data.images import has_text, open_image
from vlmcomp.data.json_lines import parse_object, read_lines
from vlmcomp.data.questions import sample_question
from vlmcomp.data.scenes import render_scene, sample_scene

CalibrationSample: TypeAlias = tuple[Image.Image, str, str]  # image, question, answer
CheckedSamples: TypeAlias = tuple[list[CalibrationSample], list[BadRow]]  # those to use, those that were skipped
CALIBRATION_SEED = 0
COLUMNS = ("image", "question", "answer")  # of a calibration file


def synthetic_calibration_data(count: int, seed: int = CALIBRATION_SEED) -> Iterator[CalibrationSample]:
    """Samples over random scenes of shapes; no training or test split shares their seeds."""
    rng = random.Random(f"calibrate-{seed}")
    for _ in range(count):
        scene = sample_scene(rng)
        question = sample_question(rng, scene)
        yield render_scene(scene), question.text, question.answer


def load_calibration_file(file: str | Path, bad_rows: str = "error") -> CheckedSamples:
    """The samples of a JSON Lines file; image paths are relative to it.

    Args:
        file: one object with ``COLUMNS`` a line.
        bad_rows: what to do with lines that cannot be used, one of ``BAD_ROWS``.

    Returns:
        The samples, and the lines that were skipped.

    Raises:
        ValueError: no such file, or lines that have not the three columns or an unreadable image and may not be
            skipped.
    """
    file = Path(file)
    try:
        lines = read_lines(file)
    except OSError as error:
        raise ValueError(f"the calibration file {file} cannot be read: {error}") from None
    return _collect([(f"{file}, line {number}", partial(_parse_line, file, line)) for number, line in lines], bad_rows)


def open_calibration_samples(data: Iterable[Any], bad_rows: str = "error") -> CheckedSamples:
    """The samples of ``data`` with their images opened.

    Args:
        data: (image, question, answer) triples; images are what ``open_image`` accepts.
        bad_rows: what to do with samples that cannot be used, one of ``BAD_ROWS``.

    Returns:
        The samples, and those that were skipped.

    Raises:
        ValueError: samples are no triples or their images cannot be read, and they may not be skipped.
    """
    rows = [(f"calibration sample {number}", partial(_open_sample, sample)) for number, sample in enumerate(data)]
    return _collect(rows, bad_rows)


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


def _open_sample(sample: Any) -> CalibrationSample:
    if not isinstance(sample, tuple | list) or len(sample) != 3:
        raise ValueError("it is not (image, question, answer)")
    image, question, answer = sample
    if not has_text(question) or not has_text(answer):
        raise ValueError("its question and answer must be non-empty strings")
    return open_image(image), question, answer


def _parse_line(file: Path, line: str) -> CalibrationSample:
    row = parse_object(line, ", ".join(COLUMNS))
    if missing := [column for column in COLUMNS if column not in row]:
        raise ValueError(f"it must be a JSON object with {', '.join(COLUMNS)}, and has no {missing[0]}")
    image, question, answer = (row[column] for column in COLUMNS)
    if not isinstance(image, str) or not image.strip():
        raise ValueError(f"{', '.join(COLUMNS)} must be non-empty strings")
    return _open_sample((file.parent / image, question, answer))


def short_digest(samples: Iterable[CalibrationSample]) -> str:
    """``sha256:`` and 16 hex digits over pixels and texts: what a pruned model was calibrated on."""
    digest = hashlib.sha256()
    for image, question, answer in samples:
        upright = open_image(image)
        digest.update(json.dumps([upright.size, question, answer]).encode())
        digest.update(upright.tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"
