"""Attention of one token on a GPU by Triton's kernel, in place of PyTorch's: as transformers' attention function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "vlmcomp"
_ELSE = ("softcap", "position_bias", "s_aux")  # what changes the logits in a way that the kernel does not know


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """A batch or a prompt that is asked for meanwhile goes PyTorch's way."""
    single = query.shape[0] == query.shape[2] == 1 and attention_mask is not None and attention_mask.shape[-2] == 1
    if not single or any(kwargs.get(name) is not None for name in _ELSE):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    from vlmcomp import triton_attention  # what has no GPU may not have Triton

    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return triton_attention.attend(query, key, value, attention_mask, scale).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attend)


@contextmanager
def by_kernel(text: PreTrainedConfig) -> Iterator[None]:
    """While this lasts the decoder whose settings ``text`` are attends by the kernel."""
    before = text._attn_implementation
    text._attn_implementation = NAME
    try:
        yield
    finally:
        text._attn_implementation = before
