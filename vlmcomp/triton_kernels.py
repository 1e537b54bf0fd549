"""Triton kernels for one token on a GPU: products with packed weights, and attention over a static cache.

Decoding reads all weights for every token, so a kernel that unpacks them in registers takes as much less time as they
take less memory. All kernels are PyTorch operators: a CUDA graph captures them, and Inductor calls them as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from vlmcomp.packed import GROUP

FEW = 8  # tokens, each of which reads the weights anew; more are multiplied by weights that are unpacked for them
NF4_BLOCK, NF4_SCALES = 64, 256  # weights that share a scale, and scales that share theirs
_KEYS = 64  # slots of a cache that one program attends to
_ROWS, _COLUMNS, _WARPS = 8, 1024, 4  # outputs, inputs and warps of a program


@triton.jit
def _multiply(
    x, weights, scale, y, outputs,
    INPUTS: tl.constexpr, SCALED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One token times ``ROWS`` rows of weights (outputs, inputs): dense, or INT8 with a ``scale`` a row."""
    token, rows = tl.program_id(0), tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    here = rows < outputs
    places = weights + rows.to(tl.int64)[:, None] * INPUTS
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, INPUTS, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        there = columns < INPUTS
        part = tl.load(x + token * INPUTS + columns, mask=there, other=0.0).to(tl.float32)
        small = tl.load(places + columns[None, :], mask=here[:, None] & there[None, :], other=0)
        total += small.to(tl.float32) * part[None, :]
    sums = tl.sum(total, 1)
    if SCALED:
        sums *= tl.load(scale + rows, mask=here, other=0.0)
    tl.store(y + token * outputs + rows, sums.to(y.dtype.element_ty), mask=here)


@triton.jit
def _multiply_int4(
    x, pairs, scale, zero, y, outputs,
    ALL: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """The same with INT4 weights: a byte holds an input of its group's first half (low) and one of its second."""
    token, rows = tl.program_id(0), tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    here, within = rows < outputs, tl.arange(0, HALF)
    total = tl.zeros((ROWS, GROUPS, HALF), tl.float32)
    shifted = tl.zeros((ROWS, GROUPS), tl.float32)
    first = x + token * ALL * 2 * HALF
    for start in range(0, ALL, GROUPS):
        group = start + tl.arange(0, GROUPS)
        there = group < ALL
        inside = here[:, None] & there[None, :]
        places = first + group[:, None] * 2 * HALF + within[None, :]
        low = tl.load(places, mask=there[:, None], other=0.0).to(tl.float32)
        high = tl.load(places + HALF, mask=there[:, None], other=0.0).to(tl.float32)
        of_row = rows.to(tl.int64)[:, None] * ALL + group[None, :]
        byte = tl.load(pairs + of_row[:, :, None] * HALF + within[None, None, :], mask=inside[:, :, None], other=0)
        size = tl.load(scale + of_row, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(zero + of_row, mask=inside, other=0.0).to(tl.float32)
        codes = (byte & 15).to(tl.float32) * low[None, :, :] + (byte >> 4).to(tl.float32) * high[None, :, :]
        total += codes * size[:, :, None]
        shifted += (shift - 8 * size) * tl.sum(low + high, 1)[None, :]
    sums = tl.sum(tl.sum(total, 2) + shifted, 1)
    tl.store(y + token * outputs + rows, sums.to(y.dtype.element_ty), mask=here)


@triton.jit
def _unpack_int4(pairs, scale, zero, y, count, HALF: tl.constexpr, GROUPS: tl.constexpr):
    """The values of ``GROUPS`` groups of INT4 weights."""
    group, within = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS), tl.arange(0, HALF)
    there = group < count
    places = group[:, None] * HALF + within[None, :]
    byte = tl.load(pairs + places, mask=there[:, None], other=0)
    size = tl.load(scale + group, mask=there, other=0.0).to(tl.float32)
    shift = tl.load(zero + group, mask=there, other=0.0).to(tl.float32) - 8 * size
    low = (byte & 15).to(tl.float32) * size[:, None] + shift[:, None]
    high = (byte >> 4).to(tl.float32) * size[:, None] + shift[:, None]
    target = y + group[:, None] * 2 * HALF + within[None, :]
    tl.store(target, low.to(y.dtype.element_ty), mask=there[:, None])
    tl.store(target + HALF, high.to(y.dtype.element_ty), mask=there[:, None])


@triton.jit
def _multiply_nf4(
    x, pairs, scale, levels, scale_levels, scale_scale, shift, y, outputs,
    BLOCKS: tl.constexpr, HALF: tl.constexpr, SCALES: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """The same with bitsandbytes' NF4: a byte holds neighbours, the first of them high. A block's scale is one of
    ``scale_levels`` times what it shares with ``SCALES`` blocks, and shifted."""
    token, rows = tl.program_id(0), tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    here, within = rows < outputs, tl.arange(0, HALF)
    total = tl.zeros((ROWS, STEP, HALF), tl.float32)
    first, least = x + token * BLOCKS * 2 * HALF, tl.load(shift)
    for start in range(0, BLOCKS, STEP):
        block = start + tl.arange(0, STEP)
        there = block < BLOCKS
        inside = here[:, None] & there[None, :]
        places = first + 2 * (block[:, None] * HALF + within[None, :])
        even = tl.load(places, mask=there[:, None], other=0.0).to(tl.float32)
        odd = tl.load(places + 1, mask=there[:, None], other=0.0).to(tl.float32)
        of_row = rows.to(tl.int64)[:, None] * BLOCKS + block[None, :]
        byte = tl.load(pairs + of_row[:, :, None] * HALF + within[None, None, :], mask=inside[:, :, None], other=0)
        size = tl.load(scale_levels + tl.load(scale + of_row, mask=inside, other=0).to(tl.int32))
        size = size * tl.load(scale_scale + of_row // SCALES, mask=inside, other=0.0) + least
        high, low = tl.load(levels + (byte >> 4).to(tl.int32)), tl.load(levels + (byte & 15).to(tl.int32))
        values = high * even[None, :, :] + low * odd[None, :, :]
        total += values * size[:, :, None]
    sums = tl.sum(tl.sum(total, 2), 1)
    tl.store(y + token * outputs + rows, sums.to(y.dtype.element_ty), mask=here)


@triton.jit
def _attend(
    query, keys, values, mask, sums, weights, tops, slots, shared, scale,
    SIZE: tl.constexpr, OUT: tl.constexpr, KEYS: tl.constexpr, WIDE: tl.constexpr, WIDE_OUT: tl.constexpr,
):  # fmt: skip
    """A head's attention to ``KEYS`` slots: the values' sum, its weight, and the largest logit."""
    head, part = tl.program_id(0), tl.program_id(1)
    place = head * tl.num_programs(1) + part
    slot, size, out = part * KEYS + tl.arange(0, KEYS), tl.arange(0, WIDE), tl.arange(0, WIDE_OUT)
    there, inside, kept = slot < slots, size < SIZE, out < OUT
    hidden = tl.load(mask + slot, mask=there, other=float("-inf")).to(tl.float32)
    top = tl.max(hidden, 0)
    tl.store(tops + place, float("-inf"))
    if top > float("-inf"):
        cache = (head // shared).to(tl.int64) * slots + slot
        asked = tl.load(query + head * SIZE + size, mask=inside, other=0.0).to(tl.float32) * scale
        key = tl.load(keys + cache[:, None] * SIZE + size[None, :], mask=there[:, None] & inside[None, :], other=0.0)
        logits = tl.sum(key.to(tl.float32) * asked[None, :], 1) + hidden
        top = tl.max(logits, 0)
        share = tl.exp(logits - top)
        seen = there[:, None] & kept[None, :]
        value = tl.load(values + cache[:, None] * OUT + out[None, :], mask=seen, other=0.0)
        tl.store(sums + place * OUT + out, tl.sum(share[:, None] * value.to(tl.float32), 0), mask=kept)
        tl.store(weights + place, tl.sum(share, 0))
        tl.store(tops + place, top)


@triton.jit
def _gather(sums, weights, tops, y, parts, OUT: tl.constexpr, WIDE_OUT: tl.constexpr, PARTS: tl.constexpr):
    """A head's attention from that to the parts of its cache."""
    head, part, out = tl.program_id(0), tl.arange(0, PARTS), tl.arange(0, WIDE_OUT)
    kept = out < OUT
    place = head * parts + part
    top = tl.load(tops + place, mask=part < parts, other=float("-inf"))
    seen = top > float("-inf")
    share = tl.exp(top - tl.max(top, 0))
    weight = tl.sum(share * tl.load(weights + place, mask=seen, other=0.0), 0)
    total = tl.load(sums + place[:, None] * OUT + out[None, :], mask=seen[:, None] & kept[None, :], other=0.0)
    tl.store(y + head * OUT + out, (tl.sum(total * share[:, None], 0) / weight).to(y.dtype.element_ty), mask=kept)


@torch.library.custom_op("vlmcomp::multiply", mutates_args=())
def multiply(x: torch.Tensor, weights: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """``x`` (N, in) times ``weights`` (out, in), INT8 with a ``scale`` (out) or dense without: (N, out) in x's dtype,
    summed in float32."""
    y = x.new_empty(len(x), len(weights))
    grid = len(x), triton.cdiv(len(weights), _ROWS)
    rest = {
        "INPUTS": weights.shape[1],
        "SCALED": scale is not None,
        "ROWS": _ROWS,
        "COLUMNS": _COLUMNS,
        "num_warps": _WARPS,
    }
    _multiply[grid](x.contiguous(), weights, scale, y, len(weights), **rest)
    return y


@multiply.register_fake
def _(x: torch.Tensor, weights: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty(len(x), len(weights))


@torch.library.custom_op("vlmcomp::multiply_int4", mutates_args=())
def multiply_int4(x: torch.Tensor, pairs: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """``x`` (N, in) times INT4 weights: ``pairs`` (out, in / 2) as ``in_pairs`` lays them out, ``scale`` and ``zero``
    (out, groups); (N, out) in x's dtype, summed in float32."""
    y = x.new_empty(len(x), len(pairs))
    grid = len(x), triton.cdiv(len(pairs), _ROWS)
    rest = {"ALL": scale.shape[1], "HALF": GROUP // 2, "ROWS": _ROWS, "GROUPS": _COLUMNS // GROUP, "num_warps": _WARPS}
    _multiply_int4[grid](x.contiguous(), pairs, scale, zero, y, len(pairs), **rest)
    return y


@multiply_int4.register_fake
def _(x: torch.Tensor, pairs: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    return x.new_empty(len(x), len(pairs))


def unpack_int4(pairs: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weights (out, in) that INT4 ones stand for."""
    y = torch.empty(len(pairs), 2 * pairs.shape[1], dtype=dtype, device=pairs.device)
    grid = (triton.cdiv(scale.numel(), _COLUMNS // GROUP),)
    _unpack_int4[grid](pairs, scale, zero, y, scale.numel(), HALF=GROUP // 2, GROUPS=_COLUMNS // GROUP)
    return y


def in_pairs(codes: torch.Tensor) -> torch.Tensor:
    """INT4 codes (out, in) from 0 to 15 as bytes (out, in / 2)."""
    low, high = codes.to(torch.uint8).unflatten(1, (-1, 2, GROUP // 2)).unbind(2)
    return (low | high << 4).flatten(1)


def of_pairs(pairs: torch.Tensor) -> torch.Tensor:
    """The inverse of ``in_pairs``."""
    halves = pairs.unflatten(1, (-1, GROUP // 2))
    return torch.stack([halves & 15, halves >> 4], dim=2).flatten(1)


@torch.library.custom_op("vlmcomp::multiply_nf4", mutates_args=())
def multiply_nf4(x: torch.Tensor, pairs: torch.Tensor, state: Sequence[torch.Tensor]) -> torch.Tensor:
    """``x`` (N, in) times bitsandbytes' NF4 weights ``pairs`` (out, in / 2) with scales that are quantized themselves.

    ``state``: scales (out x in / 64), the levels of the weights, those of the scales, the scales' scales, their shift.
    """
    outputs, y = len(pairs), x.new_empty(len(x), len(pairs))
    blocks = 2 * pairs.shape[1] // NF4_BLOCK
    rest = {"BLOCKS": blocks, "HALF": NF4_BLOCK // 2, "SCALES": NF4_SCALES, "STEP": _COLUMNS // NF4_BLOCK}
    grid = len(x), triton.cdiv(outputs, _ROWS)
    _multiply_nf4[grid](x.contiguous(), pairs, *state, y, outputs, ROWS=_ROWS, num_warps=_WARPS, **rest)
    return y


@multiply_nf4.register_fake
def _(x: torch.Tensor, pairs: torch.Tensor, state: Sequence[torch.Tensor]) -> torch.Tensor:
    return x.new_empty(len(x), len(pairs))


@torch.library.custom_op("vlmcomp::attend", mutates_args=())
def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """One token's attention (1, heads, 1, size of a value).

    ``query`` (1, heads, 1, size), ``keys`` and ``values`` (1, key-value heads, slots, size), ``mask`` (..., slots) is
    added to the logits. The cache is read in parts at the same time, as in Flash-Decoding (Dao et al., 2023): one token
    of few heads would leave most of a GPU idle.
    """
    heads, slots = query.shape[1], keys.shape[2]
    parts, size, out = triton.cdiv(slots, _KEYS), keys.shape[3], values.shape[3]
    sums = torch.empty(heads, parts, out, dtype=torch.float32, device=query.device)
    weights, tops = torch.empty(2, heads, parts, dtype=torch.float32, device=query.device)
    shared = heads // keys.shape[1]
    args = query.contiguous(), keys, values, mask, sums, weights, tops, slots, shared, scale
    wide, wide_out = triton.next_power_of_2(size), triton.next_power_of_2(out)
    _attend[heads, parts](*args, SIZE=size, OUT=out, KEYS=_KEYS, WIDE=wide, WIDE_OUT=wide_out)
    y = query.new_empty(1, heads, 1, out)
    _gather[(heads,)](sums, weights, tops, y, parts, OUT=out, WIDE_OUT=wide_out, PARTS=triton.next_power_of_2(parts))
    return y


@attend.register_fake
def _(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    return query.new_empty(*query.shape[:3], values.shape[3])
