"""Processors for image and text, with and without torchvision."""

from __future__ import annotations

from functools import cache
from pathlib import Path

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


def load(folder: Path, pixels: tuple[int, int] | None = None) -> ProcessorMixin:
    """The processor of the checkpoint in ``folder``; ``pixels``: fewest and most that an image is scaled to.

    Raises:
        OSError: there is none, or it is damaged.
    """
    facts, _ = ProcessorMixin.get_processor_dict(folder)
    name = facts.get("processor_class")
    kind = AutoProcessor if name is None else image_only(processor_class_from_name(name))
    reader = kind.from_pretrained(folder)
    if pixels is not None:
        reader.image_processor.size = {"shortest_edge": pixels[0], "longest_edge": pixels[1]}
    return reader
