"""Linears on a GPU with 16-bit activations: Triton kernels for a token or a few, dequantized weights for a prompt.

That rounds less than LLM.int8(), which quantizes activations too, and never synchronizes with the host, so a decoding
step can be a CUDA graph.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import bitsandbytes as bnb
import torch
from torch import nn

from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.feedback import error_summary
from vlmcomp.runtime import triton as kernels
from vlmcomp.runtime.device import device_context
from vlmcomp.runtime.linear.fused import FusedLinear, PackedMatmul, QuantizedFusedLinear
from vlmcomp.runtime.linear.replacement import ReplacementLinear

Nf4T = TypeVar("Nf4T", bound="Nf4Linear")
_log = logging.getLogger(__name__)
MAX_GEMV_TOKENS = 8  # the kernels read the weights for each token; more tokens use dequantized weights


def triton_available(device: torch.device) -> bool:
    """Whether Triton kernels run on ``device``: a GPU that Triton supports, a C compiler and Python's headers."""
    return (
        device.type == "cuda" and importlib.util.find_spec("triton") is not None and _triton_runs(device, os.getpid())
    )


@cache
def _triton_runs(device: torch.device, process: int) -> bool:
    """Result of a trial, once a process: on ZeroGPU the workers have a GPU that their parent lacks."""
    try:
        with device_context(device):
            qweight = torch.full((4, 64), 129, dtype=torch.uint8, device=device)
            ones = torch.ones(4, 64, device=device)
            return bool((kernels.gemv.multiply_int8(ones[:1], qweight, ones[:, 0]) == 64).all())
    except Exception as error:  # of Triton, of a C compiler, of CUDA
        _log.warning("Triton's kernels do not run here, the libraries' own do instead: %s", error_summary(error))
        return False


class _WeightOnlyMatmul(PackedMatmul):
    """A product of 16-bit activations with packed weights (out, in)."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (..., in) times the weights: (..., out) in its dtype."""
        tokens = x.reshape(-1, x.shape[-1])
        y = self.gemv(tokens) if len(tokens) <= MAX_GEMV_TOKENS else tokens @ self.dequantize(x.dtype).t()
        return y.view(*x.shape[:-1], -1)

    def gemv(self, tokens: torch.Tensor) -> torch.Tensor:
        """The product for a few tokens (N, in), by a Triton kernel."""
        raise NotImplementedError

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights (out, in)."""
        raise NotImplementedError


class Int8Gemv(_WeightOnlyMatmul):
    """Product with INT8 weights that have a scale a row."""

    def __init__(self, qweight: torch.Tensor, scale: torch.Tensor) -> None:
        self.packed = (qweight ^ -128).view(torch.uint8)  # around 128
        self.scale = scale.float()

    def qweight(self) -> torch.Tensor:
        return self.packed.view(torch.int8) ^ -128

    def gemv(self, tokens: torch.Tensor) -> torch.Tensor:
        return kernels.gemv.multiply_int8(tokens, self.packed, self.scale)

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        return kernels.gemv.dequantize_int8(self.packed, self.scale, dtype)


class Int4Gemv(_WeightOnlyMatmul):
    """Product with INT4 weights.

    Args:
        packed: (out, in / 2) bytes as ``triton.gemv_int4.pack_int4`` returns them.
        scales: (out, groups) scales and zero points as ``pack_scales_and_zeros`` returns them.
    """

    def __init__(self, packed: torch.Tensor, scales: torch.Tensor) -> None:
        self.packed = packed
        self.scales = scales
        self.group_size = 2 * packed.shape[1] // scales.shape[1]

    def qweight(self) -> torch.Tensor:
        """The quantized weights (out, in) from 0 to 15, exactly."""
        return kernels.gemv_int4.unpack_int4(self.packed, self.group_size)

    def gemv(self, tokens: torch.Tensor) -> torch.Tensor:
        activations = kernels.gemv_int4.deinterleave(tokens, self.group_size // 2)
        return kernels.gemv_int4.multiply_int4(activations, self.packed, self.scales)

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        return kernels.gemv_int4.dequantize_int4(self.packed, self.scales, dtype)


class DenseGemv(PackedMatmul):
    """Product of a few tokens with dense weights, which stay in their Linears' memory."""

    def __init__(self, *weights: torch.Tensor) -> None:
        self.weights = weights

    @classmethod
    def concatenate(cls, weights: Sequence[tuple[torch.Tensor, ...]]) -> DenseGemv:
        return cls(*(weight for (weight,) in weights))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return kernels.gemv.multiply_dense(x.reshape(-1, x.shape[-1]), self.weights).view(*x.shape[:-1], -1)


class DenseLinear(FusedLinear):
    """A dense Linear that multiplies a few tokens by Triton and a prompt by PyTorch."""

    def release_weight(self) -> tuple[torch.Tensor, ...]:
        return (self.weight,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        few_tokens = x.numel() <= MAX_GEMV_TOKENS * self.in_features
        return super().forward(x) if few_tokens else nn.functional.linear(x, self.weight, self.bias)


class TorchaoInt4Linear(QuantizedFusedLinear):
    """A Linear with torchao's INT4 weights."""

    @torch.no_grad()
    def release_weight(self) -> tuple[torch.Tensor, ...]:
        weight: Any = self.weight
        self.weight = nn.Parameter(weight.to("meta"), requires_grad=False)
        packed = kernels.gemv_int4.pack_int4(torchao_tensors.unpack_int4(weight), weight.block_size[1])
        return packed, kernels.gemv_int4.pack_scales_and_zeros(weight.scale.t(), weight.zero_point.t())

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        matmul: Any = self.projection.matmul
        scale, zero = kernels.gemv_int4.unpack_scales_and_zeros(matmul.scales[self.columns])
        destination[f"{prefix}weight"] = torchao_tensors.make_int4(self.qweight().int(), scale, zero)


class Nf4Linear(ReplacementLinear, bnb.nn.Linear4bit):
    """bitsandbytes' NF4 Linear with a Triton kernel that reads the weights as bitsandbytes stores them.

    Attributes:
        packed: (out, in / 2) bytes, two weights each.
        quant_tensors: scales, weight levels, scale levels, scales of the scales, and their offset.
    """

    packed: torch.Tensor
    quant_tensors: list[torch.Tensor]

    @staticmethod
    def accepts(linear: nn.Module) -> bool:
        """Whether ``linear`` is NF4 with quantized scales, and no block of weights crosses the end of a row."""
        state = getattr(getattr(linear, "weight", None), "quant_state", None)
        return (
            type(linear) is bnb.nn.Linear4bit
            and state is not None
            and (state.quant_type, state.blocksize, state.nested) == ("nf4", 64, True)
            and state.state2.blocksize == 256
            and linear.in_features % 64 == 0
        )

    @classmethod
    def from_linear(cls: type[Nf4T], linear: nn.Linear) -> Nf4T:
        new = super().from_linear(linear)
        weight: Any = linear.weight
        weight.module = new
        state = weight.quant_state
        new.packed = weight.data.view(torch.uint8).view(linear.out_features, -1)
        new.quant_tensors = [state.absmax, state.code, state.state2.code, state.state2.absmax, state.offset]
        return new

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        if len(tokens) > MAX_GEMV_TOKENS:
            return super().forward(x)
        activations = kernels.gemv_int4.deinterleave(tokens, 1)
        y = kernels.gemv_int4.multiply_nf4(activations, self.packed, self.quant_tensors).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias
