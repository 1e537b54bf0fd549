"""blip2-shapes: ViT, Q-Former with 32 queries, and an OPT decoder, whose MLP is not gated and has biases."""

from __future__ import annotations

import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessorPil,
    OPTConfig,
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

_PLAN = TrainPlan(tower_steps=400, steps=900, easy_images=6, length=272)
_QUERIES = 32


def _build(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    vision = Blip2VisionConfig(
        **VISION_CONFIG,
        patch_size=_PLAN.patch,
        initializer_range=0.02,
    )
    qformer = Blip2QFormerConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        cross_attention_frequency=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    text = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        word_embed_proj_dim=256,
        ffn_dim=640,
        num_hidden_layers=4,
        num_attention_heads=8,
        max_position_embeddings=512,
        dropout=0.0,
        **token_ids(tokenizer),
    )
    config = Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=_QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():  # the default of zeros would make all queries the same
        model.query_tokens.normal_(0.0, 0.5)
    model.generation_config = model.language_model.generation_config = greedy_generation_config(tokenizer)
    image_processor = BlipImageProcessorPil(**IMAGE_PROCESSOR_SETTINGS)
    return model, Blip2Processor(image_processor, tokenizer, num_query_tokens=_QUERIES)


BLIP2 = TinyModelSpec(
    name="blip2-shapes",
    special_tokens=("<s>", "<pad>", "</s>", "<image>"),
    pad_token="<pad>",
    bos_token="</s>",  # as in OPT's tokenizer
    eos_token="</s>",
    build=_build,
    prompt_template=PromptTemplate("<image>", "<image></s>Question:", " {question} Answer:", " {answer}"),
    plan=_PLAN,
)
