"""A Triton kernel for one token's attention over a static cache."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_ELEMENTS = 1 << 14  # of the keys that one program attends to


@triton.jit
def _attend(
    query, keys, values, mask, sums, weights, tops, slots, shared, scale,
    SIZE: tl.constexpr, OUT: tl.constexpr, SLOTS: tl.constexpr, WIDE: tl.constexpr, WIDE_OUT: tl.constexpr,
):  # fmt: skip
    """A head's attention to ``SLOTS`` slots: the values' sum, its weight, and the largest logit."""
    head, part = tl.program_id(0), tl.program_id(1)
    place = head * tl.num_programs(1) + part
    slot, size, out = part * SLOTS + tl.arange(0, SLOTS), tl.arange(0, WIDE), tl.arange(0, WIDE_OUT)
    hidden = tl.load(mask + slot, mask=slot < slots, other=float("-inf")).to(tl.float32)
    seen, inside, kept = hidden > float("-inf"), size < SIZE, out < OUT
    cache = (head // shared).to(tl.int64) * slots + slot
    key = tl.load(keys + cache[:, None] * SIZE + size[None, :], mask=seen[:, None] & inside[None, :], other=0.0)
    value = tl.load(values + cache[:, None] * OUT + out[None, :], mask=seen[:, None] & kept[None, :], other=0.0)
    asked = tl.load(query + head * SIZE + size, mask=inside, other=0.0).to(tl.float32) * scale
    logits = tl.sum(key.to(tl.float32) * asked[None, :], 1) + hidden
    top = tl.max(logits, 0)
    share = tl.where(seen, tl.exp(logits - top), 0.0)
    tl.store(sums + place * OUT + out, tl.sum(share[:, None] * value.to(tl.float32), 0), mask=kept)
    tl.store(weights + place, tl.sum(share, 0))
    tl.store(tops + place, top)


@triton.jit
def _gather(sums, weights, tops, y, parts, OUT: tl.constexpr, WIDE_OUT: tl.constexpr, PARTS: tl.constexpr):
    """A head's attention from that to the parts of its cache."""
    head, part, out = tl.program_id(0), tl.arange(0, PARTS), tl.arange(0, WIDE_OUT)
    kept, place = out < OUT, head * parts + part
    top = tl.load(tops + place, mask=part < parts, other=float("-inf"))
    seen = top > float("-inf")
    total = tl.load(sums + place[:, None] * OUT + out[None, :], mask=seen[:, None] & kept[None, :], other=0.0)
    share = tl.exp(top - tl.max(top, 0))
    weight = tl.sum(share * tl.load(weights + place, mask=seen, other=0.0), 0)
    tl.store(y + head * OUT + out, (tl.sum(total * share[:, None], 0) / weight).to(y.dtype.element_ty), mask=kept)


@torch.library.custom_op("vlmcomp::attend", mutates_args=())
def flash_decode(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """One token's attention (1, heads, 1, size of a value).

    ``query`` (1, heads, 1, size), ``keys`` and ``values`` (1, key-value heads, slots, size), ``mask`` (..., slots) is
    added to the logits. The cache is read in parts at the same time, as in Flash-Decoding (Dao et al., 2023): one token
    of few heads would leave most of a GPU idle.
    """
    heads, slots, size, out = query.shape[1], *keys.shape[2:], values.shape[3]
    wide, wide_out = triton.next_power_of_2(size), triton.next_power_of_2(out)
    each, shared = _ELEMENTS // wide, heads // keys.shape[1]
    parts = triton.cdiv(slots, each)
    sums = torch.empty(heads, parts, out, dtype=torch.float32, device=query.device)
    weights, tops = torch.empty(2, heads, parts, dtype=torch.float32, device=query.device)
    args = query.contiguous(), keys, values, mask, sums, weights, tops, slots, shared, scale
    _attend[heads, parts](*args, SIZE=size, OUT=out, SLOTS=each, WIDE=wide, WIDE_OUT=wide_out)
    y = query.new_empty(1, heads, 1, out)
    _gather[(heads,)](sums, weights, tops, y, parts, OUT=out, WIDE_OUT=wide_out, PARTS=triton.next_power_of_2(parts))
    return y


@flash_decode.register_fake
def _(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    return query.new_empty(*query.shape[:3], values.shape[3])
