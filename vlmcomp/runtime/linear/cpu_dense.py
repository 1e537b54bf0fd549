"""Dense Linears whose weights oneDNN packs once; PyTorch's own Linear packs them never, or at every call."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from vlmcomp.private_ops import onednn_linear, onednn_pack
from vlmcomp.runtime.linear.replacement import ReplacementLinear

PrepackedT = TypeVar("PrepackedT", bound="PrepackedLinear")


class PrepackedLinear(ReplacementLinear):
    """A Linear on a CPU that has its weights in oneDNN's layout alone; unpacking is exact.

    Attributes:
        packed_weight: opaque tensor without storage, which PyTorch can neither copy nor share.
    """

    packed_weight: torch.Tensor

    @classmethod
    @torch.no_grad()
    def from_linear(cls: type[PrepackedT], linear: nn.Linear) -> PrepackedT:
        """``linear`` with packed weights.

        Raises:
            RuntimeError: oneDNN does not multiply their dtype on this CPU.
        """
        new = super().from_linear(linear)
        new.packed_weight = onednn_pack(linear.weight.data)
        new.weight = nn.Parameter(linear.weight.to("meta"), requires_grad=False)
        return new

    def unpack(self) -> torch.Tensor:
        """The weights (out, in)."""
        return self.packed_weight.to_dense()

    def share_weight_with(self, other: PrepackedLinear) -> None:
        """Replace the weights by those of ``other``, which are equal."""
        self.packed_weight = other.packed_weight
        self.weight = other.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return onednn_linear(x, self.packed_weight, self.bias)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.unpack()
