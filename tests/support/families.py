"""A checkpoint of every real family at tiny width, laid out as on the Hub: sharded float16 weights with an index,
processor files and, where the family has one, a chat template. The weights are random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Gemma2Config,
    Idefics3Config,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
)

from vlmcomp.models.processor import without_video_processor
from vlmcomp.training.blip2 import BLIP2
from vlmcomp.training.llava import LLAVA
from vlmcomp.training.model_spec import TinyModelSpec, token_ids, train_tokenizer
from vlmcomp.training.paligemma import PALIGEMMA
from vlmcomp.training.qwen2_vl import QWEN2_VL

TEXT = ("USER: Question: answer en What color is the shape? ASSISTANT: Answer: red blue circle yes no assistant\n",)
Made = tuple[PreTrainedModel, ProcessorMixin]


def _paligemma2(tokenizer: PreTrainedTokenizerFast) -> Made:
    model, processor = PALIGEMMA.build(tokenizer)
    old = model.config.text_config
    shared = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "head_dim")
    text = Gemma2Config(
        **{name: getattr(old, name) for name in shared},
        **token_ids(tokenizer),
        num_key_value_heads=4,
        num_hidden_layers=2,
        query_pre_attn_scalar=32,
        sliding_window=64,
    )
    model.config.text_config = text
    return type(model)(AutoConfig.for_model(**model.config.to_dict())), processor


def _qwen(kind: str, processor_kind: Any, vision: dict[str, Any], text: dict[str, Any]) -> Callable[..., Made]:
    def make(tokenizer: PreTrainedTokenizerFast) -> Made:
        model, processor = QWEN2_VL.build(tokenizer)
        config = model.config.to_dict()
        patch = vision.get("patch_size", 8)
        shape = {"model_type": kind, "tie_word_embeddings": True}
        ids = {k: v for k, v in config.items() if k.endswith("token_id") and k[:5] in ("image", "video", "visio")}
        old = {k: config["text_config"][k] for k in ("vocab_size", "hidden_size", "intermediate_size")}
        rope = {"rope_parameters": config["text_config"]["rope_parameters"]}
        heads = {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4}
        shape |= {"text_config": {**old, **rope, **heads, **token_ids(tokenizer), **text}, "vision_config": vision}
        images = processor.image_processor
        images.patch_size, images.size = patch, {"shortest_edge": (12 * patch) ** 2, "longest_edge": (12 * patch) ** 2}
        made = without_video_processor(processor_kind)(
            image_processor=images, tokenizer=tokenizer, chat_template=processor.chat_template
        )
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(**shape, **ids)), made

    return make


_VISION25 = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "out_hidden_size": 256,
    "patch_size": 8,
    "window_size": 32,
    "fullatt_block_indexes": [1],
}
_VISION3 = {
    "depth": 3,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "out_hidden_size": 256,
    "patch_size": 8,
    "num_position_embeddings": 144,
    "deepstack_visual_indexes": [0, 1],
}


def _smolvlm(tokenizer: PreTrainedTokenizerFast) -> Made:
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 4, "num_attention_heads": 8}
    text |= {"num_key_value_heads": 4, "vocab_size": len(tokenizer), **token_ids(tokenizer)}
    config = Idefics3Config(
        vision_config={**vision, "image_size": 32, "patch_size": 8},
        text_config={"model_type": "llama", **text},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    images = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return AutoModelForImageTextToText.from_config(config), Idefics3Processor(images, tokenizer, image_seq_len=4)


SMOLVLM = replace(
    LLAVA,
    special_tokens=(
        *("<pad>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"),
        *(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)),
    ),
    pad_token="<pad>",
    bos_token=None,
    eos_token="<end_of_utterance>",
)
FAMILIES: dict[str, tuple[TinyModelSpec, Callable[[PreTrainedTokenizerFast], Made]]] = {
    "llava-1.5-7b": (LLAVA, LLAVA.build),
    "blip2-opt-2.7b": (BLIP2, BLIP2.build),
    "paligemma-3b": (PALIGEMMA, PALIGEMMA.build),
    "paligemma2-3b": (PALIGEMMA, _paligemma2),
    "qwen2-vl-2b": (QWEN2_VL, QWEN2_VL.build),
    "qwen2.5-vl-3b": (QWEN2_VL, _qwen("qwen2_5_vl", Qwen2_5_VLProcessor, _VISION25, {})),
    "smolvlm-256m": (SMOLVLM, _smolvlm),
    "qwen3-vl-2b": (QWEN2_VL, _qwen("qwen3_vl", Qwen3VLProcessor, _VISION3, {"head_dim": 32})),
}


def write(name: str, folder: Path) -> Path:
    """The checkpoint of the real model ``name`` at tiny width, in ``folder``."""
    blueprint, make = FAMILIES[name]
    torch.manual_seed(0)
    model, processor = make(train_tokenizer(blueprint, TEXT))
    with torch.no_grad():
        for path, weight in model.named_parameters():  # random weights whose answers differ
            if weight.ndim == 2 and "layers" in path:
                weight.mul_(4)
    model.half().save_pretrained(folder, max_shard_size="2MB")
    processor.save_pretrained(folder)
    return folder
