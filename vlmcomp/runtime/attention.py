"""How a decoding step attends from one token, where PyTorch's own kernel is slow: as transformers' attention functions.

On a GPU by Triton's kernel; on a CPU without matrix instructions for 16 bits by two products in 32, layer by layer in
one place, since memory that is taken anew for every layer costs more than the arithmetic.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention as attend
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from vlmcomp.runtime import autotune
from vlmcomp.runtime.linear import gpu as gpu_linear

PYTORCH, KERNEL, WIDE = "sdpa", "vlmcomp-kernel", "vlmcomp-wide"
_ELSE = ("softcap", "position_bias", "s_aux")  # what changes the logits, which PyTorch's way alone knows of
_HEADS, _SLOTS, _SIZE, _LAYERS, _ROUNDS = 16, 896, 128, 8, 5  # of the race: from memory, and not a cache of the CPU


def way(device: torch.device, dtype: torch.dtype) -> str:
    """The attention function of a step that computes in ``dtype`` on ``device``."""
    if gpu_linear.available(device):
        return KERNEL
    return WIDE if device.type == "cpu" and dtype == torch.bfloat16 and wide_pays() else PYTORCH


class Scratch:
    """Where the keys and values of a layer are made wide, one layer after another."""

    def __init__(self) -> None:
        self.wide: tuple[torch.Tensor, torch.Tensor] | None = None

    def of(self, *narrow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values in float32, until the next ones come."""
        if self.wide is None or self.wide[0].shape != narrow[0].shape:
            keys, values = (torch.empty_like(part, dtype=torch.float32) for part in narrow)
            self.wide = keys, values
        for wide, part in zip(self.wide, narrow):
            wide.copy_(part)
        return self.wide


_scratch: ContextVar[Scratch] = ContextVar("scratch")


@contextmanager
def by(function: str, text: PreTrainedConfig, scratch: Scratch) -> Iterator[None]:
    """While this lasts the decoder whose settings ``text`` are attends by ``function``."""
    before, mine = text._attn_implementation, _scratch.set(scratch)
    text._attn_implementation = function
    try:
        yield
    finally:
        text._attn_implementation = before
        _scratch.reset(mine)


@cache
def wide_pays() -> bool:
    """Whether one token attends faster in float32 than in bfloat16 on this machine's CPU."""
    times = autotune.keep("attention", _race, lambda times: len(times["16"]) == len(times["32"]) == _ROUNDS)
    return statistics.median(times["32"]) < statistics.median(times["16"])


@torch.inference_mode()
def _race() -> dict[str, list[float]]:
    """Milliseconds that some layers attend in 16 and in 32 bits, in turns."""
    caches = torch.randn(_LAYERS, 2, 1, _HEADS, _SLOTS, _SIZE).bfloat16()
    query, mask, scratch = torch.randn(1, _HEADS, 1, _SIZE), torch.zeros(1, 1, 1, _SLOTS), Scratch()
    ways = {
        "16": lambda keys, values: attend(query.bfloat16(), keys, values, attn_mask=mask.bfloat16()),
        "32": lambda keys, values: one_token(query, *scratch.of(keys, values), mask, _SIZE**-0.5),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            times[name].append(autotune.ms(lambda way=way: [way(keys, values) for keys, values in caches], "cpu"))
    return times


def _scale(query: torch.Tensor, scaling: float | None) -> float:
    """Of the logits: the usual one, unless the module has its own."""
    return query.shape[-1] ** -0.5 if scaling is None else scaling


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
    from vlmcomp.runtime.triton import attention as triton_attention  # what has no GPU may not have Triton

    seen = triton_attention.attend(query, key, value, attention_mask, _scale(query, scaling))
    return seen.transpose(1, 2).contiguous(), None


def _wide(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The same, of a step whose mask is in float32."""
    settings = (attention_mask, dropout, scaling)
    if attention_mask is None or attention_mask.dtype == query.dtype:
        return sdpa_attention_forward(module, query, key, value, *settings, **kwargs)
    dtype, query, (keys, values) = query.dtype, query.float(), _scratch.get().of(key, value)
    if any(kwargs.get(name) is not None for name in _ELSE):
        seen, _ = sdpa_attention_forward(module, query, keys, values, *settings, **kwargs)
    else:
        seen = one_token(query, keys, values, attention_mask, _scale(query, scaling)).transpose(1, 2)
    return seen.to(dtype), None


def one_token(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """What one token sees, (1, heads, 1, size), of ``query`` shaped alike, keys and values (1, KV heads, slots, size)
    and a mask (1, 1, 1, slots). As two matrix products: PyTorch's fused kernel, which is made for many tokens, takes
    longer in float32 too. Heads that share keys are rows of one product."""
    heads = query.reshape(keys.shape[1], -1, query.shape[-1])
    logits = torch.baddbmm(mask[0], heads, keys[0].transpose(1, 2), alpha=scale)
    return torch.bmm(logits.softmax(-1), values[0]).view_as(query)


AttentionInterface.register(KERNEL, _by_kernel)
AttentionInterface.register(WIDE, _wide)
