"""A real model's architecture at its true widths with random weights: for latency, memory and size, never for answers.

Nothing is downloaded. The model's own processor is stood in for by that of the embedded model of its family, set to
the real image size: as many image tokens as the real one's, and a prompt of fewer text tokens.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from vlmcomp.models import processor, registry
from vlmcomp.models.configs import SHAPES
from vlmcomp.models.loading import Dense
from vlmcomp.models.registry import ModelSpec

SIBLINGS = {
    "llava": "llava-shapes",
    "blip-2": "blip2-shapes",
    "paligemma": "paligemma-shapes",
    "qwen2_vl": "qwen2-vl-shapes",
    "qwen2_5_vl": "qwen2-vl-shapes",
    "qwen3_vl": "qwen2-vl-shapes",
}  # by family
_DEPTHS = ("num_hidden_layers", "depth")
_PLACES = ("fullatt_block_indexes", "deepstack_visual_indexes")  # layers of a tower, by number


def check(entry: ModelSpec, layers: int | None = None) -> None:
    """Raises ``ValueError`` where random weights make no sense, or there are fewer than one layer."""
    if entry.embedded:
        raise ValueError(f"{entry.name} has its weights here: leave out --weights random")
    if entry.family not in SIBLINGS:
        raise ValueError(f"{entry.name} has no embedded model of its family whose processor could stand in for its own")
    if layers is not None and layers < 1:
        raise ValueError(f"a model needs at least one layer, not {layers}")


def source(entry: ModelSpec, layers: int | None = None) -> str:
    """What a report says of such weights' origin."""
    depth = SHAPES[entry.name]["text_config"]["num_hidden_layers"]
    cut = f", {min(layers, depth)} of {depth} layers" if layers is not None and layers < depth else ""
    return f"the published shapes of {entry.source}{cut}"


def dense(entry: ModelSpec, layers: int | None = None) -> Dense:
    """The architecture with its weights still to be drawn (``load.Arrival`` draws them on the device).

    Args:
        layers: keep no more than so many in the decoder and in each tower, where memory is short.

    Raises:
        ValueError: what ``check`` refuses.
    """
    check(entry, layers)
    place = registry.find(SIBLINGS[entry.family]).location
    sibling = AutoConfig.from_pretrained(place)
    config = AutoConfig.for_model(entry.family, **_shallow(SHAPES[entry.name], layers))
    _take_token_ids(config, sibling)
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()  # emptied one by one, they have come apart
    model.generation_config = GenerationConfig.from_pretrained(place)
    return Dense(model.eval(), _reader(entry, config, place), None)


def _shallow(shapes: dict[str, Any], layers: int | None) -> dict[str, Any]:
    shapes = copy.deepcopy(shapes)
    for part in (v for k, v in shapes.items() if k.endswith("_config") and layers is not None):
        depth = next((name for name in _DEPTHS if name in part), _DEPTHS[0])
        part[depth] = min(layers, part.get(depth, layers))
        for name in _PLACES:
            if name in part:
                part[name] = [i for i in part[name] if i < layers] or [layers - 1]
    return shapes


def _take_token_ids(config: PreTrainedConfig, sibling: PreTrainedConfig) -> None:
    for mine, theirs in ((config, sibling), (config.get_text_config(), sibling.get_text_config())):
        for name in (n for n in theirs.to_dict() if n.endswith(("_token_id", "_token_index"))):
            setattr(mine, name, getattr(theirs, name))


def _reader(entry: ModelSpec, config: PreTrainedConfig, place: str) -> ProcessorMixin:
    reader, vision = processor.load(Path(place), entry.pixels), config.vision_config
    images = reader.image_processor
    if entry.pixels is None:
        images.size = {"height": vision.image_size, "width": vision.image_size}
    else:
        images.patch_size = vision.patch_size
    side = getattr(vision, "image_size", 0) // vision.patch_size
    settings = {
        "patch_size": vision.patch_size,
        "image_seq_length": side**2,
        "num_query_tokens": getattr(config, "num_query_tokens", None),
    }
    for name, value in settings.items():
        if entry.pixels is None and hasattr(reader, name):
            setattr(reader, name, value)
    if hasattr(images, "image_seq_length"):
        images.image_seq_length = side**2
    return reader
