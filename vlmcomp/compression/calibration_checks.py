"""Calibration data that say little: what is missing is logged, and stands in the record of the build."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from PIL import Image
from transformers import PreTrainedModel

from vlmcomp.compression.calibration import CalibrationBatch, TokenWeights
from vlmcomp.data.calibration_data import CalibrationSample
from vlmcomp.models import architecture

_log = logging.getLogger(__name__)


def check_calibration(
    model: PreTrainedModel,
    samples: Sequence[CalibrationSample],
    batches: Sequence[CalibrationBatch],
    token_weights: TokenWeights,
) -> list[str]:
    """Warn of samples that determine little. None of this is an error: least squares keeps near the original weights
    what the data do not determine.

    Args:
        model: before pruning.
        samples: what the batches are of; none for plain text.
        batches: of the samples.
        token_weights: which tokens count.

    Returns:
        The facts for the record; none if there is nothing to warn of.
    """
    facts: list[str] = []
    tokens = sum(int((weight > 0).sum()) for weight in token_weights.for_batches(batches))
    layer = architecture.decoder_layers(model)[0]
    width = max(layer.o_proj.in_features, layer.down_proj.in_features)
    if tokens < width:
        facts.append(f"{tokens:,} recorded tokens for a width of {width:,}")
        _log.warning(
            "calibration has %s recorded tokens, fewer than the width of %s that they are to determine: weights stay "
            "near the original ones where the tokens say nothing, and more samples preserve more",
            f"{tokens:,}",
            f"{width:,}",
        )
    if len({_digest(image) for image, _, _ in samples}) == 1:
        facts.append("one image")
        _log.warning("all %d calibration samples have the same image: they say nothing of others", len(samples))
    return facts


def _digest(image: Image.Image) -> bytes:
    return hashlib.sha256(repr((image.size, image.mode)).encode() + image.tobytes()).digest()
