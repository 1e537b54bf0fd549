"""Make the kept units do the work of the removed ones: closed-form least squares, no training."""

from __future__ import annotations

import torch

from vlmcomp.compression.activation_stats import Moments

RIDGE = 1e-3  # relative to the mean of the Gram matrix's diagonal


def quadratic(weight: torch.Tensor, moments: Moments, bias: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weight, Gram and cross matrix in float64; about the means where a bias can carry them."""
    gram, cross = moments.gram.double(), moments.cross.double()
    if bias:
        mean = moments.mean.double()
        gram.addr_(mean, mean, alpha=-1)
        cross.addr_(moments.wanted.double(), mean, alpha=-1)
    return weight.double(), gram, cross


def least_squares(
    weight: torch.Tensor, moments: Moments, keep: torch.Tensor, *, bias: bool = False, ridge: float = RIDGE
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The reading matrix over the kept units that comes nearest to the wanted outputs on the calibration data.

    Minimises E ||t - W' x_S||^2 + lambda ||W' - W_S||^2 over W': with G and C the means of x x^T and t x^T,
    W' = W_S + (C_S - W_S G_SS) (G_SS + lambda I)^-1. Penalising the change instead of the weights keeps W_S where
    the data say nothing, so a calibration set too small for the width does no harm. lambda is ``ridge`` times the
    mean of G_SS's diagonal. Source: least-squares restoration as in FASP (arXiv 2501.09412); with t = W x it is
    that, with the t of ``walk.walk`` it also makes up for what earlier layers lost.

    Args:
        weight: (out, n) matrix of the Linear that reads the units.
        keep: (k,) indices of the kept columns.
        bias: whether the Linear has a bias; then the means are fitted exactly and the new bias is returned.

    Returns:
        (out, k) and (out,) or None, in the dtype and on the device of ``weight``.
    """
    full, gram, cross = quadratic(weight, moments, bias)
    old, kept = full[:, keep], gram[keep][:, keep]
    del gram  # of a wide layer this is gigabytes
    wanted = (cross[:, keep] - old @ kept).T
    scale = kept.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    kept.diagonal().add_(ridge * scale)
    solved = old + torch.linalg.solve(kept, wanted).T
    if not bias:
        return solved.to(weight.dtype), None
    shift = moments.wanted.double() - solved @ moments.mean.double()[keep]
    return solved.to(weight.dtype), shift.to(weight.dtype)


def error(weight: torch.Tensor, moments: Moments, keep: torch.Tensor, *, bias: bool = False) -> float:
    """E ||t - W' x_S||^2 that ``least_squares`` leaves over the columns ``keep``."""
    full, gram, cross = quadratic(weight, moments, bias)
    solved = least_squares(full, moments, keep, bias=bias)[0]
    kept = gram[keep][:, keep]
    power = moments.power - (float(moments.wanted.double().square().sum()) if bias else 0.0)
    return power - 2 * float((solved * cross[:, keep]).sum()) + float(((solved @ kept) * solved).sum())
