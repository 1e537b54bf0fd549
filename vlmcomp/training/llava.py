"""llava-shapes: CLIP tower, two-layer projector and a Llama decoder with 4 KV heads."""

from __future__ import annotations

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

from vlmcomp.data.scenes import CANVAS
from vlmcomp.training.model_spec import (
    IMAGE_PROCESSOR_SETTINGS,
    VISION_CONFIG,
    PromptTemplate,
    TinyModelSpec,
    TrainPlan,
    greedy_generation_config,
    token_ids,
)

_PLAN = TrainPlan()


def _build(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    vision = CLIPVisionConfig(
        **VISION_CONFIG,
        patch_size=_PLAN.patch,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=640,
        num_hidden_layers=5,
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
        image_seq_length=(CANVAS // _PLAN.patch) ** 2,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = greedy_generation_config(tokenizer)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(**IMAGE_PROCESSOR_SETTINGS, do_center_crop=False),
        tokenizer=tokenizer,
        patch_size=_PLAN.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )
    return model, processor


LLAVA = TinyModelSpec(
    name="llava-shapes",
    special_tokens=("<pad>", "<s>", "</s>", "<image>"),
    pad_token="<pad>",
    bos_token="<s>",
    eos_token="</s>",
    build=_build,
    prompt_template=PromptTemplate("<image>", "<s>USER: <image>\n", "{question} ASSISTANT:", " {answer}"),
    plan=_PLAN,
)
