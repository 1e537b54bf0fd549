"""INT8 products on a CPU by FBGEMM or oneDNN, with INT8 activations.

Activations are quantized per token to 127 levels, so results do not depend on the batch. In decoding, where reading the
weights takes the time, the rounding error of a token is multiplied as a second token: twice the bits for the price of
one. In a prompt that is done for tokens with values beyond the threshold alone, which LLM.int8() (Dettmers et al.,
arXiv 2208.07339) computes in 16 bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from vlmcomp.private_ops import (
    fbgemm_int8_linear,
    fbgemm_pack_int8,
    fbgemm_unpack_int8,
    onednn_int8_linear,
    onednn_pack_int8,
)
from vlmcomp.recipe import LLM_INT8_THRESHOLD
from vlmcomp.runtime.linear.fused import PackedMatmul

_LEVELS = 127
_ZERO_POINT = 128  # of oneDNN's activations: without AMX only products of unsigned activations are fast
_MIN_SCALE = 1e-12
_UNPACK_INPUTS = 256  # inputs that are unpacked at a time


class _Quantized(NamedTuple):
    """Activations of N tokens, in units of their scale."""

    levels: torch.Tensor  # (N, in), not yet rounded
    scale: torch.Tensor  # (N, 1)
    offset: torch.Tensor  # (N, 1) value of level 0, if the kernel uses one
    abs_max: torch.Tensor  # (N, 1)


class _DynamicInt8Matmul(PackedMatmul):
    """A product of integers, with activations quantized per token."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, x.shape[-1]).float()
        quantized = self._quantize(tokens)
        if x.shape[-2] == 1:  # decoding: no branch depends on values, so a step can be captured
            y = self._matmul_two_pass(quantized.levels)
        else:
            y = self._matmul_prompt(quantized)
        return self._dequantize_(y, quantized).view(*x.shape[:-1], -1)

    def _matmul_prompt(self, quantized: _Quantized) -> torch.Tensor:
        outliers = quantized.abs_max.flatten().gt(LLM_INT8_THRESHOLD).nonzero().flatten()
        exact = self._matmul_two_pass(quantized.levels[outliers]) if len(outliers) else None
        y = self._matmul(quantized.levels.round_())
        if exact is not None:
            y.index_copy_(0, outliers, exact)
        return y

    def _quantize(self, tokens: torch.Tensor) -> _Quantized:
        """``tokens`` (N, in) in levels."""
        raise NotImplementedError

    def _matmul(self, levels: torch.Tensor) -> torch.Tensor:
        """Product of integer ``levels`` (N, in) with the weights."""
        raise NotImplementedError

    def _matmul_two_pass(self, levels: torch.Tensor) -> torch.Tensor:
        """Product of ``levels`` before rounding, with twice the bits."""
        raise NotImplementedError

    def _dequantize_(self, y: torch.Tensor, quantized: _Quantized) -> torch.Tensor:
        """Turn the product of levels into that of the activations, in place."""
        raise NotImplementedError


class FbgemmMatmul(_DynamicInt8Matmul):
    """Levels from a token's minimum to its maximum, 7 bits: 8 overflow on CPUs without VNNI.

    The kernel quantizes all tokens of a call with one range, so they are shifted and scaled to the same one before; the
    row sums of the weight make up for the shift.
    """

    @torch.no_grad()
    def __init__(self, qweight: torch.Tensor, scale: torch.Tensor) -> None:
        self.row_sums = qweight.sum(1, dtype=torch.float32) * scale
        self.half_row_sums = 0.5 * self.row_sums
        self.packed = fbgemm_pack_int8(qweight, scale)

    def qweight(self) -> torch.Tensor:
        return fbgemm_unpack_int8(self.packed)

    def _quantize(self, tokens: torch.Tensor) -> _Quantized:
        low = tokens.amin(1, keepdim=True)
        high = tokens.amax(1, keepdim=True)  # aminmax takes ten times as long
        scale = (high - low).clamp_min(_MIN_SCALE) / _LEVELS
        return _Quantized((tokens - low).div_(scale), scale, low, torch.maximum(-low, high))

    def _matmul(self, levels: torch.Tensor) -> torch.Tensor:
        return fbgemm_int8_linear(levels, self.packed)

    def _matmul_two_pass(self, levels: torch.Tensor) -> torch.Tensor:
        rounded = levels.round()
        error = (levels - rounded + 0.5) * _LEVELS
        both = self._matmul(torch.cat([rounded, error]))
        y = both[: len(levels)]
        correction = both[len(levels) :]
        return torch.add(y - self.half_row_sums, correction, alpha=1 / _LEVELS)

    def _dequantize_(self, y: torch.Tensor, quantized: _Quantized) -> torch.Tensor:
        return y.addcmul_(quantized.offset / quantized.scale, self.row_sums).mul_(quantized.scale)


class OnednnMatmul(_DynamicInt8Matmul):
    """Levels symmetric around zero, 8 bits: for CPUs with VNNI or AMX, which do not overflow."""

    @torch.no_grad()
    def __init__(self, qweight: torch.Tensor, scale: torch.Tensor) -> None:
        self.scale = scale
        self.zero_points = torch.zeros(len(qweight), dtype=torch.long)
        self.in_features = qweight.shape[1]
        self.packed = onednn_pack_int8(qweight)

    @torch.no_grad()
    def qweight(self) -> torch.Tensor:
        """The quantized weights (out, in), read by multiplying unit vectors: exact for any layout."""
        unit_scale = torch.ones_like(self.scale)
        columns: list[torch.Tensor] = []
        for indices in torch.arange(self.in_features).split(_UNPACK_INPUTS):
            units = (nn.functional.one_hot(indices, self.in_features) + _ZERO_POINT).to(torch.uint8)
            values = onednn_int8_linear(units, self.packed, unit_scale, self.zero_points)
            columns.append(values.t().to(torch.int8))
        return torch.cat(columns, dim=1)

    def _quantize(self, tokens: torch.Tensor) -> _Quantized:
        abs_max = tokens.abs().amax(1, keepdim=True)
        scale = abs_max.clamp_min(_MIN_SCALE) / _LEVELS
        return _Quantized(tokens / scale, scale, scale, abs_max)

    def _matmul(self, levels: torch.Tensor) -> torch.Tensor:
        unsigned = (levels + _ZERO_POINT).to(torch.uint8)
        return onednn_int8_linear(unsigned, self.packed, self.scale, self.zero_points)

    def _matmul_two_pass(self, levels: torch.Tensor) -> torch.Tensor:
        rounded = levels.round()
        error = ((levels - rounded) * (2 * _LEVELS)).round_()
        both = self._matmul(torch.cat([rounded, error]))
        y = both[: len(levels)]
        correction = both[len(levels) :]
        return torch.add(y, correction, alpha=0.5 / _LEVELS)

    def _dequantize_(self, y: torch.Tensor, quantized: _Quantized) -> torch.Tensor:
        return y.mul_(quantized.scale)
