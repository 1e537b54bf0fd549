"""Triton kernels for one token on a GPU: products with INT4 weights, torchao's and bitsandbytes' NF4."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from vlmcomp.runtime.triton.gemv import COMPILED, KernelConfig, fake_matmul, launch

NF4_BLOCK = 64  # weights that share a scale, and scales that share theirs
NF4_SCALES = 256
INT4 = KernelConfig(8, 1024, 2, 3)
NF4 = KernelConfig(8, 1024, 4, 1)


@triton.jit
def _halves_to_float(packed):
    """1 + value / 2048 of the low and of the high half of a byte."""
    if COMPILED:
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
        low = (wide & 15) << 12 | 0x3F800000
        high = (wide & 240) << 8 | 0x3F800000
        return low.to(tl.float32, bitcast=True), high.to(tl.float32, bitcast=True)


@triton.jit
def _multiply_int4(
    x, y, tokens, outputs, pairs, scales,
    ALL: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One token times ``ROWS`` rows of INT4 weights. A byte contains an input of its group's first half (low) and one
    of its second; the token's first halves of all groups come before its second ones."""
    token = tl.program_id(0) % tokens
    rows = tl.program_id(0) // tokens * ROWS + tl.arange(0, ROWS)
    BYTES: tl.constexpr = ALL * HALF
    row_mask = rows < outputs
    first = x + token * 2 * BYTES
    pointers = pairs + rows.to(tl.int64)[:, None] * BYTES
    of_row = scales + rows.to(tl.int64)[:, None] * ALL
    total = tl.zeros((ROWS, GROUPS), tl.float32)
    for start in tl.range(0, ALL, GROUPS, num_stages=STAGES):
        column = start * HALF + tl.arange(0, GROUPS * HALF)
        group = start + tl.arange(0, GROUPS)
        mask = column < BYTES
        low = tl.load(first + column, mask=mask, other=0.0).to(tl.float32)
        high = tl.load(first + BYTES + column, mask=mask, other=0.0).to(tl.float32)
        byte = tl.load(pointers + column[None, :], mask=row_mask[:, None] & mask[None, :], other=0)
        both = tl.load(of_row + group[None, :], mask=row_mask[:, None] & (group < ALL)[None, :], other=0)
        size, shift = _scale_and_zero(both)
        left, right = _halves_to_float(byte)
        sums = tl.sum(tl.reshape(left * low[None, :] + right * high[None, :], (ROWS, GROUPS, HALF)), 2)
        x_sum = tl.sum(tl.reshape(low + high, (GROUPS, HALF)), 1)
        total += 2048 * sums * size + (shift - (2048 + 8) * size) * x_sum[None, :]
    tl.store(y + token * outputs + rows, tl.sum(total, 1).to(y.dtype.element_ty), mask=row_mask)


@triton.jit
def _scale_and_zero(both):
    """The two bfloat16 of a 32-bit integer."""
    return (both << 16).to(tl.float32, bitcast=True), (both & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _multiply_nf4(
    x, y, tokens, outputs, pairs, scale, levels, scale_levels, scale_scale, shift,
    BLOCKS: tl.constexpr, HALF: tl.constexpr, SCALES: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One token times ``ROWS`` rows of bitsandbytes' NF4 weights. A byte contains two neighbors, the first one high;
    the token's even inputs come before its odd ones. The scale of a block is one of ``scale_levels`` times a factor
    that ``SCALES`` blocks share, plus ``shift``."""
    token = tl.program_id(0) % tokens
    rows = tl.program_id(0) // tokens * ROWS + tl.arange(0, ROWS)
    row_mask = rows < outputs
    within = tl.arange(0, HALF)
    total = tl.zeros((ROWS, STEP), tl.float32)
    first = x + token * BLOCKS * 2 * HALF
    least = tl.load(shift)
    for start in tl.range(0, BLOCKS, STEP, num_stages=STAGES):
        block = start + tl.arange(0, STEP)
        mask = block < BLOCKS
        tile_mask = row_mask[:, None] & mask[None, :]
        pointers = first + block[:, None] * HALF + within[None, :]
        even = tl.load(pointers, mask=mask[:, None], other=0.0).to(tl.float32)
        odd = tl.load(pointers + BLOCKS * HALF, mask=mask[:, None], other=0.0).to(tl.float32)
        of_row = rows.to(tl.int64)[:, None] * BLOCKS + block[None, :]
        byte = tl.load(pairs + of_row[:, :, None] * HALF + within[None, None, :], mask=tile_mask[:, :, None], other=0)
        size = tl.load(scale_levels + tl.load(scale + of_row, mask=tile_mask, other=0).to(tl.int32))
        size = size * tl.load(scale_scale + of_row // SCALES, mask=tile_mask, other=0.0) + least
        byte = byte.to(tl.int32)
        values = tl.load(levels + (byte >> 4)) * even[None, :, :] + tl.load(levels + (byte & 15)) * odd[None, :, :]
        total += tl.sum(values, 2) * size
    tl.store(y + token * outputs + rows, tl.sum(total, 1).to(y.dtype.element_ty), mask=row_mask)


@triton.jit
def _unpack_int4(pairs, scales, y, count, HALF: tl.constexpr, GROUPS: tl.constexpr):
    """Dequantize ``GROUPS`` groups of INT4 weights."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    within = tl.arange(0, HALF)
    mask = group < count
    byte = tl.load(pairs + group[:, None] * HALF + within[None, :], mask=mask[:, None], other=0)
    size, shift = _scale_and_zero(tl.load(scales + group, mask=mask, other=0))
    low = ((byte & 15).to(tl.float32) - 8) * size[:, None] + shift[:, None]
    high = ((byte >> 4).to(tl.float32) - 8) * size[:, None] + shift[:, None]
    target = y + group[:, None] * 2 * HALF + within[None, :]
    tl.store(target, low.to(y.dtype.element_ty), mask=mask[:, None])
    tl.store(target + HALF, high.to(y.dtype.element_ty), mask=mask[:, None])


@torch.library.custom_op("vlmcomp::multiply_int4", mutates_args=())
def multiply_int4(x: torch.Tensor, pairs: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """``x`` (N, 2, in / 2), the first halves of all groups and the second ones, times INT4 weights: ``pairs``
    (out, in / 2) as ``pack_int4`` returns them, ``scales`` (out, groups) as ``pack_scales_and_zeros`` does."""
    half = pairs.shape[1] // scales.shape[1]
    settings = {"ALL": scales.shape[1], "HALF": half, "GROUPS": INT4.inputs // (2 * half)}
    return launch(_multiply_int4, INT4, x, len(pairs), pairs, scales, **settings)


multiply_int4.register_fake(fake_matmul)


@torch.library.custom_op("vlmcomp::multiply_nf4", mutates_args=())
def multiply_nf4(x: torch.Tensor, pairs: torch.Tensor, state: Sequence[torch.Tensor]) -> torch.Tensor:
    """``x`` (N, 2, in / 2), even inputs and odd ones, times bitsandbytes' NF4 weights ``pairs`` (out, in / 2) with
    scales that are quantized themselves: (N, out).

    ``state``: scales (out x in / 64), the levels of the weights, those of the scales, the scales' scales, their shift.
    """
    settings = {"BLOCKS": 2 * pairs.shape[1] // NF4_BLOCK, "HALF": NF4_BLOCK // 2, "SCALES": NF4_SCALES}
    return launch(_multiply_nf4, NF4, x, len(pairs), pairs, *state, STEP=NF4.inputs // NF4_BLOCK, **settings)


multiply_nf4.register_fake(fake_matmul)


def dequantize_int4(pairs: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weights (out, in) in ``dtype``."""
    y = torch.empty(len(pairs), 2 * pairs.shape[1], dtype=dtype, device=pairs.device)
    count = scales.numel()
    half = pairs.shape[1] // scales.shape[1]
    _unpack_int4[(triton.cdiv(count, 32),)](pairs, scales, y, count, HALF=half, GROUPS=32)
    return y


def deinterleave(tokens: torch.Tensor, run_length: int) -> torch.Tensor:
    """``tokens`` (N, in) as (N, 2, in / 2): the first of every two runs of ``run_length`` inputs, and the second ones.

    Inductor fuses this with the operator before.
    """
    return tokens.unflatten(1, (-1, 2, run_length)).transpose(1, 2).flatten(2)


def pack_int4(qweight: torch.Tensor, group_size: int) -> torch.Tensor:
    """INT4 weights (out, in) from 0 to 15 in groups of ``group_size`` inputs as bytes (out, in / 2)."""
    low, high = qweight.to(torch.uint8).unflatten(1, (-1, 2, group_size // 2)).unbind(2)
    return (low | high << 4).flatten(1)


def unpack_int4(pairs: torch.Tensor, group_size: int) -> torch.Tensor:
    """The inverse of ``pack_int4``."""
    halves = pairs.unflatten(1, (-1, group_size // 2))
    return torch.stack([halves & 15, halves >> 4], dim=2).flatten(1)


def pack_scales_and_zeros(scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Scales and zeros (out, groups) in bfloat16 as one integer each."""
    return torch.stack([scale, zero], dim=2).view(torch.int32).squeeze(2)


def unpack_scales_and_zeros(scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of ``pack_scales_and_zeros``."""
    scale, zero = scales.unsqueeze(2).view(torch.bfloat16).unbind(2)
    return scale, zero
