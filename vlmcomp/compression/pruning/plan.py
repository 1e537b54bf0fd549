"""Cut Linears to the kept units, and the one rule that rounds a width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig

from vlmcomp.models.architecture import Layer
from vlmcomp.recipe import Step


@dataclass(frozen=True)
class Plan:
    """What a step does to every layer: ``kept`` of ``total`` units stay, the same number in each of ``runs`` runs.
    A unit is ``each`` of what ``unit`` names: a KV group may hold several query heads.

    ``reader`` reads the units, ``size`` columns each, and ``replace`` puts another in its place; the rows of
    ``writers`` write them; ``shrink`` cuts the layer to the kept units, the reader excepted; ``settle`` tells the
    text config. A plan without a step removes nothing.
    """

    step: Step | None
    total: int
    kept: int
    unit: str
    each: int
    size: int
    runs: int
    reader: Callable[[Layer], nn.Linear]
    writers: Callable[[Layer], tuple[torch.Tensor, ...]]
    replace: Callable[[Layer, nn.Linear], None]
    shrink: Callable[[Layer, torch.Tensor], None]
    settle: Callable[[PretrainedConfig], None]


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


def narrow(
    linear: nn.Linear,
    *,
    outputs: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> nn.Linear:
    """A smaller copy of ``linear`` on the same device in the same dtype.

    ``outputs`` (k,) keeps these rows (and their bias). ``weight`` (out, k) replaces the matrix where the inputs
    were cut; the bias stays unless ``bias`` (out,) is given.
    """
    matrix = linear.weight.detach() if weight is None else weight
    if bias is None and linear.bias is not None:
        bias = linear.bias.detach()
    if outputs is not None:
        matrix = matrix[outputs]
        bias = None if bias is None else bias[outputs]
    small = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, device="meta", dtype=matrix.dtype)
    small.weight = nn.Parameter(matrix.contiguous().clone(), requires_grad=False)
    if bias is not None:
        small.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return small.train(linear.training)
