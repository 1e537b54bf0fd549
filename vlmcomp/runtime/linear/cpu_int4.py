"""A Linear of torchao's INT4 weights, multiplied by PyTorch's tinygemm kernels.

They are made for few tokens: a CPU multiplies a prompt several times faster by weights that were unpacked for it. The
kernels are those that torchao's own Int4OpaqueTensor (CPU) and Int4TilePackedTo4dTensor (CUDA) call, without a tensor
subclass around them, which a decoding step could not be captured with. On CUDA they are for systems without Triton:
that half follows torchao's source; its kernel has run, and its answers have not been looked at.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.compression.quantization.torchao import GROUP

_INNER_TILES, _COLUMNS, _ROWS = 8, 1024, 8  # of the layout on CUDA: inputs and outputs are filled up to multiples
_SLICE = 256  # inputs that are unpacked at a time
_FEW = 128  # tokens that the kernel of a CPU multiplies faster than unpacking takes
# Of a CPU: outputs that lie together, and whether a byte holds one of their first and one of their second half, or two
# neighbours. Which it is hangs on the vector width that PyTorch's kernels were chosen for.
_LAYOUTS = ((64, True), (32, True), (32, False))


class TinygemmLinear(nn.Linear):
    """INT4 weights (out, in) in the layout of their device. For the kernels activations are brought to bfloat16: with
    others that of a CPU is twenty times slower, and that of CUDA knows none."""

    @torch.no_grad()
    def pack(self) -> None:
        """Lay the codes out for the kernel, which keeps the only copy."""
        small = self.weight
        codes = torchao_tensors.codes(small)
        self.laid = _laid_out(codes)
        self.layout = next((like for like in _LAYOUTS if not small.qdata.is_cuda and _is(self.laid, like, codes)), None)
        self.scale_and_zero = torch.stack([small.scale, small.zero_point], dim=2).bfloat16()
        if small.qdata.is_cuda:
            groups, rows = self.scale_and_zero.shape[:2]
            more = (0, 0, 0, -rows % _ROWS, 0, -groups % (_COLUMNS // GROUP))
            self.scale_and_zero = nn.functional.pad(self.scale_and_zero, more)
        self.weight = nn.Parameter(small.to("meta"), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        if self.layout and len(tokens) > _FEW:
            y = tokens @ self._unpacked(x.dtype)
        else:
            y = self._product(tokens.bfloat16(), self.scale_and_zero)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    def _product(self, tokens: torch.Tensor, scale_and_zero: torch.Tensor) -> torch.Tensor:
        if tokens.is_cuda:
            tokens = nn.functional.pad(tokens, (0, -tokens.shape[1] % _COLUMNS))
            y = torch.ops.aten._weight_int4pack_mm(tokens, self.laid, GROUP, scale_and_zero)
            return y.narrow(1, 0, self.out_features)
        return torch.ops.aten._weight_int4pack_mm_for_cpu(tokens, self.laid, GROUP, scale_and_zero)

    def _unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights (in, out)."""
        codes = _read(self.laid, self.layout, dtype).sub_(8)
        blocks, _, outputs = codes.shape
        parts = (part.unflatten(1, (blocks, 1, outputs)).transpose(0, 1) for part in self.scale_and_zero.unbind(2))
        scale, zero = (part.contiguous() for part in parts)  # else the products take several times as long
        codes.unflatten(1, (-1, GROUP)).mul_(scale).add_(zero)
        return codes.transpose(0, 1).flatten(1)

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
        destination[f"{prefix}weight"] = torchao_tensors.int4_of(self.codes(), scale.t(), zero.t())


def _read(laid: torch.Tensor, layout: tuple[int, bool], dtype: torch.dtype) -> torch.Tensor:
    """The codes (blocks, in, outputs of a block) that lie in ``layout``."""
    outputs, halves = layout
    rows, pairs_a_row = laid.shape
    pairs = laid.view(rows // outputs, 2 * pairs_a_row, outputs // 2)
    codes = torch.empty(*pairs.shape[:2], outputs, dtype=dtype)
    first, second = codes.chunk(2, dim=2) if halves else (codes[..., ::2], codes[..., 1::2])
    first.copy_(pairs & 15)
    second.copy_(pairs >> 4)
    return codes


def _is(laid: torch.Tensor, layout: tuple[int, bool], codes: torch.Tensor) -> bool:
    if len(laid) % layout[0]:
        return False
    return torch.equal(_read(laid, layout, codes.dtype).transpose(1, 2).flatten(0, 1), codes)


def _laid_out(codes: torch.Tensor) -> torch.Tensor:
    if not codes.is_cuda:
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    codes = nn.functional.pad(codes, (0, -codes.shape[1] % _COLUMNS, 0, -codes.shape[0] % _ROWS))
    high, low = codes.unflatten(1, (-1, 2)).unbind(2)  # the other way round than the plain layout
    return torch.ops.aten._convert_weight_to_int4pack((high << 4 | low).to(torch.uint8), _INNER_TILES)
