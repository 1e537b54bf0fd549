"""A Linear of torchao's INT4 weights, multiplied by PyTorch's tinygemm kernels.

What torchao's own Int4OpaqueTensor (CPU) and Int4TilePackedTo4dTensor (CUDA) call, without a tensor subclass around
it, which a decoding step could not be captured with. The CUDA half follows torchao's source and has not been run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vlmcomp import packed
from vlmcomp.packed import GROUP

_INNER_TILES, _COLUMNS, _ROWS = 8, 1024, 8  # of the layout on CUDA: inputs and outputs are filled up to multiples
_SLICE = 256  # inputs that are unpacked at a time


class TinygemmLinear(nn.Linear):
    """INT4 weights (out, in) in the layout of their device. Activations are brought to bfloat16: with others the
    kernel of a CPU is twenty times slower, and that of CUDA knows none."""

    @torch.no_grad()
    def pack(self) -> None:
        """Lay the codes out for the kernel, which keeps the only copy."""
        small = self.weight
        self.laid = _laid_out(packed.codes(small))
        self.scale_and_zero = torch.stack([small.scale, small.zero_point], dim=2).bfloat16()
        if small.qdata.is_cuda:
            groups, rows = self.scale_and_zero.shape[:2]
            more = (0, 0, 0, -rows % _ROWS, 0, -groups % (_COLUMNS // GROUP))
            self.scale_and_zero = nn.functional.pad(self.scale_and_zero, more)
        self.weight = nn.Parameter(small.to("meta"), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._product(x.reshape(-1, x.shape[-1]).bfloat16(), self.scale_and_zero)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    def _product(self, tokens: torch.Tensor, scale_and_zero: torch.Tensor) -> torch.Tensor:
        if tokens.is_cuda:
            tokens = nn.functional.pad(tokens, (0, -tokens.shape[1] % _COLUMNS))
            y = torch.ops.aten._weight_int4pack_mm(tokens, self.laid, GROUP, scale_and_zero)
            return y.narrow(1, 0, self.out_features)
        return torch.ops.aten._weight_int4pack_mm_for_cpu(tokens, self.laid, GROUP, scale_and_zero)

    @torch.no_grad()
    def codes(self) -> torch.Tensor:
        """The codes (out, in) from 0 to 15, read by multiplying unit vectors: exact, whatever the layout."""
        plain = torch.zeros_like(self.scale_and_zero)
        plain[..., 0] = 1
        places = torch.arange(self.in_features, device=self.laid.device).split(_SLICE)
        units = (nn.functional.one_hot(part, self.in_features).bfloat16() for part in places)
        return torch.cat([self._product(part, plain).t().to(torch.int32) + 8 for part in units], dim=1)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        scale, zero = self.scale_and_zero[: self.in_features // GROUP, : self.out_features].unbind(2)
        destination[f"{prefix}weight"] = packed.int4_of(self.codes(), scale.t(), zero.t())


def _laid_out(codes: torch.Tensor) -> torch.Tensor:
    if not codes.is_cuda:
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    codes = nn.functional.pad(codes, (0, -codes.shape[1] % _COLUMNS, 0, -codes.shape[0] % _ROWS))
    high, low = codes.unflatten(1, (-1, 2)).unbind(2)  # the other way round than the plain layout
    return torch.ops.aten._convert_weight_to_int4pack((high << 4 | low).to(torch.uint8), _INNER_TILES)
