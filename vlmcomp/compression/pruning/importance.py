"""Importance scores of neurons and heads: pure functions on tensors, larger is more important."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import torch

from vlmcomp.compression.activation_stats import ActivationStats
from vlmcomp.compression.pruning.reconstruction import DAMPENING, normal_equations, reconstruction_error

MAX_EXHAUSTIVE_SUBSETS = 70  # up to this number all subsets of heads are tried


@dataclass(frozen=True)
class PruningUnits:
    """The neurons or heads of one layer, of which some are pruned.

    Attributes:
        weight: (out, n) matrix of the Linear whose inputs the units are (the consumer).
        stats: of the consumer's inputs and target outputs.
        num_kept: units that remain, the same number in each group.
        unit_width: columns of one unit: 1 for a neuron, the head width for heads.
        num_groups: of consecutive units, of equal size.
        producers: (n, in) matrices whose rows produce the units.
        has_bias: whether the consumer has a bias.
        seed: of the score "random".
    """

    weight: torch.Tensor
    stats: ActivationStats
    num_kept: int
    unit_width: int = 1
    num_groups: int = 1
    producers: tuple[torch.Tensor, ...] = ()
    has_bias: bool = False
    seed: int = 0

    @property
    def num_units(self) -> int:
        return self.weight.shape[1] // self.unit_width

    @property
    def group_size(self) -> int:
        return self.num_units // self.num_groups

    @property
    def num_kept_in_group(self) -> int:
        return self.num_kept // self.num_groups

    def columns(self, units: torch.Tensor) -> torch.Tensor:
        """The columns of the given units."""
        return (units[:, None] * self.unit_width + torch.arange(self.unit_width, device=units.device)).flatten()

    def sum_by_unit(self, columns: torch.Tensor) -> torch.Tensor:
        """Sum over each unit's columns: (n,) -> (num_units,)."""
        return columns.view(self.num_units, self.unit_width).sum(1)


Score = Callable[[PruningUnits], torch.Tensor]


def _column_sq_norms(weight: torch.Tensor) -> torch.Tensor:
    return weight.float().square().sum(0)


def magnitude(units: PruningUnits) -> torch.Tensor:
    """Squared norm of the unit's columns; independent of the data."""
    return units.sum_by_unit(_column_sq_norms(units.weight))


def max_abs_weight(units: PruningUnits) -> torch.Tensor:
    """Largest plus largest negative weight of the rows that produce the unit (MAW, also peak-to-peak magnitude).

    The rule that optipfair (Martra) and the study after it use for GLU pairs. Heads are scored by the columns of the
    consumer.
    """
    matrices = units.producers or (units.weight.T,)
    spans = [m.float().amax(1) + m.float().amin(1).abs() for m in matrices]
    return units.sum_by_unit(torch.stack(spans).sum(0))


def activation(units: PruningUnits) -> torch.Tensor:
    """Mean square of the unit times the squared norm of its column, after Wanda (Sun et al., arXiv 2306.11695)."""
    return units.sum_by_unit(units.stats.gram.diagonal().clamp_min(0) * _column_sq_norms(units.weight))


def variance(units: PruningUnits) -> torch.Tensor:
    """Variance of the unit times the squared norm of its column: FLAP's fluctuation (An et al., arXiv 2312.11983)."""
    variances = units.stats.gram.diagonal() - units.stats.mean.square()
    return units.sum_by_unit(variances.clamp_min(0) * _column_sq_norms(units.weight))


def random(units: PruningUnits) -> torch.Tensor:
    """A random order, the same in every layer: the baseline of every other score."""
    generator = torch.Generator().manual_seed(units.seed)
    return torch.rand(units.num_units, generator=generator).to(units.weight.device)


def optimal_brain_surgeon(units: PruningUnits) -> torch.Tensor:
    """Error that removal causes after the other units have made up for it.

    With H the damped Gram matrix and W* the best consumer matrix over all units, removing the columns R costs
    tr(W*_R (H^-1_RR)^-1 W*_R^T). The cheapest go first, in at least 32 rounds for neurons and one by one for
    heads, W* and H^-1 being updated after each (Hassibi and Stork 1993; for structures SlimGPT, arXiv 2412.18110,
    and ZipLM, arXiv 2302.04089). Where heads are so few that every subset can be tried, every subset is, since
    the greedy order can be far from the best pair.

    Returns:
        (num_units,): the round in which a unit was removed, and infinity for those that remain.
    """
    subsets = math.comb(units.group_size, units.num_kept_in_group) ** units.num_groups
    if units.unit_width > 1 and subsets <= MAX_EXHAUSTIVE_SUBSETS:
        return _exhaustive_search(units)
    return _greedy_search(units)


def _exhaustive_search(units: PruningUnits) -> torch.Tensor:
    def error(kept: tuple[int, ...]) -> float:
        columns = units.columns(torch.tensor(kept))
        return reconstruction_error(units.weight, units.stats, columns, has_bias=units.has_bias)

    scores = torch.zeros(units.num_units)
    best = min(_subsets(units), key=error)
    scores[list(best)] = math.inf
    return scores.to(units.weight.device)


def _subsets(units: PruningUnits) -> Iterator[tuple[int, ...]]:
    """Every choice of ``num_kept`` units with the same number in each group."""
    for chosen in combinations(range(units.num_units), units.num_kept):
        in_group = [0] * units.num_groups
        for unit in chosen:
            in_group[unit // units.group_size] += 1
        if all(count == units.num_kept_in_group for count in in_group):
            yield chosen


def _greedy_search(units: PruningUnits) -> torch.Tensor:
    best, inverse = _solve_all_units(units)
    quota = torch.full((units.num_groups,), units.group_size - units.num_kept_in_group)  # still to remove
    removed_in = torch.full((units.num_units,), math.inf, device=best.device)
    is_neurons = units.unit_width == 1 and units.num_groups == 1
    at_once = max(1, int(quota.sum()) // 32) if is_neurons else 1
    for turn in range(units.num_units):
        if not quota.sum():
            break
        cost = _removal_costs(best, inverse, units.unit_width)
        cost[removed_in.isfinite()] = math.inf
        cost.view(units.num_groups, units.group_size)[quota.to(cost.device) == 0] = math.inf
        removed = cost.topk(min(at_once, int(quota.sum())), largest=False).indices
        removed_in[removed] = turn
        quota -= torch.bincount(removed.cpu() // units.group_size, minlength=units.num_groups)
        columns = units.columns(removed)
        update = torch.linalg.solve(inverse[columns][:, columns], inverse[columns])
        best -= best[:, columns] @ update
        inverse -= inverse[:, columns] @ update
        inverse[columns] = 0
        inverse[:, columns] = 0
    return removed_in


def _solve_all_units(units: PruningUnits) -> tuple[torch.Tensor, torch.Tensor]:
    """The best consumer matrix over all units, and the inverse of the damped Gram matrix."""
    weight, gram, cross = normal_equations(units.weight, units.stats, units.has_bias)
    damping = DAMPENING * gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    gram.diagonal().add_(damping)
    inverse = _inverse(gram)
    return (cross + damping * weight) @ inverse, inverse


def _inverse(matrix: torch.Tensor) -> torch.Tensor:
    """By Cholesky, half the work of LU; by LU where rounding has cost the matrix its definiteness."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.linalg.inv(matrix) if failed else torch.cholesky_inverse(factor)


def _removal_costs(best: torch.Tensor, inverse: torch.Tensor, width: int) -> torch.Tensor:
    """tr(W_R (H^-1_RR)^-1 W_R^T) for every unit R of ``width`` columns; meaningless for removed units."""
    if width == 1:
        return best.square().sum(0) / inverse.diagonal().clamp_min(torch.finfo(inverse.dtype).tiny)
    count = len(inverse) // width
    blocks = inverse.view(count, width, count, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    is_removed = blocks.diagonal(dim1=1, dim2=2).sum(1) == 0
    eye = torch.eye(width, dtype=inverse.dtype, device=inverse.device)
    weights = best.view(-1, count, width).permute(1, 2, 0)
    solved = torch.linalg.solve(torch.where(is_removed[:, None, None], eye, blocks), weights)
    return (weights * solved).sum((1, 2))


IMPORTANCE_SCORES: dict[str, Score] = {  # the keys are written to reports
    "second order": optimal_brain_surgeon,
    "activation": activation,
    "variance": variance,
    "magnitude": magnitude,
    "max-abs-weight": max_abs_weight,
    "random": random,
}
DEFAULT_SCORE = "second order"
SCORES_BY_TARGETS = ("second order",)  # those that depend on the target outputs


def select_units(score: str, units: PruningUnits) -> torch.Tensor:
    """(num_kept,) ascending indices of the units that remain."""
    values = IMPORTANCE_SCORES[score](units).view(units.num_groups, units.group_size)
    best = values.topk(units.num_kept_in_group, dim=1).indices
    first_units = units.group_size * torch.arange(units.num_groups, device=best.device)
    return (best + first_units[:, None]).flatten().sort().values
