"""Make the kept units do the work of the removed ones: closed-form least squares, no training."""

from __future__ import annotations

import torch


def least_squares(weight: torch.Tensor, gram: torch.Tensor, keep: torch.Tensor, ridge: float = 1e-2) -> torch.Tensor:
    """The reading matrix over the kept units that best repeats the full layer's output on the calibration data.

    Minimises E ||W x - W' x_S||^2 + lambda ||W' - W_S||^2 over W': with D = W' - W_S and R the removed units,
    D = W_R G_RS (G_SS + lambda I)^-1. Penalising the change instead of the weights keeps W_S where the data say
    nothing, so a calibration set too small for the width does no harm. Source: least-squares restoration as in
    FASP (arXiv 2501.09412); lambda is ``ridge`` times the mean of G_SS's diagonal.

    Args:
        weight: (out, n) matrix of the Linear that reads the units.
        gram: (n, n) uncentred second moment of the units.
        keep: (k,) indices of the kept units.

    Returns:
        (out, k), same dtype and device as ``weight``.
    """
    gram = gram.double()
    removed = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    removed[keep] = False
    full = weight.double()
    kept = gram[keep][:, keep]
    scale = kept.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    damped = kept + ridge * scale * torch.eye(len(keep), dtype=kept.dtype, device=kept.device)
    change = torch.linalg.solve(damped, gram[keep][:, removed] @ full[:, removed].T).T
    return (full[:, keep] + change).to(weight.dtype)
