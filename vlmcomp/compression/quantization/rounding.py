"""Rounds Linears in place by GPTQ, and notes the scales: packing the rounded weight later finds the same codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from vlmcomp.compression.activation_stats import ActivationStats
from vlmcomp.compression.layerwise import LayerEdit
from vlmcomp.compression.quantization import gptq
from vlmcomp.models.architecture import DecoderLayer

_SCALES = "gptq_scales"  # attribute of a rounded Linear: (out, groups)


def rounding_edits(group_size: int) -> list[LayerEdit]:
    """Edits that round all Linears of a layer in the order in which they run, those with the same inputs together."""

    def edit(linears: Callable[[DecoderLayer], tuple[nn.Linear, ...]]) -> LayerEdit:
        def apply(layer: DecoderLayer, stats: ActivationStats) -> None:
            round_linears_(linears(layer), stats.gram, stats.mean, group_size)

        return LayerEdit(lambda layer: linears(layer)[0], apply, has_targets=False)

    return [
        edit(lambda layer: layer.attention_inputs),
        edit(lambda layer: (layer.o_proj,)),
        edit(lambda layer: layer.mlp_inputs),
        edit(lambda layer: (layer.down_proj,)),
    ]


@torch.no_grad()
def round_linears_(linears: Sequence[nn.Linear], gram: torch.Tensor, mean: torch.Tensor, group_size: int) -> None:
    """Round Linears that have the same inputs; a bias makes up for the mean error of its row.

    Args:
        linears: all with a bias, or none.
        gram: (n, n) mean of x x^T of the inputs.
        mean: (n,) mean of the inputs.
        group_size: inputs that share a scale.
    """
    if linears[0].bias is not None:
        gram = gram.addr(mean, mean, alpha=-1)  # of the deviations from the mean
    weight = torch.cat([linear.weight.float() for linear in linears])
    rounded = gptq.quantize(weight, gram, group_size)
    parts = [part.split([linear.out_features for linear in linears]) for part in (*rounded, rounded.dequantize())]
    for linear, _, scale, values in zip(linears, *parts):
        if linear.bias is not None:
            error = (linear.weight.float() - values) @ mean
            linear.bias = nn.Parameter((linear.bias.float() + error).to(linear.bias.dtype), requires_grad=False)
        linear.weight = nn.Parameter(values.to(linear.weight.dtype), requires_grad=False)
        setattr(linear, _SCALES, scale)


def keep_scales(linear: nn.Linear, copy: nn.Linear, kept_rows: torch.Tensor | None) -> None:
    """Note the scales of ``linear`` at a copy that has only some of its rows (None: all); does nothing without any."""
    scale = getattr(linear, _SCALES, None)
    if scale is not None:
        setattr(copy, _SCALES, scale if kept_rows is None else scale[kept_rows])


def rounded_weight(linear: nn.Linear) -> gptq.RoundedWeight:
    """The codes and scales of a Linear: those that it was rounded to, or those of rounding to nearest.

    Its weight may since have been rounded to 16 bits, which leaves the codes the same.
    """
    weight = linear.weight.detach().float()
    scale = getattr(linear, _SCALES, None)
    if scale is None:
        equal = weight.new_ones(weight.shape[1])
        scale = gptq.choose_scales(weight, equal, gptq.group_size([linear.in_features]), clip=False)
    return gptq.RoundedWeight(gptq.round_to_nearest(weight, scale), scale)
