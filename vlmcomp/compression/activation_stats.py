"""Activation statistics of one Linear for pruning: running means over its inputs and target outputs."""

from __future__ import annotations

import torch

NUM_PANELS = 8  # of a Gram matrix: 9/16 of it is computed


class ActivationStats:
    """Weighted running means over tokens of a Linear's inputs x (n) and its target outputs t (out).

    Attributes:
        gram: (n, n) mean of x x^T. All attributes are float32 and valid after every ``update``.
        cross: (out, n) mean of t x^T.
        mean: (n) mean of x.
        target_mean: (out) mean of t.
        target_sq_norm: mean of t^T t.
        total_weight: sum of the tokens' weights.
    """

    def __init__(self, in_features: int, out_features: int, device: torch.device | str = "cpu") -> None:
        self.gram = torch.zeros(in_features, in_features, device=device)
        self.cross = torch.zeros(out_features, in_features, device=device)
        self.mean = torch.zeros(in_features, device=device)
        self.target_mean = torch.zeros(out_features, device=device)
        self.target_sq_norm = 0.0
        self.total_weight = 0.0

    @classmethod
    def from_tokens(cls, x: torch.Tensor, target: torch.Tensor) -> ActivationStats:
        """Statistics of x (N, n) and target (N, out) with equal weights."""
        stats = cls(x.shape[1], target.shape[1], x.device)
        stats.update(x, target, torch.ones(len(x), device=x.device))
        return stats

    def update(self, x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> None:
        """Add tokens.

        Args:
            x: (..., n) inputs.
            target: (..., out) target outputs.
            weight: (...) of every token; tokens of weight 0 are skipped.
        """
        used = weight.flatten() > 0
        x = x.flatten(0, -2)[used].float()
        target = target.flatten(0, -2)[used].float()
        weight = weight.flatten()[used].to(x.device)
        self.total_weight += float(weight.sum())
        if not len(x):
            return
        new = weight / self.total_weight
        old = 1 - float(new.sum())
        weighted_x = x * new[:, None]
        self._add_gram(weighted_x, x, old)
        self.cross.addmm_(target.T, weighted_x, beta=old)
        self.mean.mul_(old).add_(weighted_x.sum(0))
        self.target_mean.mul_(old).add_(new @ target)
        self.target_sq_norm = old * self.target_sq_norm + float(new @ target.square().sum(1))

    def _add_gram(self, weighted_x: torch.Tensor, x: torch.Tensor, old: float) -> None:
        """Add to the Gram matrix, of whose two equal halves one is computed, in panels of rows, and mirrored."""
        for rows in torch.arange(len(self.gram)).chunk(NUM_PANELS):
            start, end = int(rows[0]), int(rows[-1]) + 1
            self.gram[start:end, :end].addmm_(weighted_x[:, start:end].T, x[:, :end], beta=old)
            self.gram[:start, start:end] = self.gram[start:end, :start].T


def solver_memory_bytes(in_features: int, out_features: int) -> int:
    """Bytes of one Linear's ``ActivationStats`` and of solving it: float32 sums, and in float64 three (n, n) and three
    (out, n) matrices."""
    return in_features * (4 * (in_features + out_features) + 8 * (3 * in_features + 3 * out_features))
