"""A trial of a processor on two images: its settings and the model's config are of one model, or refused in one
sentence."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedConfig, ProcessorMixin

from vlmcomp.feedback import error_summary, is_out_of_memory
from vlmcomp.models.weight_files import UnusableWeights

_IMAGE_SIZES = ((84, 28), (56, 84))  # of different shapes, which processors scale, cut or pad to one
_FROM = "use the preprocessor_config.json and processor_config.json that belong to these weights"
_ANY_SIZE = ("pixtral",)  # vision towers whose config has a size that images may have, and not the one they have


def try_processor(processor: ProcessorMixin, config: PreTrainedConfig, prompt: str) -> None:
    """Check that a processor gives what the model of ``config`` takes.

    Args:
        processor: of the model.
        config: of the model.
        prompt: the model's prompt, of an empty question.

    Raises:
        UnusableWeights: it fails, or its images or tokens do not fit the model.
    """
    images = [Image.new("RGB", size) for size in _IMAGE_SIZES]
    for batch in (images[:1], images):
        pixels, tokens = _process(processor, batch, prompt)
        if wrong := _wrong_size(pixels, config):
            raise UnusableWeights(f"{wrong}: {_FROM}")
        if not pixels.isfinite().all():
            raise UnusableWeights(f"its images contain NaN or infinity, as by an image_std of 0: {_FROM}")
    last, known = int(tokens.max()), config.get_text_config().vocab_size
    if last >= known:
        text = processor.tokenizer.convert_ids_to_tokens(last)
        raise UnusableWeights(
            f"its prompts have the token {text}, and the model knows {known}: use the tokenizer and the prompt of "
            "these weights"
        )


def _process(processor: Any, images: list[Image.Image], prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and token ids of a batch."""
    try:
        inputs = processor(images=images, text=[prompt] * len(images), return_tensors="pt", padding=True)
        return inputs["pixel_values"], inputs["input_ids"]
    except Exception as error:  # each class fails in its own way
        if isinstance(error, ImportError | MemoryError) or is_out_of_memory(error):
            raise
        raise UnusableWeights(f"its settings do not fit together ({error_summary(error)}): {_FROM}") from error


def _wrong_size(pixels: torch.Tensor, config: PreTrainedConfig) -> str:
    """How the images differ from those that the vision tower takes; empty if they do not, or if it takes any."""
    vision = config.vision_config
    side = getattr(vision, "image_size", None)
    if not isinstance(side, int) or vision.model_type in _ANY_SIZE or tuple(pixels.shape[-2:]) == (side, side):
        return ""
    height, width = pixels.shape[-2:]
    return f"its images have {width} x {height} pixels, and the model takes {side} x {side}"
