"""Calibration samples with the dense model's own answers: images and questions suffice."""

from __future__ import annotations

from collections.abc import Sequence

from vlmcomp.data.calibration_data import CalibrationSample
from vlmcomp.models.vlm import VLM
from vlmcomp.runtime.engine import Engine

BATCH_SIZE = 8


def with_own_answers(dense: VLM, samples: Sequence[CalibrationSample]) -> list[CalibrationSample]:
    """``samples`` with the greedy answers of ``dense`` in place of their own (``compression.self_calibration``)."""
    engine = Engine(dense)
    answered: list[CalibrationSample] = []
    for start in range(0, len(samples), BATCH_SIZE):
        images, questions, _ = map(list, zip(*samples[start : start + BATCH_SIZE], strict=True))
        answered += zip(images, questions, engine.generate_batch(images, questions), strict=True)
    return answered
