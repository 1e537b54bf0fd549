"""A published model's architecture at its true widths with random weights: for latency, memory and size, not answers.

Nothing is downloaded. The processor is that of the bundled model of the same family, set to the real image size, or the
family's own class with the tokenizer of a bundled model: it gives as many image tokens as the model's own, and fewer
text tokens in a prompt.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    Idefics3Processor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from vlmcomp.feedback import format_count
from vlmcomp.models import processor, registry
from vlmcomp.models.configs import PUBLISHED_CONFIGS
from vlmcomp.models.loading import DenseModel
from vlmcomp.models.registry import ModelSpec

PROCESSOR_STANDINS = {
    "llava": "llava-shapes",
    "blip-2": "blip2-shapes",
    "paligemma": "paligemma-shapes",
    "qwen2_vl": "qwen2-vl-shapes",
    "qwen2_5_vl": "qwen2-vl-shapes",
    "qwen3_vl": "qwen2-vl-shapes",
    "idefics3": "llava-shapes",
}  # family -> bundled model
_MAX_TILES = 4  # a side, of an image that SmolVLM's processor cuts
_DEPTHS = ("num_hidden_layers", "depth")
_LAYER_INDICES = ("fullatt_block_indexes", "deepstack_visual_indexes")


def check_supported(spec: ModelSpec, num_layers: int | None = None) -> None:
    """Raises ``ValueError`` if random weights of ``spec`` make no sense, or ``num_layers`` is below one."""
    if spec.bundled:
        raise ValueError(f"{spec.name} comes with its weights: leave out --weights random")
    if num_layers is not None and num_layers < 1:
        raise ValueError(f"a model needs at least one layer, not {num_layers}")


def weights_description(spec: ModelSpec, num_layers: int | None = None) -> str:
    """The source of the weights as stated in reports."""
    depth = PUBLISHED_CONFIGS[spec.name]["text_config"]["num_hidden_layers"]
    truncated = num_layers is not None and num_layers < depth
    suffix = f", {min(num_layers, depth)} of {format_count(depth, 'layer')}" if truncated else ""
    return f"the published shapes of {spec.source}{suffix}"


def random_weights_model(
    spec: ModelSpec, num_layers: int | None = None, config_dict: dict[str, Any] | None = None
) -> DenseModel:
    """The architecture of ``spec`` on the meta device (``loading.SequentialLoader`` draws its weights).

    Args:
        spec: a published model.
        num_layers: at most so many layers in the decoder and in each tower, to save memory.
        config_dict: another config of the same family instead of the published one.

    Raises:
        ValueError: as in ``check_supported``.
    """
    check_supported(spec, num_layers)
    config_dict = PUBLISHED_CONFIGS[spec.name] if config_dict is None else config_dict
    standin = registry.get_model_spec(PROCESSOR_STANDINS[spec.family]).name_or_path
    config = AutoConfig.for_model(spec.family, **_truncate_depth(config_dict, num_layers))
    _copy_token_ids(config, AutoConfig.from_pretrained(standin))
    if spec.family == "idefics3":
        adapted = _tiling_processor(config, standin)
    else:
        adapted = _adapt_processor(spec, config, standin)
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()  # init_empty_weights unties them
    model.generation_config = GenerationConfig.from_pretrained(standin)
    return DenseModel(model.eval(), adapted, None)


def _truncate_depth(config: dict[str, Any], num_layers: int | None) -> dict[str, Any]:
    """``config`` with at most ``num_layers`` layers in each part; None keeps all."""
    config = copy.deepcopy(config)
    if num_layers is None:
        return config
    for part in (value for key, value in config.items() if key.endswith("_config")):
        depth = next((name for name in _DEPTHS if name in part), _DEPTHS[0])
        part[depth] = min(num_layers, part.get(depth, num_layers))
        for name in _LAYER_INDICES:
            if name in part:
                part[name] = [index for index in part[name] if index < num_layers] or [num_layers - 1]
    return config


def _copy_token_ids(config: PreTrainedConfig, source: PreTrainedConfig) -> None:
    """Set the special token ids of ``config`` and of its text config to those of ``source``."""
    pairs = ((config, source), (config.get_text_config(), source.get_text_config()))
    for target_config, source_config in pairs:
        for name in source_config.to_dict():
            if name.endswith(("_token_id", "_token_index")):
                setattr(target_config, name, getattr(source_config, name))


def _adapt_processor(spec: ModelSpec, config: PreTrainedConfig, standin: str) -> ProcessorMixin:
    """The processor of the bundled model ``standin``, set to the image size and patches of ``config``."""
    adapted = processor.load(Path(standin), config)
    if spec.min_max_pixels is None:
        side = config.vision_config.image_size
        adapted.image_processor.size = {"height": side, "width": side}
    else:
        shortest, longest = spec.min_max_pixels
        adapted.image_processor.size = {"shortest_edge": shortest, "longest_edge": longest}
    return adapted


def _tiling_processor(config: PreTrainedConfig, standin: str) -> ProcessorMixin:
    """Idefics3's processor with the tokenizer of ``standin``; its special tokens are added, and known to ``config``."""
    side = config.vision_config.image_size
    images = Idefics3ImageProcessorPil(size={"longest_edge": _MAX_TILES * side}, max_image_size={"longest_edge": side})
    tokenizer = AutoTokenizer.from_pretrained(standin)
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer.add_tokens(["<global-img>", *tiles], special_tokens=True)
    patches = (side // config.vision_config.patch_size) ** 2
    adapted = Idefics3Processor(images, tokenizer, image_seq_len=patches // config.scale_factor**2)
    config.image_token_id = adapted.image_token_id
    return adapted
