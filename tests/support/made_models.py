"""Small random models of the real classes, for laws that need no trained weights."""

from __future__ import annotations

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration


def tiny_llava(
    *, layers: int = 2, heads: int = 8, groups: int = 8, head_dim: int = 16, width: int = 256, vocabulary: int = 100
) -> LlavaForConditionalGeneration:
    """Hidden 128 with heads of 16; the same weights every time."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=12
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=heads * head_dim,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=head_dim,
        initializer_range=0.1,
    )
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_id=99)).eval()


def token_ids(count: int = 16, length: int = 24) -> torch.Tensor:
    """(count, length) of text."""
    return torch.randint(0, 90, (count, length), generator=torch.Generator().manual_seed(0))
