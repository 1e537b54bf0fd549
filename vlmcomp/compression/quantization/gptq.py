"""GPTQ (Frantar et al., arXiv 2210.17323): rounds a weight column by column and lets later columns make up for it.

The error that counts is that of the Linear's outputs, E ||(W - Q) x||^2 = tr (W - Q) H (W - Q)^T, with H the mean of
x x^T over the calibration tokens. Codes are symmetric, in groups of consecutive inputs that share a scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

GROUP_SIZES = (128, 64, 32)  # inputs that share a scale: formats have one for the whole model
DAMPENING = 0.01  # relative to the mean of the Gram matrix's diagonal
_LEVELS = (-8, 7)
_BLOCK = 128  # columns whose errors are added to the later ones at once
_SMALLEST_SCALE = 2.0**-17  # smaller ones lose bits in float16
_CLIP_RATIOS = torch.linspace(1.0, 0.5, 26)  # of the scale at which no weight is clipped


def group_size(in_features: Iterable[int]) -> int:
    """The largest of ``GROUP_SIZES`` that divides all ``in_features``; 0 if none does."""
    widths = list(in_features)
    return next((size for size in GROUP_SIZES if not any(width % size for width in widths)), 0)


class RoundedWeight(NamedTuple):
    """A weight as codes (out, in), int8 from -8 to 7, and scales (out, groups), float32 with values of bfloat16."""

    codes: torch.Tensor
    scale: torch.Tensor

    def dequantize(self) -> torch.Tensor:
        """The float32 weight (out, in)."""
        return self.codes * _by_column(self.scale, self.codes.shape[1])


def quantize(weight: torch.Tensor, gram: torch.Tensor, group_size: int) -> RoundedWeight:
    """Round ``weight`` for the inputs of ``gram``: no row's output error is larger than that of rounding to nearest.

    Args:
        weight: (out, n).
        gram: (n, n) mean of x x^T.
        group_size: divides n.

    Raises:
        ValueError: the inputs were no finite numbers.
    """
    weight, gram = weight.float(), gram.float()
    if not gram.isfinite().all():
        raise ValueError(
            "the model's activations on the calibration data are no finite numbers: its weights are damaged"
        )
    scale = choose_scales(weight, gram.diagonal(), group_size)
    unclipped = choose_scales(weight, torch.ones_like(gram.diagonal()), group_size, clip=False)
    candidates = [
        RoundedWeight(round_columns(weight, gram, scale), scale),
        RoundedWeight(round_to_nearest(weight, scale), scale),
        RoundedWeight(round_to_nearest(weight, unclipped), unclipped),
    ]
    errors = torch.stack([output_error(weight, candidate, gram) for candidate in candidates])
    best, rows = errors.argmin(0), torch.arange(len(weight), device=weight.device)
    return RoundedWeight(*(torch.stack(parts)[best, rows] for parts in zip(*candidates)))


def choose_scales(
    weight: torch.Tensor, importance: torch.Tensor, group_size: int, *, clip: bool = True
) -> torch.Tensor:
    """The scales (out, groups) with the least weighted squared error of rounding to nearest.

    Args:
        weight: (out, n) float32.
        importance: (n,) weights of the columns' errors.
        group_size: divides n.
        clip: try scales that clip the largest weights too.
    """
    groups = weight.unflatten(1, (-1, group_size))
    importance = importance.unflatten(0, (-1, group_size))
    largest = groups.abs().amax(2) / _LEVELS[1]
    best = torch.full_like(largest, torch.inf)
    scale = largest
    for ratio in _CLIP_RATIOS.tolist() if clip else (1.0,):
        candidate = storable(largest * ratio)
        errors = _nearest(groups / candidate[..., None]) * candidate[..., None] - groups
        error = (errors.square() * importance).sum(2)
        scale = torch.where(error < best, candidate, scale)
        best = torch.minimum(error, best)
    return scale


def storable(scale: torch.Tensor) -> torch.Tensor:
    """The closest scales that bfloat16 and float16 both represent."""
    return scale.clamp_min(_SMALLEST_SCALE).bfloat16().float()


def round_to_nearest(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The codes of each weight's nearest level."""
    return _nearest(weight / _by_column(scale, weight.shape[1])).to(torch.int8)


def round_columns(weight: torch.Tensor, gram: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The codes (out, n) of GPTQ with scales that are known before; columns of large inputs are rounded first.

    Args:
        weight: (out, n) float32.
        gram: (n, n) float32.
        scale: (out, groups).
    """
    order = gram.diagonal().argsort(descending=True)
    remaining = weight[:, order]
    scales = _by_column(scale, weight.shape[1])[:, order]
    factor = _inverse_factor(gram[order][:, order])
    codes = torch.empty_like(weight)
    for start in range(0, weight.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        part, rest = remaining[:, block], slice(start + _BLOCK, None)
        errors = _round_block(part, scales[:, block], factor[block, block], codes[:, block])
        remaining[:, rest].addmm_(errors, factor[block, rest], alpha=-1)
    return codes[:, order.argsort()].to(torch.int8)


def _round_block(part: torch.Tensor, scales: torch.Tensor, factor: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Round the columns of ``part`` (out, b) one after the other into ``codes``; returns their errors (out, b), each
    over the factor's diagonal."""
    errors = torch.empty_like(part)
    for column in range(part.shape[1]):
        weight, size = part[:, column], scales[:, column]
        codes[:, column] = _nearest(weight / size)
        errors[:, column] = (weight - codes[:, column] * size) / factor[column, column]
        part[:, column:].addr_(errors[:, column], factor[column, column:], alpha=-1)
    return errors


def _inverse_factor(gram: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the dampened Gram matrix's inverse."""
    size = gram.diagonal().mean()
    gram = gram / size if size > 0 else torch.zeros_like(gram)
    dampening = DAMPENING
    while True:
        damped = gram + dampening * torch.eye(len(gram), device=gram.device)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            inverse = torch.cholesky_inverse(factor)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not failed:
                return upper
        dampening *= 10


def output_error(weight: torch.Tensor, rounded: RoundedWeight, gram: torch.Tensor) -> torch.Tensor:
    """E (w - q)^T x x^T (w - q) of every row, (out,)."""
    errors = weight - rounded.dequantize()
    return ((errors @ gram) * errors).sum(1)


def _nearest(levels: torch.Tensor) -> torch.Tensor:
    return levels.round().clamp(*_LEVELS)


def _by_column(scale: torch.Tensor, num_columns: int) -> torch.Tensor:
    """Scales (out, groups) as (out, num_columns)."""
    return scale.repeat_interleave(num_columns // scale.shape[1], 1)
