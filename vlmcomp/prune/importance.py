"""How much a neuron or a head matters: pure functions on tensors, larger is more important.

Every function takes the reading matrix ``weight`` (out, n) of the Linear that consumes the n units and their
uncentred second moment ``gram`` (n, n) = mean over tokens of x x^T, and returns (n,).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def activation(weight: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Root mean square of the unit times the norm of its column, after Wanda (Sun et al., arXiv 2306.11695)."""
    return gram.diagonal().clamp_min(0).sqrt() * weight.float().norm(dim=0)


def magnitude(weight: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Norm of the unit's column: looks at no data."""
    return weight.float().norm(dim=0)


def random(weight: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """A fixed random order: the yardstick that any score has to beat."""
    return torch.rand(weight.shape[1], generator=torch.Generator().manual_seed(weight.shape[1])).to(weight.device)


SCORES: dict[str, Score] = {"activation": activation, "magnitude": magnitude, "random": random}
DEFAULT = "activation"


def by_group(scores: torch.Tensor, groups: int) -> torch.Tensor:
    """Sum of squares of the scores of each of ``groups`` equal runs of units: (groups,)."""
    return scores.square().view(groups, -1).sum(1)
