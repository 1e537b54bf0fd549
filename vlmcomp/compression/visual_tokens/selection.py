"""Selects the image tokens that remain: pure functions on the features that the decoder would receive."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

# features (B, N, d), number of tokens that remain -> (B, num_kept) ascending indices
SelectionMethod = Callable[[torch.Tensor, int], torch.Tensor]


def _cosine_similarities(features: torch.Tensor) -> torch.Tensor:
    """(B, N, N), in float32, since near ties decide."""
    unit = F.normalize(features.float(), dim=-1)
    return unit @ unit.transpose(1, 2)


def _top_indices(scores: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Ascending indices of the highest scores; of equal scores the first counts as higher, on every device."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    return order[..., :num_kept].sort(dim=-1).values


def max_min_diversity(features: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Each next token is the one farthest from its nearest neighbor among those selected, the first the one least
    similar to all others: max-min diversity, after DivPrune (arXiv 2503.02175)."""
    similarities = _cosine_similarities(features)
    selected = [similarities.mean(2).argmin(1)]
    nearest = torch.full(features.shape[:2], -torch.inf, device=features.device)
    rows = torch.arange(len(features), device=features.device)
    for _ in range(num_kept - 1):
        nearest = torch.maximum(nearest, similarities[rows, selected[-1]])
        nearest[rows, selected[-1]] = torch.inf
        selected.append(nearest.argmin(1))
    return torch.stack(selected, 1).sort(dim=1).values


def least_similar(features: torch.Tensor, num_kept: int) -> torch.Tensor:
    """The tokens that are least similar to all others of the image."""
    return _top_indices(-_cosine_similarities(features).mean(2), num_kept)


def feature_norm(features: torch.Tensor, num_kept: int) -> torch.Tensor:
    """The tokens of the largest norm."""
    return _top_indices(features.float().norm(dim=-1), num_kept)


def uniform(features: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Evenly spaced in reading order, independent of the features: the baseline of every other method."""
    total = features.shape[1]
    indices = (torch.arange(num_kept, device=features.device) * 2 + 1) * total // (2 * num_kept)
    return indices.expand(len(features), num_kept)


SELECTION_METHODS: dict[str, SelectionMethod] = {  # the keys are written to reports
    "diverse": max_min_diversity,
    "distinct": least_similar,
    "strong": feature_norm,
    "even": uniform,
}
DEFAULT_METHOD = "diverse"
