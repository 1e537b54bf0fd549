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
# Rows, inputs, warps and stages: the fastest of some twenty for the layers of 7 B models on an H200.
DENSE, INT8, INT4, NF4 = (2, 2048, 8, 1), (4, 512, 1, 4), (8, 1024, 2, 3), (8, 1024, 4, 1)
_COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)  # Triton's interpreter knows no assembler


@triton.jit
def _bytes(packed):
    """1 + byte / 32768: the byte is put into the mantissa of 1, since to convert an integer takes several times as
    long. What the 1 adds to a sum of products is the sum of the activations."""
    if _COMPILED:
        return tl.inline_asm_elementwise(
            """prmt.b32 $0, $4, 0x3F800000, 0x7604;
            prmt.b32 $1, $4, 0x3F800000, 0x7614;
            prmt.b32 $2, $4, 0x3F800000, 0x7624;
            prmt.b32 $3, $4, 0x3F800000, 0x7634;""",
            "=r,=r,=r,=r,r",
            [packed],
            tl.float32,
            True,
            4,
        )
    else:
        return (packed.to(tl.int32) << 8 | 0x3F800000).to(tl.float32, bitcast=True)


@triton.jit
def _halves(packed):
    """1 + code / 2048 of the low and of the high half of a byte."""
    if _COMPILED:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 low, high;
            shl.b32 low, $8, 4;
            and.b32 low, low, 0xF0F0F0F0;
            and.b32 high, $8, 0xF0F0F0F0;
            prmt.b32 $0, low, 0x3F800000, 0x7604;
            prmt.b32 $1, low, 0x3F800000, 0x7614;
            prmt.b32 $2, low, 0x3F800000, 0x7624;
            prmt.b32 $3, low, 0x3F800000, 0x7634;
            prmt.b32 $4, high, 0x3F800000, 0x7604;
            prmt.b32 $5, high, 0x3F800000, 0x7614;
            prmt.b32 $6, high, 0x3F800000, 0x7624;
            prmt.b32 $7, high, 0x3F800000, 0x7634;
            }""",
            "=r,=r,=r,=r,=r,=r,=r,=r,r",
            [packed],
            (tl.float32, tl.float32),
            True,
            4,
        )
    else:
        wide = packed.to(tl.int32)
        low, high = (wide & 15) << 12 | 0x3F800000, (wide & 240) << 8 | 0x3F800000
        return low.to(tl.float32, bitcast=True), high.to(tl.float32, bitcast=True)


@triton.jit
def _multiply_dense(
    x, first, second, third, y, tokens, outputs, until, then,
    INPUTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One token times ``ROWS`` rows of weights (outputs, inputs) that lie in three places: from rows ``until`` and
    ``then`` on in the second and third."""
    token, row = tl.program_id(0) % tokens, tl.program_id(0) // tokens * ROWS
    weights, start = first, 0
    if row >= until:
        weights, start = second, until
    if row >= then:
        weights, start = third, then
    rows = row + tl.arange(0, ROWS)
    here = rows < outputs
    places = weights + (rows - start).to(tl.int64)[:, None] * INPUTS
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for begin in tl.range(0, INPUTS, COLUMNS, num_stages=STAGES):
        columns = begin + tl.arange(0, COLUMNS)
        there = columns < INPUTS
        part = tl.load(x + token * INPUTS + columns, mask=there, other=0.0).to(tl.float32)
        values = tl.load(places + columns[None, :], mask=here[:, None] & there[None, :], other=0.0)
        total += values.to(tl.float32) * part[None, :]
    tl.store(y + token * outputs + rows, tl.sum(total, 1).to(y.dtype.element_ty), mask=here)


@triton.jit
def _multiply_int8(
    x, packed, scale, y, tokens, outputs,
    INPUTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The same with INT8 weights around 128 and a ``scale`` a row."""
    token, rows = tl.program_id(0) % tokens, tl.program_id(0) // tokens * ROWS + tl.arange(0, ROWS)
    here = rows < outputs
    places = packed + rows.to(tl.int64)[:, None] * INPUTS
    total, seen = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    for begin in tl.range(0, INPUTS, COLUMNS, num_stages=STAGES):
        columns = begin + tl.arange(0, COLUMNS)
        there = columns < INPUTS
        part = tl.load(x + token * INPUTS + columns, mask=there, other=0.0).to(tl.float32)
        values = tl.load(places + columns[None, :], mask=here[:, None] & there[None, :], other=0)
        total += _bytes(values) * part[None, :]
        seen += part
    sums = 32768 * tl.sum(total, 1) - (32768 + 128) * tl.sum(seen, 0)
    sums *= tl.load(scale + rows, mask=here, other=0.0)
    tl.store(y + token * outputs + rows, sums.to(y.dtype.element_ty), mask=here)


@triton.jit
def _multiply_int4(
    x, pairs, scales, y, tokens, outputs,
    ALL: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The same with INT4 weights: a byte holds an input of its group's first half (low) and one of its second. The
    token's first halves come before all second ones."""
    token, rows = tl.program_id(0) % tokens, tl.program_id(0) // tokens * ROWS + tl.arange(0, ROWS)
    BYTES: tl.constexpr = ALL * HALF
    here, first = rows < outputs, x + token * 2 * BYTES
    places, of_row = pairs + rows.to(tl.int64)[:, None] * BYTES, scales + rows.to(tl.int64)[:, None] * ALL
    total = tl.zeros((ROWS, GROUPS), tl.float32)
    for start in tl.range(0, ALL, GROUPS, num_stages=STAGES):
        column, group = start * HALF + tl.arange(0, GROUPS * HALF), start + tl.arange(0, GROUPS)
        there = column < BYTES
        low = tl.load(first + column, mask=there, other=0.0).to(tl.float32)
        high = tl.load(first + BYTES + column, mask=there, other=0.0).to(tl.float32)
        byte = tl.load(places + column[None, :], mask=here[:, None] & there[None, :], other=0)
        both = tl.load(of_row + group[None, :], mask=here[:, None] & (group < ALL)[None, :], other=0)
        size, shift = _scale_and_zero(both)
        left, right = _halves(byte)
        sums = tl.sum(tl.reshape(left * low[None, :] + right * high[None, :], (ROWS, GROUPS, HALF)), 2)
        seen = tl.sum(tl.reshape(low + high, (GROUPS, HALF)), 1)
        total += 2048 * sums * size + (shift - (2048 + 8) * size) * seen[None, :]
    tl.store(y + token * outputs + rows, tl.sum(total, 1).to(y.dtype.element_ty), mask=here)


@triton.jit
def _scale_and_zero(both):
    """Two bfloat16 that lie in an integer of 32 bits."""
    return (both << 16).to(tl.float32, bitcast=True), (both & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _multiply_nf4(
    x, pairs, scale, levels, scale_levels, scale_scale, shift, y, tokens, outputs,
    BLOCKS: tl.constexpr, HALF: tl.constexpr, SCALES: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The same with bitsandbytes' NF4: a byte holds neighbours, the first of them high; all first ones of a token come
    before all second. A block's scale is one of ``scale_levels`` times what it shares with ``SCALES`` blocks, and
    shifted."""
    token, rows = tl.program_id(0) % tokens, tl.program_id(0) // tokens * ROWS + tl.arange(0, ROWS)
    here, within = rows < outputs, tl.arange(0, HALF)
    total = tl.zeros((ROWS, STEP), tl.float32)
    first, least = x + token * BLOCKS * 2 * HALF, tl.load(shift)
    for start in tl.range(0, BLOCKS, STEP, num_stages=STAGES):
        block = start + tl.arange(0, STEP)
        there = block < BLOCKS
        inside = here[:, None] & there[None, :]
        places = first + block[:, None] * HALF + within[None, :]
        even = tl.load(places, mask=there[:, None], other=0.0).to(tl.float32)
        odd = tl.load(places + BLOCKS * HALF, mask=there[:, None], other=0.0).to(tl.float32)
        of_row = rows.to(tl.int64)[:, None] * BLOCKS + block[None, :]
        byte = tl.load(pairs + of_row[:, :, None] * HALF + within[None, None, :], mask=inside[:, :, None], other=0)
        size = tl.load(scale_levels + tl.load(scale + of_row, mask=inside, other=0).to(tl.int32))
        size = size * tl.load(scale_scale + of_row // SCALES, mask=inside, other=0.0) + least
        byte = byte.to(tl.int32)
        values = tl.load(levels + (byte >> 4)) * even[None, :, :] + tl.load(levels + (byte & 15)) * odd[None, :, :]
        total += tl.sum(values, 2) * size
    tl.store(y + token * outputs + rows, tl.sum(total, 1).to(y.dtype.element_ty), mask=here)


@triton.jit
def _unpack_int8(packed, scale, y, INPUTS: tl.constexpr, COLUMNS: tl.constexpr):
    """A part of a row of INT8 weights."""
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there, place = columns < INPUTS, row * INPUTS + columns
    values = (tl.load(packed + place, mask=there, other=0).to(tl.float32) - 128) * tl.load(scale + row)
    tl.store(y + place, values.to(y.dtype.element_ty), mask=there)


@triton.jit
def _unpack_int4(pairs, scales, y, count, HALF: tl.constexpr, GROUPS: tl.constexpr):
    """``GROUPS`` groups of INT4 weights."""
    group, within = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS), tl.arange(0, HALF)
    there = group < count
    byte = tl.load(pairs + group[:, None] * HALF + within[None, :], mask=there[:, None], other=0)
    size, shift = _scale_and_zero(tl.load(scales + group, mask=there, other=0))
    low = ((byte & 15).to(tl.float32) - 8) * size[:, None] + shift[:, None]
    high = ((byte >> 4).to(tl.float32) - 8) * size[:, None] + shift[:, None]
    target = y + group[:, None] * 2 * HALF + within[None, :]
    tl.store(target, low.to(y.dtype.element_ty), mask=there[:, None])
    tl.store(target + HALF, high.to(y.dtype.element_ty), mask=there[:, None])


def _grid(x: torch.Tensor, outputs: int, rows: int) -> tuple[int]:
    """Programs that read the same weights for several tokens follow each other. One axis alone may be long."""
    return (len(x) * triton.cdiv(outputs, rows),)


@torch.library.custom_op("vlmcomp::multiply_dense", mutates_args=())
def multiply_dense(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """``x`` (N, in) times up to three matrices (out, in), whose numbers of outputs are even: (N, sum of out), summed in
    float32."""
    first, second, third = [*weights, *[weights[-1]] * (3 - len(weights))]
    until, then, outputs = len(first), len(first) + len(second), sum(map(len, weights))
    y, (rows, columns, warps, stages) = x.new_empty(len(x), outputs), DENSE
    args = x.contiguous(), first, second, third, y, len(x), outputs, until, then if len(weights) > 2 else outputs
    settings = {"INPUTS": x.shape[1], "ROWS": rows, "COLUMNS": columns, "STAGES": stages}
    _multiply_dense[_grid(x, outputs, rows)](*args, **settings, num_warps=warps)
    return y


@multiply_dense.register_fake
def _(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    return x.new_empty(len(x), sum(map(len, weights)))


@torch.library.custom_op("vlmcomp::multiply_int8", mutates_args=())
def multiply_int8(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """``x`` (N, in) times INT8 weights (out, in), held as bytes around 128, with a ``scale`` (out): (N, out) in x's
    dtype, summed in float32."""
    y, (rows, columns, warps, stages) = x.new_empty(len(x), len(packed)), INT8
    settings = {"INPUTS": x.shape[1], "ROWS": rows, "COLUMNS": columns, "STAGES": stages}
    grid = _grid(x, len(packed), rows)
    _multiply_int8[grid](x.contiguous(), packed, scale, y, len(x), len(packed), **settings, num_warps=warps)
    return y


@multiply_int8.register_fake
def _(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x.new_empty(len(x), len(packed))


@torch.library.custom_op("vlmcomp::multiply_int4", mutates_args=())
def multiply_int4(x: torch.Tensor, pairs: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """``x`` (N, 2, in / 2), the first halves of all groups and the second ones, times INT4 weights: ``pairs``
    (out, in / 2) as ``in_pairs`` lays them out, and what ``in_one`` makes of their scales and zeros (out, groups)."""
    y, (rows, columns, warps, stages) = x.new_empty(len(x), len(pairs)), INT4
    settings = {"ALL": scales.shape[1], "HALF": GROUP // 2, "ROWS": rows, "GROUPS": columns // GROUP, "STAGES": stages}
    grid = _grid(x, len(pairs), rows)
    _multiply_int4[grid](x.contiguous(), pairs, scales, y, len(x), len(pairs), **settings, num_warps=warps)
    return y


@multiply_int4.register_fake
def _(x: torch.Tensor, pairs: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return x.new_empty(len(x), len(pairs))


@torch.library.custom_op("vlmcomp::multiply_nf4", mutates_args=())
def multiply_nf4(x: torch.Tensor, pairs: torch.Tensor, state: Sequence[torch.Tensor]) -> torch.Tensor:
    """``x`` (N, 2, in / 2), even inputs and odd ones, times bitsandbytes' NF4 weights ``pairs`` (out, in / 2) with
    scales that are quantized themselves: (N, out).

    ``state``: scales (out x in / 64), the levels of the weights, those of the scales, the scales' scales, their shift.
    """
    y, (rows, columns, warps, stages) = x.new_empty(len(x), len(pairs)), NF4
    settings = {"BLOCKS": 2 * pairs.shape[1] // NF4_BLOCK, "HALF": NF4_BLOCK // 2, "SCALES": NF4_SCALES}
    settings |= {"ROWS": rows, "STEP": columns // NF4_BLOCK, "STAGES": stages}
    grid = _grid(x, len(pairs), rows)
    _multiply_nf4[grid](x.contiguous(), pairs, *state, y, len(x), len(pairs), **settings, num_warps=warps)
    return y


@multiply_nf4.register_fake
def _(x: torch.Tensor, pairs: torch.Tensor, state: Sequence[torch.Tensor]) -> torch.Tensor:
    return x.new_empty(len(x), len(pairs))


def unpack_int8(packed: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weights (out, in) that INT8 ones stand for."""
    y, (outputs, inputs) = torch.empty_like(packed, dtype=dtype), packed.shape
    _unpack_int8[outputs, triton.cdiv(inputs, 1024)](packed, scale, y, INPUTS=inputs, COLUMNS=1024)
    return y


def unpack_int4(pairs: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weights (out, in) that INT4 ones stand for."""
    y, count = torch.empty(len(pairs), 2 * pairs.shape[1], dtype=dtype, device=pairs.device), scales.numel()
    _unpack_int4[(triton.cdiv(count, 32),)](pairs, scales, y, count, HALF=GROUP // 2, GROUPS=32)
    return y


def in_pairs(codes: torch.Tensor) -> torch.Tensor:
    """INT4 codes (out, in) from 0 to 15 as bytes (out, in / 2)."""
    low, high = codes.to(torch.uint8).unflatten(1, (-1, 2, GROUP // 2)).unbind(2)
    return (low | high << 4).flatten(1)


def of_pairs(pairs: torch.Tensor) -> torch.Tensor:
    """The inverse of ``in_pairs``."""
    halves = pairs.unflatten(1, (-1, GROUP // 2))
    return torch.stack([halves & 15, halves >> 4], dim=2).flatten(1)


def in_one(scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Scales and zeros (out, groups) in bfloat16 as one integer each."""
    return torch.stack([scale, zero], dim=2).view(torch.int32).squeeze(2)


def of_one(scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of ``in_one``."""
    scale, zero = scales.unsqueeze(2).view(torch.bfloat16).unbind(2)
    return scale, zero
