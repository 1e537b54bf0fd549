"""A Triton kernel for one token's attention over a static cache, in parts as in Flash-Decoding (Dao et al., 2023)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_KEY_ELEMENTS = 1 << 14  # of the keys that one program reads


@triton.jit
def _attend_part(
    query, keys, values, mask, sums, weights, maxima, slots, heads_per_kv, scale,
    KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, SLOTS: tl.constexpr,
    KEY_POW2: tl.constexpr, VALUE_POW2: tl.constexpr,
):  # fmt: skip
    """One head's attention to ``SLOTS`` slots: the weighted sum of the values, the sum of the weights, and the largest
    logit. ``*_POW2`` are the widths rounded up to a power of two."""
    head = tl.program_id(0)
    part = tl.program_id(1)
    partial = head * tl.num_programs(1) + part
    slot = part * SLOTS + tl.arange(0, SLOTS)
    key_dim = tl.arange(0, KEY_POW2)
    value_dim = tl.arange(0, VALUE_POW2)
    in_key = key_dim < KEY_DIM
    in_value = value_dim < VALUE_DIM
    bias = tl.load(mask + slot, mask=slot < slots, other=float("-inf")).to(tl.float32)
    visible = bias > float("-inf")
    row = (head // heads_per_kv).to(tl.int64) * slots + slot
    key_mask = visible[:, None] & in_key[None, :]
    value_mask = visible[:, None] & in_value[None, :]
    key = tl.load(keys + row[:, None] * KEY_DIM + key_dim[None, :], mask=key_mask, other=0.0)
    value = tl.load(values + row[:, None] * VALUE_DIM + value_dim[None, :], mask=value_mask, other=0.0)
    scaled_query = tl.load(query + head * KEY_DIM + key_dim, mask=in_key, other=0.0).to(tl.float32) * scale
    logits = tl.sum(key.to(tl.float32) * scaled_query[None, :], 1) + bias
    maximum = tl.max(logits, 0)
    weight = tl.where(visible, tl.exp(logits - maximum), 0.0)
    weighted_sum = tl.sum(weight[:, None] * value.to(tl.float32), 0)
    tl.store(sums + partial * VALUE_DIM + value_dim, weighted_sum, mask=in_value)
    tl.store(weights + partial, tl.sum(weight, 0))
    tl.store(maxima + partial, maximum)


@triton.jit
def _combine_parts(
    sums, weights, maxima, y, parts,
    VALUE_DIM: tl.constexpr, VALUE_POW2: tl.constexpr, PARTS_POW2: tl.constexpr,
):  # fmt: skip
    """One head's attention output from its parts."""
    head = tl.program_id(0)
    part = tl.arange(0, PARTS_POW2)
    value_dim = tl.arange(0, VALUE_POW2)
    in_value = value_dim < VALUE_DIM
    partial = head * parts + part
    maximum = tl.load(maxima + partial, mask=part < parts, other=float("-inf"))
    visible = maximum > float("-inf")
    sum_mask = visible[:, None] & in_value[None, :]
    weighted_sum = tl.load(sums + partial[:, None] * VALUE_DIM + value_dim[None, :], mask=sum_mask, other=0.0)
    factor = tl.exp(maximum - tl.max(maximum, 0))
    weight = tl.sum(factor * tl.load(weights + partial, mask=visible, other=0.0), 0)
    output = tl.sum(weighted_sum * factor[:, None], 0) / weight
    tl.store(y + head * VALUE_DIM + value_dim, output.to(y.dtype.element_ty), mask=in_value)


@torch.library.custom_op("vlmcomp::flash_decode", mutates_args=())
def flash_decode(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention output (1, heads, 1, value_dim) of one token.

    The parts of the cache are read in parallel: one token of few heads would leave most of a GPU idle.

    Args:
        query: (1, heads, 1, key_dim).
        keys: (1, key-value heads, slots, key_dim).
        values: (1, key-value heads, slots, value_dim).
        mask: (..., slots), added to the logits.
        scale: factor of the logits.
    """
    heads = query.shape[1]
    (slots, key_dim) = keys.shape[2:]
    value_dim = values.shape[3]
    key_pow2 = triton.next_power_of_2(key_dim)
    value_pow2 = triton.next_power_of_2(value_dim)
    slots_per_part = _KEY_ELEMENTS // key_pow2
    parts = triton.cdiv(slots, slots_per_part)
    sums = torch.empty(heads, parts, value_dim, dtype=torch.float32, device=query.device)
    weights, maxima = torch.empty(2, heads, parts, dtype=torch.float32, device=query.device)
    heads_per_kv = heads // keys.shape[1]
    inputs = query.contiguous(), keys, values, mask
    widths = {"VALUE_DIM": value_dim, "VALUE_POW2": value_pow2}
    _attend_part[heads, parts](
        *inputs, sums, weights, maxima, slots, heads_per_kv, scale,
        KEY_DIM=key_dim, KEY_POW2=key_pow2, SLOTS=slots_per_part, **widths,
    )  # fmt: skip
    y = query.new_empty(1, heads, 1, value_dim)
    _combine_parts[(heads,)](sums, weights, maxima, y, parts, PARTS_POW2=triton.next_power_of_2(parts), **widths)
    return y


@flash_decode.register_fake
def _(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    return query.new_empty(*query.shape[:3], values.shape[3])
