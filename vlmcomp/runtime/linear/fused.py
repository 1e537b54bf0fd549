"""Linears that share one product with packed weights.

Linears with the same input (query, key and value; gate and up) are multiplied as one: a call costs about as much as
reading a megabyte.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vlmcomp.runtime.linear.replacement import ReplacementLinear


class PackedMatmul:
    """Weights (out, in) in the layout of a kernel, which has their only copy."""

    @classmethod
    def concatenate(cls, weights: Sequence[tuple[torch.Tensor, ...]]) -> PackedMatmul:
        """The product with the weights of several Linears, one below the other, as ``release_weight`` returns them."""
        return cls(*map(torch.cat, zip(*weights)))

    def qweight(self) -> torch.Tensor:
        """The quantized weights (out, in), exactly."""
        raise NotImplementedError

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (..., in) times the weights: (..., out) in float32 or the dtype of x."""
        raise NotImplementedError


class FusedProjection:
    """A product that several Linears take their outputs from, computed once for each input.

    Args:
        matmul: the product.
        num_consumers: number of Linears that share it.
    """

    def __init__(self, matmul: PackedMatmul, num_consumers: int) -> None:
        self.matmul = matmul
        self.num_consumers = num_consumers
        self._input: torch.Tensor | None = None
        self._output: torch.Tensor | None = None
        self._pending = 0  # consumers that have not read the output

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (..., in) times all weights. The result is stored until all consumers have read it."""
        if self._output is None or self._input is not x:
            self._output = self.matmul(x)
            self._input = x
            self._pending = self.num_consumers
        output = self._output
        self._pending -= 1
        if not self._pending:
            self._input = self._output = None
        return output


class FusedLinear(ReplacementLinear):
    """A Linear whose output is some columns of a FusedProjection.

    Attributes:
        projection: the shared product.
        columns: its outputs that belong to this Linear.
    """

    projection: FusedProjection
    columns: slice

    def release_weight(self) -> tuple[torch.Tensor, ...]:
        """The weight and its scales, row by row; the Linear keeps a stand-in on meta."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.projection(x)[..., self.columns]
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype)


class QuantizedFusedLinear(FusedLinear):
    """A FusedLinear with integer weights."""

    def qweight(self) -> torch.Tensor:
        """The quantized weights (out, in), exactly."""
        return self.projection.matmul.qweight()[self.columns]


def fuse_linears_(matmul_class: type[PackedMatmul], linears: Sequence[FusedLinear]) -> None:
    """Let one product compute ``linears``, which have the same input."""
    matmul = matmul_class.concatenate([linear.release_weight() for linear in linears])
    projection = FusedProjection(matmul, len(linears))
    start = 0
    for linear in linears:
        linear.projection = projection
        linear.columns = slice(start, start + linear.out_features)
        start += linear.out_features
