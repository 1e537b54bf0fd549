"""paligemma-shapes: SigLIP tower, linear projector and a Gemma decoder with one KV head; image and question see each
other."""

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
from vlmcomp.training.model_spec import IMAGES, TOWER, Blueprint, TrainPlan, Wording, greedy, token_ids

_PLAN = TrainPlan(patch=16, tower_steps=400, steps=800, easy_images=8)


def _make(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    image_processor = SiglipImageProcessorPil(**IMAGES)
    image_processor.image_seq_length = (CANVAS // _PLAN.patch) ** 2
    processor = PaliGemmaProcessor(image_processor, tokenizer)  # adds its 1,152 location and segment tokens
    vision = SiglipVisionConfig(
        **TOWER,
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
    model.generation_config = greedy(tokenizer)
    return model, processor


PALIGEMMA = Blueprint(
    name="paligemma-shapes",
    specials=("<pad>", "<eos>", "<bos>", "<image>"),
    pad="<pad>",
    start="<bos>",
    end="<eos>",
    make=_make,
    wording=Wording("<image>", "<image><bos>answer en", " {question}\n", "{answer}", prefix_lm=True, first=1),
    plan=_PLAN,
)
