"""Linears on a GPU whose packed weights meet activations in 16 bits: a token or a few by Triton's kernels, a prompt by
weights that are unpacked for it.

That rounds less than LLM.int8(), which rounds activations too, and leaves the host nothing to wait for, so that a CUDA
graph can hold a decoding step.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn

from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.feedback import first_line
from vlmcomp.runtime.device import current
from vlmcomp.runtime.linear.fused import IntegerLinear, Product, ProductLinear

_log = logging.getLogger(__name__)
FEW = 8  # tokens, each of which reads the weights anew; more are multiplied by weights that are unpacked for them


def available(device: torch.device) -> bool:
    """Whether Triton's kernels run on ``device``, which takes a C compiler, Python's headers, and a GPU that Triton
    knows."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None and _runs(device, os.getpid())


@cache
def _runs(device: torch.device, process: int) -> bool:
    """Tried once a process: on ZeroGPU the workers have a GPU that their parent lacks."""
    try:
        from vlmcomp.runtime.triton.gemv import multiply_int8

        with current(device):
            codes = torch.full((4, 64), 129, dtype=torch.uint8, device=device)
            ones = torch.ones(4, 64, device=device)
            right = bool((multiply_int8(ones[:1], codes, ones[:, 0]) == 64).all())
    except Exception as error:  # of Triton's, of a C compiler, of CUDA
        _log.warning("Triton's kernels do not run here, the libraries' own do instead: %s", first_line(error))
        return False
    return right


class _WeightOnly(Product):
    """Weights (out, in) for the kernels, whose modules are imported where they are used: what has no GPU may not have
    Triton."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (..., in) times the weights: (..., out) in its dtype."""
        tokens = x.reshape(-1, x.shape[-1])
        y = self.by_kernel(tokens) if len(tokens) <= FEW else tokens @ self.unpacked(x.dtype).t()
        return y.view(*x.shape[:-1], -1)

    def by_kernel(self, tokens: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        raise NotImplementedError


class Int8(_WeightOnly):
    """INT8 with a scale a row."""

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.packed, self.scale = (codes ^ -128).view(torch.uint8), scale.float()  # around 128

    def codes(self) -> torch.Tensor:
        return self.packed.view(torch.int8) ^ -128

    def by_kernel(self, tokens: torch.Tensor) -> torch.Tensor:
        from vlmcomp.runtime.triton.gemv import multiply_int8

        return multiply_int8(tokens, self.packed, self.scale)

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        from vlmcomp.runtime.triton.gemv import unpack_int8

        return unpack_int8(self.packed, self.scale, dtype)


class Int4(_WeightOnly):
    """INT4 with scales and zeros (out, groups), as ``triton_int4`` lays them out."""

    def __init__(self, pairs: torch.Tensor, scales: torch.Tensor) -> None:
        self.pairs, self.scales = pairs, scales

    def codes(self) -> torch.Tensor:
        """The weights (out, in) from 0 to 15, exactly as they were quantized."""
        from vlmcomp.runtime.triton.gemv_int4 import of_pairs

        return of_pairs(self.pairs)

    def by_kernel(self, tokens: torch.Tensor) -> torch.Tensor:
        from vlmcomp.runtime.triton.gemv_int4 import halves, multiply_int4

        return multiply_int4(halves(tokens, torchao_tensors.GROUP // 2), self.pairs, self.scales)

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        from vlmcomp.runtime.triton.gemv_int4 import unpack_int4

        return unpack_int4(self.pairs, self.scales, dtype)


class Dense(Product):
    """Dense weights, which stay where their Linears have them; for few tokens."""

    def __init__(self, *weights: torch.Tensor) -> None:
        self.weights = weights

    @classmethod
    def of(cls, parts: Sequence[tuple[torch.Tensor, ...]]) -> Dense:
        return cls(*(weight for (weight,) in parts))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        from vlmcomp.runtime.triton.gemv import multiply_dense

        return multiply_dense(x.reshape(-1, x.shape[-1]), self.weights).view(*x.shape[:-1], -1)


class DenseLinear(ProductLinear):
    """A dense Linear, whose prompts stay PyTorch's."""

    def take(self) -> tuple[torch.Tensor, ...]:
        return (self.weight,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        few = x.numel() <= FEW * self.in_features
        return super().forward(x) if few else nn.functional.linear(x, self.weight, self.bias)


class Int4Linear(IntegerLinear):
    """A Linear of torchao's INT4 weights."""

    @torch.no_grad()
    def take(self) -> tuple[torch.Tensor, ...]:
        from vlmcomp.runtime.triton.gemv_int4 import in_one, in_pairs

        small = self.weight
        self.weight = nn.Parameter(small.to("meta"), requires_grad=False)
        return in_pairs(torchao_tensors.codes(small)), in_one(small.scale.t(), small.zero_point.t())

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        from vlmcomp.runtime.triton.gemv_int4 import of_one

        whole: Any = self.shared.product
        destination[f"{prefix}weight"] = torchao_tensors.int4_of(self.codes().int(), *of_one(whole.scales[self.rows]))


class Nf4Linear(bnb.nn.Linear4bit):
    """bitsandbytes' NF4 Linear; its kernel reads what bitsandbytes stores."""

    @staticmethod
    def takes(linear: nn.Module) -> bool:
        """Whether ``linear`` is such a one, with scales that are quantized, in blocks that no row's end cuts."""
        state = getattr(getattr(linear, "weight", None), "quant_state", None)
        return (
            type(linear) is bnb.nn.Linear4bit
            and state is not None
            and (state.quant_type, state.blocksize, state.nested) == ("nf4", 64, True)
            and state.state2.blocksize == 256
            and linear.in_features % 64 == 0
        )

    def pack(self) -> None:
        """Note where the weights lie."""
        state = self.weight.quant_state
        self.pairs = self.weight.data.view(torch.uint8).view(self.out_features, -1)
        self.levels = [state.absmax, state.code, state.state2.code, state.state2.absmax, state.offset]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from vlmcomp.runtime.triton.gemv_int4 import halves, multiply_nf4

        tokens = x.reshape(-1, x.shape[-1])
        if len(tokens) > FEW:
            return super().forward(x)
        y = multiply_nf4(halves(tokens, 1), self.pairs, self.levels).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias
