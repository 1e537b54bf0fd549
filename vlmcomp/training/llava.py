"""llava-shapes and llava-objects: CLIP tower, two-layer projector and a Llama decoder with 4 KV heads."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from vlmcomp.training.model_spec import (
    IMAGE_PROCESSOR_SETTINGS,
    VISION_CONFIG,
    PromptTemplate,
    TinyModelSpec,
    TrainPlan,
    greedy_generation_config,
    token_ids,
)
from vlmcomp.training.world import OBJECTS

_SHAPES_PLAN = TrainPlan()
_SHAPES_VISION = {**VISION_CONFIG, "patch_size": _SHAPES_PLAN.patch, "projection_dim": 128}
_SHAPES_TEXT = {"hidden_size": 192, "intermediate_size": 640, "num_hidden_layers": 5}

_OBJECTS_PLAN = TrainPlan(patch=16, tower_steps=8000, tower_lr=4e-3, steps=5600, easy_images=2, tower_scale=0.1)
_OBJECTS_VISION = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": OBJECTS.canvas,
    "patch_size": _OBJECTS_PLAN.patch,
    "projection_dim": 256,
}
# The MLPs are narrow, half as wide as usual: without a third of the neurons, no more remain than the hidden size has
# dimensions, and least squares cannot make up for the rest. All widths are multiples of 128.
_OBJECTS_TEXT = {"hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 5}


def _build(
    vision_config: dict[str, Any], text_config: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> tuple[PreTrainedModel, ProcessorMixin]:
    vision = CLIPVisionConfig(**vision_config)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        **text_config,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        **token_ids(tokenizer),
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = greedy_generation_config(tokenizer)
    size = {"height": vision.image_size, "width": vision.image_size}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(**{**IMAGE_PROCESSOR_SETTINGS, "size": size}, do_center_crop=False),
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )
    return model, processor


_TEMPLATE = PromptTemplate("<image>", "<s>USER: <image>\n", "{question} ASSISTANT:", " {answer}")
LLAVA = TinyModelSpec(
    name="llava-shapes",
    special_tokens=("<pad>", "<s>", "</s>", "<image>"),
    pad_token="<pad>",
    bos_token="<s>",
    eos_token="</s>",
    build=partial(_build, _SHAPES_VISION, _SHAPES_TEXT),
    prompt_template=_TEMPLATE,
    plan=_SHAPES_PLAN,
)
LLAVA_OBJECTS = TinyModelSpec(
    name="llava-objects",
    special_tokens=LLAVA.special_tokens,
    pad_token=LLAVA.pad_token,
    bos_token=LLAVA.bos_token,
    eos_token=LLAVA.eos_token,
    build=partial(_build, _OBJECTS_VISION, _OBJECTS_TEXT),
    prompt_template=_TEMPLATE,
    plan=_OBJECTS_PLAN,
    world=OBJECTS,
    vocab_size=1920,
)
