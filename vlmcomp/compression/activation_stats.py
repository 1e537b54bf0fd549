"""What pruning keeps of the activations: running sums of a Linear's inputs and of the outputs wanted of it."""

from __future__ import annotations

import torch


class Moments:
    """Weighted running sums over tokens of a Linear's inputs x (n) and the outputs t (out) that are wanted of it.

    ``gram`` (n, n) and ``cross`` (out, n) are the means of x x^T and t x^T, ``mean`` (n) and ``wanted`` (out)
    those of x and t, ``power`` that of t^T t; all float32, read once everything is added.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device | str = "cpu") -> None:
        self.gram = torch.zeros(inputs, inputs, device=device)
        self.cross = torch.zeros(outputs, inputs, device=device)
        self.mean, self.wanted = torch.zeros(inputs, device=device), torch.zeros(outputs, device=device)
        self.power, self.total = 0.0, 0.0

    @classmethod
    def of(cls, x: torch.Tensor, target: torch.Tensor) -> Moments:
        """Those of x (N, n) and target (N, out), every row counting alike."""
        moments = cls(x.shape[1], target.shape[1], x.device)
        moments.add(x, target, torch.ones(len(x), device=x.device))
        return moments

    def add(self, x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> None:
        """x (..., n), target (..., out), weight (...): tokens of weight 0 cost nothing. Keeps means up to date."""
        chosen = weight.flatten() > 0
        x, target = x.flatten(0, -2)[chosen].float(), target.flatten(0, -2)[chosen].float()
        share = weight.flatten()[chosen].to(x.device)
        self.total += float(share.sum())
        if not len(x):
            return
        new = share / self.total
        old = 1 - float(new.sum())
        heavy = x * new[:, None]
        self.gram.addmm_(heavy.T, x, beta=old)
        self.cross.addmm_(target.T, heavy, beta=old)
        self.mean.mul_(old).add_(heavy.sum(0))
        self.wanted.mul_(old).add_(new @ target)
        self.power = old * self.power + float(new @ target.square().sum(1))


def moments_bytes(inputs: int, outputs: int) -> int:
    """Bytes of one reader's ``Moments`` and of solving it: float32 sums, and in float64 three matrices (n, n) and
    three (out, n)."""
    return inputs * (4 * (inputs + outputs) + 8 * (3 * inputs + 3 * outputs))
