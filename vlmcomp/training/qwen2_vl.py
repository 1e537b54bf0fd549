"""qwen2-vl-shapes: Qwen2-VL's vision transformer and merger, and its decoder with 2 KV heads and M-RoPE."""

from __future__ import annotations

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
)

from vlmcomp.data.scenes import CANVAS
from vlmcomp.models.processor import without_video_processor
from vlmcomp.training.model_spec import PromptTemplate, TinyModelSpec, TrainPlan, greedy_generation_config, token_ids

_PATCH = 8  # pixels a side of a patch
_MERGE = 2  # patches a side that become one image token
_PLAN = TrainPlan(patch=_PATCH * _MERGE, tower_steps=350, steps=800, easy_images=6, length=272)
_SPECIAL_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _build(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    ids = token_ids(tokenizer)
    vision = {
        "depth": 5,
        "embed_dim": 128,
        "hidden_size": 256,
        "mlp_ratio": 4,
        "num_heads": 4,
        "patch_size": _PATCH,
        "spatial_merge_size": _MERGE,
        "temporal_patch_size": 2,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 256,
        "intermediate_size": 640,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        **ids,
    }
    config = Qwen2VLConfig(
        vision_config=vision,
        text_config=text,
        tie_word_embeddings=True,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in _SPECIAL_TOKENS.items()},
    )
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config = greedy_generation_config(tokenizer)
    image_processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": CANVAS**2, "longest_edge": CANVAS**2},
        patch_size=_PATCH,
        merge_size=_MERGE,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor_class = without_video_processor(Qwen2VLProcessor)
    return model, processor_class(image_processor=image_processor, tokenizer=tokenizer, chat_template=_CHAT_TEMPLATE)


QWEN2_VL = TinyModelSpec(
    name="qwen2-vl-shapes",
    special_tokens=(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ),
    pad_token="<|endoftext|>",
    eos_token="<|im_end|>",
    build=_build,
    prompt_template=PromptTemplate(
        "<|image_pad|>",
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>",
        "{question}<|im_end|>\n<|im_start|>assistant\n",
        "{answer}",
    ),
    plan=_PLAN,
)
