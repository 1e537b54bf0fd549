"""Processors for image and text, with and without torchvision."""

from __future__ import annotations

from functools import cache

from transformers import AutoProcessor, ProcessorMixin
from transformers.models.auto.processing_auto import processor_class_from_name

_VIDEO = "video_processor"


@cache
def image_only(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """``kind`` without its video processor, under the same name.

    A video processor needs torchvision, which nothing here does: we ask about images. The checkpoint that such a
    processor writes names the stock class, so that stock loaders with torchvision take it.
    """
    if _VIDEO not in kind.get_attributes():
        return kind
    parts = [name for name in kind.get_attributes() if name != _VIDEO]
    return type(
        kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: parts), "__module__": kind.__module__}
    )


def load(place: str, revision: str | None = None) -> ProcessorMixin:
    """The processor that belongs to the checkpoint at ``place`` (folder or Hub id).

    Raises:
        OSError: there is none, or it cannot be had.
    """
    facts, _ = ProcessorMixin.get_processor_dict(place, revision=revision)
    name = facts.get("processor_class")
    if name is None:
        return AutoProcessor.from_pretrained(place, revision=revision)
    return image_only(processor_class_from_name(name)).from_pretrained(place, revision=revision)
