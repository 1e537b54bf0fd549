"""Linears with torchao's INT4 weights on a CPU, multiplied by PyTorch's tinygemm kernel.

The kernel is made for few tokens: a prompt is multiplied several times faster by weights unpacked for it. torchao's own
Int4OpaqueTensor calls the same kernel, but a decoding step with its tensor subclass cannot be captured.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.private_ops import tinygemm_int4_linear, tinygemm_pack_int4
from vlmcomp.runtime.linear.replacement import ReplacementLinear

TinygemmT = TypeVar("TinygemmT", bound="TinygemmLinear")
_UNPACK_INPUTS = 256  # inputs that are unpacked at a time
_MAX_KERNEL_TOKENS = 128  # more are multiplied faster by unpacked weights


class _Layout(NamedTuple):
    """Order of the packed weights, which depends on the vector width that PyTorch's kernels were chosen for."""

    block: int  # outputs that are stored together
    pairs_halves: bool  # a byte contains an output of the block's first and one of its second half, else two neighbors


_LAYOUTS = (_Layout(64, True), _Layout(32, True), _Layout(32, False))


class TinygemmLinear(ReplacementLinear):
    """INT4 weights (out, in) in the kernel's layout alone.

    For the kernel, activations are rounded to bfloat16: it is twenty times slower with other dtypes.

    Attributes:
        packed_weight: (out, in / 2) bytes.
        scale_and_zero: (groups, out, 2) in bfloat16.
        layout: layout of ``packed_weight``; None if it is unknown, and the kernel multiplies prompts too.
    """

    packed_weight: torch.Tensor
    scale_and_zero: torch.Tensor
    layout: _Layout | None

    @classmethod
    @torch.no_grad()
    def from_linear(cls: type[TinygemmT], linear: nn.Linear) -> TinygemmT:
        new = super().from_linear(linear)
        weight: Any = linear.weight
        qweight = torchao_tensors.unpack_int4(weight)
        new.packed_weight = tinygemm_pack_int4(qweight)
        new.layout = next((layout for layout in _LAYOUTS if _has_layout(new.packed_weight, layout, qweight)), None)
        new.scale_and_zero = torch.stack([weight.scale, weight.zero_point], dim=2).bfloat16()
        new.weight = nn.Parameter(weight.to("meta"), requires_grad=False)
        return new

    @property
    def group_size(self) -> int:
        """Inputs that share a scale and a zero point."""
        return self.in_features // len(self.scale_and_zero)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        if self.layout and len(tokens) > _MAX_KERNEL_TOKENS:
            y = tokens @ self._dequantize(self.layout, x.dtype)
        else:
            y = tinygemm_int4_linear(tokens.bfloat16(), self.packed_weight, self.group_size, self.scale_and_zero)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    def _dequantize(self, layout: _Layout, dtype: torch.dtype) -> torch.Tensor:
        """The weights (in, out)."""
        values = _unpack(self.packed_weight, layout, dtype).sub_(8)
        blocks, _, outputs = values.shape
        by_block = (part.unflatten(1, (blocks, 1, outputs)).transpose(0, 1) for part in self.scale_and_zero.unbind(2))
        scale, zero = (part.contiguous() for part in by_block)  # else the products take several times as long
        values.unflatten(1, (-1, self.group_size)).mul_(scale).add_(zero)
        return values.transpose(0, 1).flatten(1)

    @torch.no_grad()
    def qweight(self) -> torch.Tensor:
        """The quantized weights (out, in) from 0 to 15, read by multiplying unit vectors: exact for any layout."""
        unit_scale = torch.zeros_like(self.scale_and_zero)
        unit_scale[..., 0] = 1
        columns: list[torch.Tensor] = []
        for indices in torch.arange(self.in_features).split(_UNPACK_INPUTS):
            units = nn.functional.one_hot(indices, self.in_features).bfloat16()
            values = tinygemm_int4_linear(units, self.packed_weight, self.group_size, unit_scale)
            columns.append(values.t().to(torch.int32) + 8)
        return torch.cat(columns, dim=1)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        scale, zero = self.scale_and_zero.unbind(2)
        destination[f"{prefix}weight"] = torchao_tensors.make_int4(self.qweight(), scale.t(), zero.t())


def _unpack(packed: torch.Tensor, layout: _Layout, dtype: torch.dtype) -> torch.Tensor:
    """The quantized weights (blocks, in, outputs of a block) of a packed weight in ``layout``."""
    rows, row_bytes = packed.shape
    pairs = packed.view(rows // layout.block, 2 * row_bytes, layout.block // 2)
    values = torch.empty(*pairs.shape[:2], layout.block, dtype=dtype)
    low, high = values.chunk(2, dim=2) if layout.pairs_halves else (values[..., ::2], values[..., 1::2])
    low.copy_(pairs & 15)
    high.copy_(pairs >> 4)
    return values


def _has_layout(packed: torch.Tensor, layout: _Layout, qweight: torch.Tensor) -> bool:
    if len(packed) % layout.block:
        return False
    return torch.equal(_unpack(packed, layout, qweight.dtype).transpose(1, 2).flatten(0, 1), qweight)
