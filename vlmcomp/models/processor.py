"""Processors for image and text, from every layout of files: those of transformers 5 and those of older repositories.

The model's config decides what both know, such as the number of image tokens: older processors lack these facts.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from vlmcomp.feedback import format_count
from vlmcomp.models.processor_files import check_processor_files

_VIDEO = "video_processor"
_IMAGE_TOKENS = {"llava": "<image>"}  # of families whose processors do not add it to a tokenizer that lacks it
_log = logging.getLogger(__name__)


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


def load(folder: Path, config: PreTrainedConfig, min_max_pixels: tuple[int, int] | None = None) -> ProcessorMixin:
    """The processor of the checkpoint in ``folder``, with Pillow's image processing on every machine.

    Args:
        folder: with the files of a processor and a tokenizer.
        config: of the model.
        min_max_pixels: bounds that images are scaled to, within those of the checkpoint where the two overlap.

    Raises:
        OSError: a damaged file.
        ValueError: a missing file, or a tokenizer without tokens to pad with.
    """
    check_processor_files(folder)
    settings, _ = ProcessorMixin.get_processor_dict(folder)
    settings.pop(_VIDEO, None)
    image_processor = AutoImageProcessor.from_pretrained(folder, config=config, backend="pil")
    for name, value in _image_processor_facts(config).items():
        setattr(image_processor, name, value)
    if min_max_pixels is not None:
        _limit_pixels_(image_processor, min_max_pixels)
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config)
    _complete_tokenizer_(tokenizer, config)
    processor_class: Any = without_video_processor(PROCESSOR_MAPPING[type(config)])
    return processor_class.from_args_and_dict([image_processor, tokenizer], settings | _processor_facts(config))


def match_tokens_(processor: Any, config: PreTrainedConfig) -> None:
    """Check that model and processor mean the same tokens. The image token is written to a ``config`` that names none.

    Raises:
        ValueError: they are of different models.
    """
    token = str(processor.image_token)
    token_id = processor.tokenizer.convert_tokens_to_ids(token)
    if config.image_token_id is None:
        config.image_token_id = token_id
    if config.image_token_id != token_id:
        raise ValueError(
            f"the image token {token} is {token_id} in the tokenizer and {config.image_token_id} in config.json: "
            "both must be of one model"
        )
    num_embeddings = config.get_text_config().vocab_size
    if token_id >= num_embeddings:
        raise ValueError(
            f"the image token {token} is {token_id} in the tokenizer, and the model knows {num_embeddings}"
        )
    _check_vocabulary(processor.tokenizer, num_embeddings)


def special_tokens(processor: ProcessorMixin) -> list[str]:
    """The texts that tokenizer or processor turn into something else than text, longest first."""
    tokenizer = processor.tokenizer
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    own = (str(value) for name, value in vars(processor).items() if name.endswith(("_token", "_tag")) and value)
    return sorted({*tokenizer.all_special_tokens, *added, *own}, key=len, reverse=True)


def _image_processor_facts(config: PreTrainedConfig) -> dict[str, int]:
    """Attributes of the image processor that follow from the model's config."""
    vision = config.vision_config
    if config.model_type == "paligemma":
        return {"image_seq_length": _num_patches(vision)}
    if hasattr(vision, "spatial_merge_size"):
        names = {"patch_size": "patch_size", "temporal_patch_size": "temporal_patch_size"}
        names["merge_size"] = "spatial_merge_size"
        return {name: getattr(vision, source) for name, source in names.items()}
    return {}


def _processor_facts(config: PreTrainedConfig) -> dict[str, Any]:
    """Attributes of the processor that follow from the model's config."""
    vision = config.vision_config
    if config.model_type == "llava":
        return {
            "patch_size": vision.patch_size,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
            "num_additional_image_tokens": int(vision.model_type == "clip_vision_model"),  # its class token
        }
    if config.model_type == "blip-2":
        return {"num_query_tokens": config.num_query_tokens}
    if config.model_type == "idefics3":
        return {"image_seq_len": _num_patches(vision) // config.scale_factor**2}
    return {}


def _num_patches(vision: PreTrainedConfig) -> int:
    return (vision.image_size // vision.patch_size) ** 2


def _limit_pixels_(image_processor: Any, min_max_pixels: tuple[int, int]) -> None:
    size = image_processor.size
    if size["shortest_edge"] is None or size["longest_edge"] is None:
        raise ValueError(
            "the size in preprocessor_config.json or processor_config.json has no shortest_edge and longest_edge, the "
            "pixels of the smallest and the largest image: use that of the model that it was fine-tuned from"
        )
    shortest = max(min_max_pixels[0], size["shortest_edge"])
    longest = min(min_max_pixels[1], size["longest_edge"])
    if shortest <= longest:
        image_processor.size = {"shortest_edge": shortest, "longest_edge": longest}


def _complete_tokenizer_(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Give ``tokenizer`` a padding token that the model knows, and its image token; prompts get no end token.

    Raises:
        ValueError: the model knows neither its padding token nor its end token.
    """
    known = config.get_text_config().vocab_size
    image_token = _IMAGE_TOKENS.get(config.model_type)
    if image_token and image_token not in tokenizer.get_vocab() and len(tokenizer) == config.image_token_id:
        tokenizer.add_tokens([image_token], special_tokens=True)
    image_token_id = config.image_token_id
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is None or pad >= known or pad == image_token_id:
        if end is None or end >= known or end == image_token_id:
            raise ValueError(
                "the tokenizer names neither a padding token nor an end token that the model knows: name a token "
                f"with an id below {known}, but not the image token, as pad_token in tokenizer_config.json"
            )
        _log.warning(
            "the tokenizer names no padding token of the model: batches are padded with %s", tokenizer.eos_token
        )
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(tokenizer, "add_eos_token", False):  # a setting for training
        tokenizer.add_eos_token = False


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase, known: int) -> None:
    """Raises ``ValueError`` if texts can have tokens beyond the ``known`` ones; special tokens of questions are
    replaced, and those of the prompt are tried (``processor_trial``)."""
    special = {*tokenizer.all_special_tokens}
    special |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    unknown = [t for t, token_id in tokenizer.get_vocab().items() if token_id >= known and t not in special]
    if unknown:
        raise ValueError(
            f"the tokenizer has {format_count(len(unknown), 'token')} that the model, which knows {known}, does not, "
            f"such as {min(unknown)}: use the tokenizer of these weights, or weights with embeddings resized for it"
        )
