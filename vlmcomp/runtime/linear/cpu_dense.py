"""Dense Linears whose weights oneDNN lays out once. PyTorch's own Linear multiplies them as they lie, or lays them out
again at every call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class PrepackedLinear(nn.Linear):
    """A Linear on a CPU whose only weights are those that oneDNN laid out; they come back to the bit."""

    laid: torch.Tensor  # opaque: it has no storage that PyTorch could copy or share

    @torch.no_grad()
    def pack(self) -> None:
        """Lay the weights (out, in) out.

        Raises:
            RuntimeError: oneDNN does not multiply their dtype here.
        """
        self.laid = torch.ops.mkldnn._reorder_linear_weight(self.weight.data)
        self.weight = nn.Parameter(self.weight.to("meta"), requires_grad=False)

    def dense(self) -> torch.Tensor:
        """The weights (out, in)."""
        return self.laid.to_dense()

    def borrow(self, other: PrepackedLinear) -> None:
        """Multiply by the weights of ``other`` from now on."""
        self.laid, self.weight = other.laid, other.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return multiply(x, self.laid, self.bias)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.dense()


def multiply(x: torch.Tensor, laid: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x`` (..., in) times weights that oneDNN laid out.

    ``capture`` makes a script of this, which sees no constants of the module.
    """
    return torch.ops.mkldnn._linear_pointwise(x, laid, bias, "none", [], "")
