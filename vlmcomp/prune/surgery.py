"""Cut Linears to the kept units, and the one rule that rounds a width."""

from __future__ import annotations

import torch
from torch import nn


def width_multiple(width: int) -> int:
    """What a kept MLP width is a multiple of: 128 for wide layers, 64 for small ones.

    bitsandbytes' 4-bit CPU kernel needs multiples of 64, the fast 4-bit GPU kernels groups of 64 or 128.
    """
    return 128 if width >= 4096 else 64


def kept_count(total: int, percent: int, multiple: int = 1) -> int:
    """How many of ``total`` units stay when ``percent`` are to go, rounded to a multiple (halves keep more).

    Raises:
        ValueError: so small a percentage that nothing would go, or so large that nothing would stay.
    """
    kept = int((total * (100 - percent) / 100) / multiple + 0.5) * multiple
    if kept >= total:
        raise ValueError(f"{percent} % of {total} rounds to no removal in steps of {multiple}: ask for more")
    if kept <= 0:
        raise ValueError(f"{percent} % of {total} would leave nothing in steps of {multiple}: ask for less")
    return kept


def narrow(linear: nn.Linear, *, outputs: torch.Tensor | None = None, weight: torch.Tensor | None = None) -> nn.Linear:
    """A smaller copy of ``linear`` on the same device in the same dtype.

    ``outputs`` (k,) keeps these rows (and their bias). ``weight`` (out, k) replaces the matrix where the inputs
    were cut; the bias stays.
    """
    matrix = linear.weight.detach() if weight is None else weight
    bias = None if linear.bias is None else linear.bias.detach()
    if outputs is not None:
        matrix = matrix[outputs]
        bias = None if bias is None else bias[outputs]
    small = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, device="meta", dtype=matrix.dtype)
    small.weight = nn.Parameter(matrix.contiguous().clone(), requires_grad=False)
    if bias is not None:
        small.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return small.train(linear.training)
