"""Lets the kept units replace the removed ones: closed-form least squares, no training."""

from __future__ import annotations

import torch

from vlmcomp.compression.activation_stats import ActivationStats

DAMPENING = 1e-3  # of the scores; relative to the mean of the Gram matrix's diagonal
RIDGE = 0.03  # of what is stored; chosen on text and questions that are not the calibration's kind


def normal_equations(
    weight: torch.Tensor, stats: ActivationStats, has_bias: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weight, Gram and cross matrix in float64; centered on the means if a bias can represent these.

    Args:
        weight: (out, n) matrix of the consumer.
        stats: of its inputs and target outputs.
        has_bias: whether the consumer has a bias.
    """
    gram = stats.gram.double()
    cross = stats.cross.double()
    if has_bias:
        mean = stats.mean.double()
        gram.addr_(mean, mean, alpha=-1)
        cross.addr_(stats.target_mean.double(), mean, alpha=-1)
    return weight.double(), gram, cross


def least_squares(
    weight: torch.Tensor,
    stats: ActivationStats,
    kept_columns: torch.Tensor,
    *,
    has_bias: bool = False,
    ridge: float = DAMPENING,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The consumer's matrix over the kept columns that comes nearest to the target outputs on the calibration data.

    Minimizes E ||t - W' x_S||^2 + lambda ||W' - W_S||^2 over W': with G and C the means of x x^T and t x^T,
    W' = W_S + (C_S - W_S G_SS) (G_SS + lambda I)^-1. Penalizing the change instead of the weights keeps W_S where
    the data say little, so a calibration set too small for the width does no harm, and what is another kind of data
    suffers less: ridge regression (Hoerl and Kennard 1970) shrunk towards W_S. lambda is ``ridge`` times the mean of
    G_SS's diagonal. Source: least-squares restoration as in FASP (arXiv 2501.09412); with t = W x it is that, with
    the t of ``run_layerwise`` it also makes up for the errors of earlier layers.

    Args:
        weight: (out, n) matrix of the consumer.
        stats: of its inputs and target outputs.
        kept_columns: (k,) indices.
        has_bias: whether the consumer has a bias; then the means are fitted exactly and the new bias is returned.
        ridge: strength of the penalty; 0 fits the calibration data alone, infinity leaves W_S as it is.

    Returns:
        (out, k) and (out,) or None, in the dtype and on the device of ``weight``.
    """
    full, gram, cross = normal_equations(weight, stats, has_bias)
    kept_weight = full[:, kept_columns]
    kept_gram = gram[kept_columns][:, kept_columns]
    del gram  # of a wide layer this is gigabytes
    residual = (cross[:, kept_columns] - kept_weight @ kept_gram).T
    scale = kept_gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    kept_gram.diagonal().add_(ridge * scale)
    solved = kept_weight + torch.linalg.solve(kept_gram, residual).T
    if not has_bias:
        return solved.to(weight.dtype), None
    bias = stats.target_mean.double() - solved @ stats.mean.double()[kept_columns]
    return solved.to(weight.dtype), bias.to(weight.dtype)


def reconstruction_error(
    weight: torch.Tensor, stats: ActivationStats, kept_columns: torch.Tensor, *, has_bias: bool = False
) -> float:
    """E ||t - W' x_S||^2 that remains after ``least_squares``.

    Args:
        weight: (out, n) matrix of the consumer.
        stats: of its inputs and target outputs.
        kept_columns: (k,) indices.
        has_bias: whether the consumer has a bias.
    """
    full, gram, cross = normal_equations(weight, stats, has_bias)
    solved = least_squares(full, stats, kept_columns, has_bias=has_bias)[0]
    kept_gram = gram[kept_columns][:, kept_columns]
    target_sq_norm = stats.target_sq_norm
    if has_bias:
        target_sq_norm -= float(stats.target_mean.double().square().sum())
    linear_term = float((solved * cross[:, kept_columns]).sum())
    quadratic_term = float(((solved @ kept_gram) * solved).sum())
    return target_sq_norm - 2 * linear_term + quadratic_term
