"""Triton kernels for one token on a GPU: products with dense and INT8 weights.

Decoding reads all weights for every token, so a kernel that unpacks them in registers takes as much less time as they
take less memory. All kernels are PyTorch operators: a CUDA graph captures them, and Inductor calls them as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl


class KernelConfig(NamedTuple):
    """What a program computes, and how."""

    rows: int
    inputs: int  # at a time
    warps: int
    stages: int


# The fastest of some twenty for the layers of 7 B models on an H200.
DENSE, INT8 = KernelConfig(2, 2048, 8, 1), KernelConfig(4, 512, 1, 4)
COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)  # Triton's interpreter knows no assembler


@triton.jit
def _bytes(packed):
    """1 + byte / 32768: the byte is put into the mantissa of 1, since to convert an integer takes several times as
    long. What the 1 adds to a sum of products is the sum of the activations."""
    if COMPILED:
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
def _multiply_dense(
    x, y, tokens, outputs, first, second, third, until, then,
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
    x, y, tokens, outputs, packed, scale,
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
def _unpack_int8(packed, scale, y, INPUTS: tl.constexpr, COLUMNS: tl.constexpr):
    """A part of a row of INT8 weights."""
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there, place = columns < INPUTS, row * INPUTS + columns
    values = (tl.load(packed + place, mask=there, other=0).to(tl.float32) - 128) * tl.load(scale + row)
    tl.store(y + place, values.to(y.dtype.element_ty), mask=there)


def launch(
    kernel: Any, tile: KernelConfig, x: torch.Tensor, outputs: int, *weights: torch.Tensor | int, **settings: int
) -> torch.Tensor:
    """What ``kernel`` makes of every token of ``x`` (N, ...): (N, outputs). Programs that read the same weights for
    several tokens follow each other; there is one axis of them, since only one may be long."""
    y, grid = x.new_empty(len(x), outputs), (len(x) * triton.cdiv(outputs, tile.rows),)
    settings |= {"ROWS": tile.rows, "STAGES": tile.stages, "num_warps": tile.warps}
    kernel[grid](x.contiguous(), y, len(x), outputs, *weights, **settings)
    return y


def fake_matmul(x: torch.Tensor, weights: torch.Tensor, *rest: Any) -> torch.Tensor:
    """What the product of ``x`` (N, ...) and packed ``weights`` (out, ...) looks like, for tracers."""
    return x.new_empty(len(x), len(weights))


@torch.library.custom_op("vlmcomp::multiply_dense", mutates_args=())
def multiply_dense(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """``x`` (N, in) times up to three matrices (out, in), whose numbers of outputs are even: (N, sum of out), summed in
    float32."""
    first, second, third = [*weights, *[weights[-1]] * (3 - len(weights))]
    until, then, outputs = len(first), len(first) + len(second), sum(map(len, weights))
    places = first, second, third, until, then if len(weights) > 2 else outputs
    return launch(_multiply_dense, DENSE, x, outputs, *places, INPUTS=x.shape[1], COLUMNS=DENSE.inputs)


@multiply_dense.register_fake
def _(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    return x.new_empty(len(x), sum(map(len, weights)))


@torch.library.custom_op("vlmcomp::multiply_int8", mutates_args=())
def multiply_int8(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """``x`` (N, in) times INT8 weights (out, in), held as bytes around 128, with a ``scale`` (out): (N, out) in x's
    dtype, summed in float32."""
    settings = {"INPUTS": x.shape[1], "COLUMNS": INT8.inputs}
    return launch(_multiply_int8, INT8, x, len(packed), packed, scale, **settings)


multiply_int8.register_fake(fake_matmul)


def dequantize_int8(packed: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weights (out, in) that INT8 ones stand for."""
    y, (outputs, inputs) = torch.empty_like(packed, dtype=dtype), packed.shape
    _unpack_int8[outputs, triton.cdiv(inputs, 1024)](packed, scale, y, INPUTS=inputs, COLUMNS=1024)
    return y
