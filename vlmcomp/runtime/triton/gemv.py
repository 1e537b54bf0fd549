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
    """Tile of one program, and its launch settings."""

    rows: int
    inputs: int  # of one iteration
    warps: int
    stages: int


# The fastest of some twenty for the layers of 7 B models on an H200.
DENSE = KernelConfig(2, 2048, 8, 1)
INT8 = KernelConfig(4, 512, 1, 4)
COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)  # Triton's interpreter knows no assembler


@triton.jit
def _bytes_to_float(packed):
    """1 + byte / 32768, with the byte in the mantissa of 1: converting an integer takes several times as long. The 1
    adds the sum of the activations to a sum of products."""
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
    x, y, tokens, outputs, first, second, third, second_start, third_start,
    INPUTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One token times ``ROWS`` rows of weights (outputs, inputs) in three tensors: rows from ``second_start`` and
    ``third_start`` on are in the second and third."""
    token = tl.program_id(0) % tokens
    row = tl.program_id(0) // tokens * ROWS
    weights = first
    start = 0
    if row >= second_start:
        weights = second
        start = second_start
    if row >= third_start:
        weights = third
        start = third_start
    rows = row + tl.arange(0, ROWS)
    row_mask = rows < outputs
    pointers = weights + (rows - start).to(tl.int64)[:, None] * INPUTS
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for begin in tl.range(0, INPUTS, COLUMNS, num_stages=STAGES):
        columns = begin + tl.arange(0, COLUMNS)
        column_mask = columns < INPUTS
        part = tl.load(x + token * INPUTS + columns, mask=column_mask, other=0.0).to(tl.float32)
        values = tl.load(pointers + columns[None, :], mask=row_mask[:, None] & column_mask[None, :], other=0.0)
        total += values.to(tl.float32) * part[None, :]
    tl.store(y + token * outputs + rows, tl.sum(total, 1).to(y.dtype.element_ty), mask=row_mask)


@triton.jit
def _multiply_int8(
    x, y, tokens, outputs, packed, scale,
    INPUTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One token times ``ROWS`` rows of INT8 weights around 128 with a ``scale`` a row."""
    token = tl.program_id(0) % tokens
    rows = tl.program_id(0) // tokens * ROWS + tl.arange(0, ROWS)
    row_mask = rows < outputs
    pointers = packed + rows.to(tl.int64)[:, None] * INPUTS
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    x_sum = tl.zeros((COLUMNS,), tl.float32)
    for begin in tl.range(0, INPUTS, COLUMNS, num_stages=STAGES):
        columns = begin + tl.arange(0, COLUMNS)
        column_mask = columns < INPUTS
        part = tl.load(x + token * INPUTS + columns, mask=column_mask, other=0.0).to(tl.float32)
        values = tl.load(pointers + columns[None, :], mask=row_mask[:, None] & column_mask[None, :], other=0)
        total += _bytes_to_float(values) * part[None, :]
        x_sum += part
    sums = 32768 * tl.sum(total, 1) - (32768 + 128) * tl.sum(x_sum, 0)
    sums *= tl.load(scale + rows, mask=row_mask, other=0.0)
    tl.store(y + token * outputs + rows, sums.to(y.dtype.element_ty), mask=row_mask)


@triton.jit
def _unpack_int8(packed, scale, y, INPUTS: tl.constexpr, COLUMNS: tl.constexpr):
    """Dequantize a part of a row of INT8 weights."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    column_mask = columns < INPUTS
    index = row * INPUTS + columns
    values = (tl.load(packed + index, mask=column_mask, other=0).to(tl.float32) - 128) * tl.load(scale + row)
    tl.store(y + index, values.to(y.dtype.element_ty), mask=column_mask)


def launch(
    kernel: Any, config: KernelConfig, x: torch.Tensor, outputs: int, *weights: torch.Tensor | int, **settings: int
) -> torch.Tensor:
    """Result (N, outputs) of ``kernel`` for the tokens of ``x`` (N, ...).

    Programs that read the same weights for several tokens are neighbors. The grid has one axis, since only the first
    may be long.
    """
    y = x.new_empty(len(x), outputs)
    grid = (len(x) * triton.cdiv(outputs, config.rows),)
    settings |= {"ROWS": config.rows, "STAGES": config.stages, "num_warps": config.warps}
    kernel[grid](x.contiguous(), y, len(x), outputs, *weights, **settings)
    return y


def fake_matmul(x: torch.Tensor, weights: torch.Tensor, *rest: Any) -> torch.Tensor:
    """Empty product of ``x`` (N, ...) and packed ``weights`` (out, ...), for tracers."""
    return x.new_empty(len(x), len(weights))


@torch.library.custom_op("vlmcomp::multiply_dense", mutates_args=())
def multiply_dense(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """``x`` (N, in) times up to three matrices (out, in) with even numbers of outputs: (N, sum of out), summed in
    float32."""
    first, second, third = [*weights, *[weights[-1]] * (3 - len(weights))]
    second_start = len(first)
    third_start = len(first) + len(second)
    outputs = sum(map(len, weights))
    pointers = first, second, third, second_start, third_start if len(weights) > 2 else outputs
    return launch(_multiply_dense, DENSE, x, outputs, *pointers, INPUTS=x.shape[1], COLUMNS=DENSE.inputs)


@multiply_dense.register_fake
def _(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    return x.new_empty(len(x), sum(map(len, weights)))


@torch.library.custom_op("vlmcomp::multiply_int8", mutates_args=())
def multiply_int8(x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """``x`` (N, in) times INT8 weights (out, in), as bytes around 128, with a ``scale`` (out): (N, out) in the dtype
    of x, summed in float32."""
    settings = {"INPUTS": x.shape[1], "COLUMNS": INT8.inputs}
    return launch(_multiply_int8, INT8, x, len(packed), packed, scale, **settings)


multiply_int8.register_fake(fake_matmul)


def dequantize_int8(packed: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weights (out, in) in ``dtype``."""
    y = torch.empty_like(packed, dtype=dtype)
    (outputs, inputs) = packed.shape
    _unpack_int8[outputs, triton.cdiv(inputs, 1024)](packed, scale, y, INPUTS=inputs, COLUMNS=1024)
    return y
