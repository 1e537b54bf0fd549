"""Linears on a GPU whose packed weights meet activations in 16 bits: a token or a few by Triton's kernels, a prompt by
weights that are unpacked for it.

That rounds less than LLM.int8(), which rounds activations too, and leaves the host nothing to wait for, so that a CUDA
graph can hold a decoding step.
"""

from __future__ import annotations

import importlib.util
from functools import cached_property
from types import ModuleType
from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn

from vlmcomp import packed
from vlmcomp.integer import IntegerLinear, Product


def available(device: torch.device) -> bool:
    """Whether Triton makes kernels for ``device`` here."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


class _WeightOnly(Product):
    """Packed weights (out, in) for the kernels, which read them as they lie."""

    @cached_property
    def kernels(self) -> ModuleType:
        from vlmcomp import triton_kernels  # what has no GPU may not have Triton

        return triton_kernels

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (..., in) times the weights: (..., out) in its dtype."""
        tokens = x.reshape(-1, x.shape[-1])
        few = len(tokens) <= self.kernels.FEW
        y = self.by_kernel(tokens) if few else tokens @ self.unpacked(x.dtype).t()
        return y.view(*x.shape[:-1], -1)

    def by_kernel(self, tokens: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        raise NotImplementedError


class Int8(_WeightOnly):
    """INT8 with a scale a row."""

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.packed, self.scale = codes.contiguous(), scale.float()

    def codes(self) -> torch.Tensor:
        return self.packed

    def by_kernel(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.kernels.multiply(tokens, self.packed, self.scale)

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        dense = torch.empty_like(self.packed, dtype=dtype)
        return torch.mul(self.packed, self.scale[:, None], out=dense)  # rounded once


class Int4(_WeightOnly):
    """INT4 with scales and zeros (out, groups)."""

    def __init__(self, pairs: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> None:
        self.pairs, self.scale, self.zero = pairs, scale, zero

    def codes(self) -> torch.Tensor:
        """The weights (out, in) from 0 to 15, exactly as they were quantized."""
        return self.kernels.of_pairs(self.pairs)

    def by_kernel(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.kernels.multiply_int4(tokens, self.pairs, self.scale, self.zero)

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        return self.kernels.unpack_int4(self.pairs, self.scale, self.zero, dtype)


def product(*parts: torch.Tensor) -> Product:
    """INT8 ``codes`` and ``scale``, or INT4 ``pairs``, ``scale`` and ``zero``."""
    return Int8(*parts) if len(parts) == 2 else Int4(*parts)


class Int4Linear(IntegerLinear):
    """A Linear of torchao's INT4 weights."""

    @torch.no_grad()
    def take(self) -> tuple[torch.Tensor, ...]:
        from vlmcomp.triton_kernels import in_pairs

        small = self.weight
        self.weight = nn.Parameter(small.to("meta"), requires_grad=False)
        return in_pairs(packed.codes(small)), *(part.t().contiguous() for part in (small.scale, small.zero_point))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        whole: Any = self.shared.product
        small = packed.int4_of(self.codes().to(torch.int32), whole.scale[self.rows], whole.zero[self.rows])
        destination[f"{prefix}weight"] = small


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
        from vlmcomp import triton_kernels

        tokens = x.reshape(-1, x.shape[-1])
        if len(tokens) > triton_kernels.FEW:
            return super().forward(x)
        y = triton_kernels.multiply_nf4(tokens, self.pairs, self.levels).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias
