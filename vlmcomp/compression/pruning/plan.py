"""What a pruning step changes in every layer, the rounding of widths, and the slicing of Linears."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig

from vlmcomp.compression.row_scales import copy_row_scales
from vlmcomp.models.architecture import DecoderLayer
from vlmcomp.recipe import PruningStep


@dataclass(frozen=True)
class PruningPlan:
    """A pruning step for a given model: ``num_kept`` of ``num_units`` units remain in every layer.

    Attributes:
        step: None for a plan that removes nothing.
        num_units: of every layer.
        num_kept: the same number in each of ``num_groups`` groups of equal size.
        unit: what the results count, for example "query heads a layer".
        heads_per_unit: how many of ``unit`` one unit holds: a KV group may hold several query heads.
        unit_width: columns of the consumer that one unit takes.
        num_groups: of consecutive units.
        consumer: the Linear whose inputs the units are.
        producers: (n, in) matrices whose rows produce the units.
        replace_consumer: puts a Linear in the consumer's place.
        narrow_producers: slices the layer, the consumer excepted, to the given units.
        update_config: writes the new widths to the text config.
    """

    step: PruningStep | None
    num_units: int
    num_kept: int
    unit: str
    heads_per_unit: int
    unit_width: int
    num_groups: int
    consumer: Callable[[DecoderLayer], nn.Linear]
    producers: Callable[[DecoderLayer], tuple[torch.Tensor, ...]]
    replace_consumer: Callable[[DecoderLayer, nn.Linear], None]
    narrow_producers: Callable[[DecoderLayer, torch.Tensor], None]
    update_config: Callable[[PretrainedConfig], None]


def round_to(width: int) -> int:
    """The number that a pruned MLP width is a multiple of: 128 for wide layers, 64 for small ones.

    bitsandbytes' 4-bit CPU kernel requires multiples of 64, the fast 4-bit GPU kernels groups of 64 or 128.
    """
    return 128 if width >= 4096 else 64


def num_kept(total: int, percent: int, multiple: int = 1) -> int:
    """The number of units that remain.

    Args:
        total: units before pruning.
        percent: of the units to remove.
        multiple: the result is rounded to a multiple of it; halves round up.

    Raises:
        ValueError: so small a percentage that none would be removed, or so large that none would remain.
    """
    kept = int((total * (100 - percent) / 100) / multiple + 0.5) * multiple
    if kept >= total:
        raise ValueError(f"{percent} % of {total} rounds to no removal in steps of {multiple}: use a larger percentage")
    if kept <= 0:
        raise ValueError(f"{percent} % of {total} would leave nothing in steps of {multiple}: use a smaller percentage")
    return kept


def slice_linear(
    linear: nn.Linear,
    *,
    kept_rows: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> nn.Linear:
    """A smaller copy of ``linear`` on the same device and in the same dtype.

    Args:
        linear: left as it is.
        kept_rows: (k,) indices of the outputs that remain, with their bias; all by default.
        weight: (out, k) replaces the matrix, for a Linear with fewer inputs.
        bias: (out,) replaces the bias.
    """
    matrix = linear.weight.detach() if weight is None else weight
    if bias is None and linear.bias is not None:
        bias = linear.bias.detach()
    if kept_rows is not None:
        matrix = matrix[kept_rows]
        bias = None if bias is None else bias[kept_rows]
    small = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, device="meta", dtype=matrix.dtype)
    small.weight = nn.Parameter(matrix.contiguous().clone(), requires_grad=False)
    if bias is not None:
        small.bias = nn.Parameter(bias.clone(), requires_grad=False)
    if weight is None:
        copy_row_scales(linear, small, kept_rows)
    return small.train(linear.training)
