"""How much a neuron or a head matters: pure functions on tensors, larger is more important."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import torch

from vlmcomp.compression.activation_stats import Moments
from vlmcomp.compression.pruning.reconstruction import RIDGE, error, quadratic

EXHAUSTIVE = 70  # so many subsets of heads at most are tried one by one


@dataclass(frozen=True)
class Units:
    """What competes for a place in one layer.

    ``weight`` (out, n) reads the units, ``size`` columns each: 1 for a neuron, the heads' width for heads.
    ``writers`` are matrices (n, in) whose rows write them. ``kept`` units stay, the same number in each of
    ``runs`` equal runs. ``seed`` is that of a random order.
    """

    weight: torch.Tensor
    moments: Moments
    kept: int
    size: int = 1
    runs: int = 1
    writers: tuple[torch.Tensor, ...] = ()
    bias: bool = False
    seed: int = 0

    @property
    def count(self) -> int:
        return self.weight.shape[1] // self.size

    def columns(self, units: torch.Tensor) -> torch.Tensor:
        """The columns of the given units."""
        return (units[:, None] * self.size + torch.arange(self.size, device=units.device)).flatten()

    def by_unit(self, columns: torch.Tensor) -> torch.Tensor:
        """Sum over each unit's columns: (n,) -> (count,)."""
        return columns.view(self.count, self.size).sum(1)


Score = Callable[[Units], torch.Tensor]


def _energy(weight: torch.Tensor) -> torch.Tensor:
    return weight.float().square().sum(0)


def magnitude(units: Units) -> torch.Tensor:
    """Squared norm of the unit's columns: looks at no data."""
    return units.by_unit(_energy(units.weight))


def max_abs_weight(units: Units) -> torch.Tensor:
    """Largest plus largest negative weight of the rows that write the unit (MAW, also peak-to-peak magnitude).

    The rule that optipfair (Martra) and the study after it use for GLU pairs. Heads are judged by the columns
    that read them.
    """
    matrices = units.writers or (units.weight.T,)
    spans = sum(m.float().amax(1) + m.float().amin(1).abs() for m in matrices)
    return units.by_unit(spans)


def activation(units: Units) -> torch.Tensor:
    """Mean square of the unit times the squared norm of its column, after Wanda (Sun et al., arXiv 2306.11695)."""
    return units.by_unit(units.moments.gram.diagonal().clamp_min(0) * _energy(units.weight))


def variance(units: Units) -> torch.Tensor:
    """Variance of the unit times the squared norm of its column: FLAP's fluctuation (An et al., arXiv 2312.11983)."""
    spread = units.moments.gram.diagonal() - units.moments.mean.square()
    return units.by_unit(spread.clamp_min(0) * _energy(units.weight))


def random(units: Units) -> torch.Tensor:
    """A random order, the same in every layer: the yardstick that any score has to beat."""
    generator = torch.Generator().manual_seed(units.seed)
    return torch.rand(units.count, generator=generator).to(units.weight.device)


def second_order(units: Units) -> torch.Tensor:
    """Optimal Brain Surgeon on the reading matrix: what removal costs after the others have made up for it.

    With H the damped Gram matrix and W* the best reading matrix over all units, removing the columns R costs
    tr(W*_R (H^-1_RR)^-1 W*_R^T). The cheapest go first, in at least 32 rounds for neurons and one by one for
    heads, W* and H^-1 being updated after each (Hassibi and Stork 1993; for structures SlimGPT, arXiv 2412.18110,
    and ZipLM, arXiv 2302.04089). Where heads are so few that every subset can be tried, every subset is, since
    the greedy order can be far from the best pair.

    Returns:
        (count,): the round in which a unit went, and infinity for those that stay.
    """
    subsets = math.comb(units.count // units.runs, units.kept // units.runs) ** units.runs
    if units.size > 1 and subsets <= EXHAUSTIVE:
        return _exhaustive(units)
    return _greedy(units)


def _exhaustive(units: Units) -> torch.Tensor:
    def cost(kept: tuple[int, ...]) -> float:
        return error(units.weight, units.moments, units.columns(torch.tensor(kept)), bias=units.bias)

    scores = torch.zeros(units.count)
    scores[list(min(_subsets(units), key=cost))] = math.inf
    return scores.to(units.weight.device)


def _subsets(units: Units) -> Iterator[tuple[int, ...]]:
    """Every choice of ``kept`` units with the same number in each run."""
    run, share = units.count // units.runs, units.kept // units.runs
    for chosen in combinations(range(units.count), units.kept):
        if all(sum(u // run == r for u in chosen) == share for r in range(units.runs)):
            yield chosen


def _greedy(units: Units) -> torch.Tensor:
    weight, gram, cross = quadratic(units.weight, units.moments, units.bias)
    damping = RIDGE * gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    gram.diagonal().add_(damping)
    inverse = _inverse(gram)
    best = (cross + damping * weight) @ inverse
    del gram, cross, weight  # of a wide layer these are gigabytes
    run = units.count // units.runs
    budget = torch.full((units.runs,), run - units.kept // units.runs)
    step = max(1, int(budget.sum()) // 32) if units.size == 1 and units.runs == 1 else 1
    removed_in = torch.full((units.count,), math.inf, device=best.device)
    for turn in range(units.count):
        if not budget.sum():
            break
        cost = _costs(best, inverse, units.size)
        cost[removed_in.isfinite()] = math.inf
        cost.view(units.runs, run)[budget.to(cost.device) == 0] = math.inf
        gone = cost.topk(min(step, int(budget.sum())), largest=False).indices
        removed_in[gone] = turn
        budget -= torch.bincount(gone.cpu() // run, minlength=units.runs)
        columns = units.columns(gone)
        update = torch.linalg.solve(inverse[columns][:, columns], inverse[columns])
        best -= best[:, columns] @ update
        inverse -= inverse[:, columns] @ update
        inverse[columns], inverse[:, columns] = 0, 0
    return removed_in


def _inverse(matrix: torch.Tensor) -> torch.Tensor:
    """By Cholesky, half the work of LU; by LU where rounding has cost the matrix its definiteness."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.linalg.inv(matrix) if failed else torch.cholesky_inverse(factor)


def _costs(best: torch.Tensor, inverse: torch.Tensor, size: int) -> torch.Tensor:
    """tr(W_R (H^-1_RR)^-1 W_R^T) for every unit R; meaningless for units that are gone."""
    if size == 1:
        return best.square().sum(0) / inverse.diagonal().clamp_min(torch.finfo(inverse.dtype).tiny)
    count = len(inverse) // size
    blocks = inverse.view(count, size, count, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    gone = blocks.diagonal(dim1=1, dim2=2).sum(1) == 0
    eye = torch.eye(size, dtype=inverse.dtype, device=inverse.device)
    solved = torch.linalg.solve(
        torch.where(gone[:, None, None], eye, blocks), best.view(-1, count, size).permute(1, 2, 0)
    )
    return (best.view(-1, count, size).permute(1, 2, 0) * solved).sum((1, 2))


SCORES: dict[str, Score] = {
    "second order": second_order,
    "activation": activation,
    "variance": variance,
    "magnitude": magnitude,
    "max-abs-weight": max_abs_weight,
    "random": random,
}
DEFAULT = "second order"


def choose(score: str, units: Units) -> torch.Tensor:
    """(kept,) ascending indices of the units that stay."""
    run = units.count // units.runs
    values = SCORES[score](units).view(units.runs, run)
    best = values.topk(units.kept // units.runs, dim=1).indices
    return (best + run * torch.arange(units.runs, device=best.device)[:, None]).flatten().sort().values
