"""Processors for image and text, with and without torchvision."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, ProcessorMixin
from transformers.models.auto.processing_auto import processor_class_from_name

_VIDEO = "video_processor"


@cache
def without_video_processor(processor_class: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """``processor_class`` without its video processor, under the same name.

    Video processors need torchvision, which image questions do not. A checkpoint saved with the result names the
    original class, so transformers with torchvision installed loads it.
    """
    if _VIDEO not in processor_class.get_attributes():
        return processor_class
    attributes = [name for name in processor_class.get_attributes() if name != _VIDEO]
    members = {"get_attributes": classmethod(lambda cls: attributes), "__module__": processor_class.__module__}
    return type(processor_class.__name__, (processor_class,), members)


def load(folder: Path, min_max_pixels: tuple[int, int] | None = None) -> ProcessorMixin:
    """The processor of the checkpoint in ``folder``; images are scaled to within ``min_max_pixels``.

    Raises:
        OSError: no processor, or it is damaged.
    """
    config, _ = ProcessorMixin.get_processor_dict(folder)
    class_name = config.get("processor_class")
    processor_class: Any
    if class_name is None:
        processor_class = AutoProcessor
    else:
        processor_class = without_video_processor(processor_class_from_name(class_name))
    processor = processor_class.from_pretrained(folder)
    if min_max_pixels is not None:
        shortest, longest = min_max_pixels
        processor.image_processor.size = {"shortest_edge": shortest, "longest_edge": longest}
    return processor
