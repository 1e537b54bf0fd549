"""paligemma-shapes: SigLIP tower, linear projector and a Gemma decoder with one KV head, a prefix LM."""

from __future__ import annotations

from transformers import (
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
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

_PLAN = TrainPlan(patch=16, tower_steps=400, steps=800, easy_images=8)


def _build(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    image_processor = SiglipImageProcessorPil(**IMAGE_PROCESSOR_SETTINGS)
    image_processor.image_seq_length = (CANVAS // _PLAN.patch) ** 2
    processor = PaliGemmaProcessor(image_processor, tokenizer)  # adds its 1,152 location and segment tokens
    vision = SiglipVisionConfig(
        **VISION_CONFIG,
        patch_size=_PLAN.patch,
        vision_use_head=False,
    )
    text = GemmaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=640,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        **token_ids(tokenizer),
    )
    config = PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vocab_size=len(tokenizer),
        projection_dim=192,
        hidden_size=192,
    )
    model = PaliGemmaForConditionalGeneration(config)
    model.generation_config = greedy_generation_config(tokenizer)
    return model, processor


PALIGEMMA = TinyModelSpec(
    name="paligemma-shapes",
    special_tokens=("<pad>", "<eos>", "<bos>", "<image>"),
    pad_token="<pad>",
    bos_token="<bos>",
    eos_token="<eos>",
    build=_build,
    prompt_template=PromptTemplate(
        "<image>", "<image><bos>answer en", " {question}\n", "{answer}", is_prefix_lm=True, first_position=1
    ),
    plan=_PLAN,
)
