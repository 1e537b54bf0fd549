"""Compression by calibration samples with the dense model's own answers: images and questions suffice."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from vlmcomp.compression import pipeline
from vlmcomp.data.bad_rows import BadRow
from vlmcomp.data.calibration_data import CalibrationSample
from vlmcomp.data.calibration_set import CalibrationSet
from vlmcomp.data.calibration_source import SELF
from vlmcomp.data.unicode_text import is_blank
from vlmcomp.feedback import Progress
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.engine import Engine

BATCH_SIZE = 8
_log = logging.getLogger(__name__)


def compress(
    recipe: Recipe,
    calibration: CalibrationSet | None,
    *,
    device: str | None = None,
    source: str | None = None,
    prompt_template: str | None = None,
    progress: Progress | None = None,
) -> VLM:
    """``pipeline.compress``, after the dense model has answered the questions of ``calibration`` if they are to be its
    own; it must then fit on the device.

    Args:
        recipe: what is built.
        calibration: what ``choose_calibration`` returned for it.
        device: as for ``pipeline.compress``, and so are the others.
        source: of the dense weights.
        prompt_template: of the dense weights.
        progress: called with a text and the fraction done.

    Raises:
        ValueError: as ``pipeline.compress``.
    """
    if calibration is not None and calibration.answers == SELF:
        dense = pipeline.compress(
            recipe.baseline, device=device, source=source, prompt_template=prompt_template, progress=progress
        )
        if progress is not None:
            progress("answering the calibration questions", 0.0)
        calibration = answer_questions(dense, calibration)
        del dense
    return pipeline.compress(
        recipe,
        device=device,
        source=source,
        prompt_template=prompt_template,
        calibration_data=calibration,
        progress=progress,
    )


def answer_questions(dense: VLM, calibration: CalibrationSet) -> CalibrationSet:
    """``calibration`` with the answers of ``dense``; samples that it says nothing to are left out and counted."""
    answered = with_own_answers(dense, calibration.samples)
    texts = dense.clean_texts([answer for *_, answer in answered])
    kept = [number for number, text in enumerate(texts) if not is_blank(text)]
    silent = [
        BadRow(None, f"calibration sample {number}: the original model does not answer {question!r}", number)
        for number, (_, question, _) in enumerate(answered)
        if is_blank(texts[number])
    ]
    if silent:
        _log.warning("%s; %d of %d samples are left out", silent[0].reason, len(silent), len(answered))
    return replace(
        calibration,
        samples=tuple(answered[number] for number in kept),
        weights=tuple(calibration.weights[number] for number in kept),
        skipped=(*calibration.skipped, *silent),
    )


def with_own_answers(dense: VLM, samples: Sequence[CalibrationSample]) -> list[CalibrationSample]:
    """``samples`` with the greedy answers of ``dense`` in place of their own (``compression.self_calibration``)."""
    engine = Engine(dense)
    answered: list[CalibrationSample] = []
    for start in range(0, len(samples), BATCH_SIZE):
        images, questions, _ = map(list, zip(*samples[start : start + BATCH_SIZE], strict=True))
        answered += zip(images, questions, engine.generate_batch(images, questions), strict=True)
    return answered
