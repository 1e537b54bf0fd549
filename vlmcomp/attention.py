"""How a decoding step attends from one token, where PyTorch's own kernel is slow: as transformers' attention functions.

On a GPU by Triton's kernel; on a CPU without matrix instructions for 16 bits over a cache in 32.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from vlmcomp import race, weight_only

PYTORCH, KERNEL, WIDE = "sdpa", "vlmcomp-kernel", "vlmcomp-wide"
_ELSE = ("softcap", "position_bias", "s_aux")  # what changes the logits in a way that the kernel does not know
_HEADS, _SLOTS, _SIZE, _LAYERS, _ROUNDS = 16, 896, 128, 8, 5  # of the race: from memory, and not a cache of the CPU


def way(device: torch.device, dtype: torch.dtype) -> str:
    """The attention function of a step that computes in ``dtype`` on ``device``."""
    if weight_only.available(device):
        return KERNEL
    return WIDE if device.type == "cpu" and dtype == torch.bfloat16 and wide_pays() else PYTORCH


@contextmanager
def by(function: str, text: PreTrainedConfig) -> Iterator[None]:
    """While this lasts the decoder whose settings ``text`` are attends by ``function``."""
    before = text._attn_implementation
    text._attn_implementation = function
    try:
        yield
    finally:
        text._attn_implementation = before


@cache
def wide_pays() -> bool:
    """Whether one token attends faster in float32 than in bfloat16 on this machine's CPU."""
    times = race.keep("attention", _race, lambda times: len(times["16"]) == len(times["32"]) == _ROUNDS)
    return statistics.median(times["32"]) < statistics.median(times["16"])


@torch.inference_mode()
def _race() -> dict[str, list[float]]:
    """Milliseconds that some layers attend to a cache of 16 and of 32 bits, in turns."""
    caches = torch.randn(_LAYERS, 2, 1, _HEADS, _SLOTS, _SIZE)
    query, mask = torch.randn(1, _HEADS, 1, _SIZE), torch.zeros(1, 1, 1, _SLOTS)
    held = {"16": [part.bfloat16() for part in (query, mask, caches)], "32": [query, mask, caches]}
    times: dict[str, list[float]] = {name: [] for name in held}
    for _ in range(_ROUNDS):
        for name, (asked, hidden, layers) in held.items():
            start = time.perf_counter()
            for keys, values in layers:
                scaled_dot_product_attention(asked, keys, values, attn_mask=hidden)
            times[name].append(1000 * (time.perf_counter() - start))
    return times


def _by_kernel(
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


def _wide(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """In the dtype of the cache."""
    seen, _ = sdpa_attention_forward(module, query.to(key.dtype), key, *args, **kwargs)
    return seen.to(query.dtype), None


AttentionInterface.register(KERNEL, _by_kernel)
AttentionInterface.register(WIDE, _wide)
