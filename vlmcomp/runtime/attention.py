"""Single-query attention for decoding, where PyTorch's SDPA is slow, as attention functions of transformers.

A GPU uses the Triton kernel. A CPU without 16-bit matrix instructions uses two products in float32, on keys and values
that are widened into one buffer layer after layer: allocating memory for each layer costs more than the arithmetic.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from vlmcomp.runtime import autotune
from vlmcomp.runtime import triton as kernels
from vlmcomp.runtime.linear import gpu as gpu_linear

# Names of attention functions, as in a config's ``_attn_implementation``.
PYTORCH = "sdpa"
TRITON = "vlmcomp-triton"
FLOAT32 = "vlmcomp-float32"
_UNSUPPORTED = ("softcap", "position_bias", "s_aux")  # arguments that change the logits: SDPA handles them
# Shapes of the timing: enough layers that their caches are read from memory.
_HEADS = 16
_SLOTS = 896
_HEAD_DIM = 128
_LAYERS = 8
_ROUNDS = 5


def select_attention(device: torch.device, dtype: torch.dtype) -> str:
    """Name of the fastest attention function for a step in ``dtype`` on ``device``."""
    if gpu_linear.triton_available(device):
        return TRITON
    if device.type == "cpu" and dtype == torch.bfloat16 and float32_attention_is_faster():
        return FLOAT32
    return PYTORCH


class Float32KVBuffer:
    """One layer's keys and values in float32; all layers use the same memory in turn."""

    def __init__(self) -> None:
        self._buffer: tuple[torch.Tensor, torch.Tensor] | None = None

    def widen(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``keys`` and ``values`` in float32, valid until the next call."""
        if self._buffer is None or self._buffer[0].shape != keys.shape:
            self._buffer = torch.empty_like(keys, dtype=torch.float32), torch.empty_like(values, dtype=torch.float32)
        wide_keys, wide_values = self._buffer
        wide_keys.copy_(keys)
        wide_values.copy_(values)
        return self._buffer


_current_buffer: ContextVar[Float32KVBuffer] = ContextVar("float32_kv_buffer")


@contextmanager
def use_attention(name: str, text_config: PreTrainedConfig, buffer: Float32KVBuffer) -> Iterator[None]:
    """Inside the context the decoder of ``text_config`` uses the attention function ``name``."""
    previous = text_config._attn_implementation
    token = _current_buffer.set(buffer)
    text_config._attn_implementation = name
    try:
        yield
    finally:
        text_config._attn_implementation = previous
        _current_buffer.reset(token)


@cache
def float32_attention_is_faster() -> bool:
    """Whether single-query attention is faster in float32 than in bfloat16 on this CPU; timed once a machine."""

    def is_valid(times: dict[str, list[float]]) -> bool:
        return len(times["16"]) == len(times["32"]) == _ROUNDS

    times = autotune.measure_once("attention", _time_attention, is_valid)
    return statistics.median(times["32"]) < statistics.median(times["16"])


@torch.inference_mode()
def _time_attention() -> dict[str, list[float]]:
    """Milliseconds of all layers' attention in 16 and in 32 bits, of each round."""
    layers = torch.randn(_LAYERS, 2, 1, _HEADS, _SLOTS, _HEAD_DIM).bfloat16()
    query = torch.randn(1, _HEADS, 1, _HEAD_DIM)
    mask = torch.zeros(1, 1, 1, _SLOTS)
    buffer = Float32KVBuffer()

    def in_bfloat16() -> None:
        for keys, values in layers:
            scaled_dot_product_attention(query.bfloat16(), keys, values, attn_mask=mask.bfloat16())

    def in_float32() -> None:
        for keys, values in layers:
            single_query_attention(query, *buffer.widen(keys, values), mask, _HEAD_DIM**-0.5)

    work: dict[str, Callable[[], None]] = {"16": in_bfloat16, "32": in_float32}
    return autotune.time_in_turns(work, _ROUNDS, "cpu")


def _scale(query: torch.Tensor, scaling: float | None) -> float:
    """Factor of the logits: the module's own, or the default."""
    return query.shape[-1] ** -0.5 if scaling is None else scaling


def _has_unsupported(kwargs: dict[str, Any]) -> bool:
    return any(kwargs.get(name) is not None for name in _UNSUPPORTED)


def _triton_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention by the Triton kernel; SDPA for batches and prompts, which other threads may run meanwhile."""
    single_query = query.shape[0] == query.shape[2] == 1
    if not single_query or attention_mask is None or attention_mask.shape[-2] != 1 or _has_unsupported(kwargs):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    output = kernels.attention.flash_decode(query, key, value, attention_mask, _scale(query, scaling))
    return output.transpose(1, 2).contiguous(), None


def _float32_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in float32 of a step, which has a float32 mask; SDPA for all other calls."""
    settings = (attention_mask, dropout, scaling)
    if attention_mask is None or attention_mask.dtype == query.dtype:
        return sdpa_attention_forward(module, query, key, value, *settings, **kwargs)
    wide_query = query.float()
    keys, values = _current_buffer.get().widen(key, value)
    if _has_unsupported(kwargs):
        output, _ = sdpa_attention_forward(module, wide_query, keys, values, *settings, **kwargs)
    else:
        heads = single_query_attention(wide_query, keys, values, attention_mask, _scale(query, scaling))
        output = heads.transpose(1, 2)
    return output.to(query.dtype), None


def single_query_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention output (1, heads, 1, head_dim) of one token, as two matrix products.

    PyTorch's fused kernel, which is made for many tokens, takes longer in float32 too. Heads that share keys and values
    are rows of one product.

    Args:
        query: (1, heads, 1, head_dim).
        keys: (1, key-value heads, slots, head_dim).
        values: (1, key-value heads, slots, head_dim).
        mask: (1, 1, 1, slots), added to the logits.
        scale: factor of the logits.
    """
    heads = query.reshape(keys.shape[1], -1, query.shape[-1])
    logits = torch.baddbmm(mask[0], heads, keys[0].transpose(1, 2), alpha=scale)
    return torch.bmm(logits.softmax(-1), values[0]).view_as(query)


AttentionInterface.register(TRITON, _triton_attention)
AttentionInterface.register(FLOAT32, _float32_attention)
