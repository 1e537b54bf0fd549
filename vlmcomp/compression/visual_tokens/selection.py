"""Which tokens of an image stay: pure functions on the features that the decoder would get."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Rule = Callable[[torch.Tensor, int], torch.Tensor]  # features (B, N, d), how many stay -> (B, kept) indices, ascending


def _similar(features: torch.Tensor) -> torch.Tensor:
    """(B, N, N) cosines; in float32, since near ties decide."""
    unit = F.normalize(features.float(), dim=-1)
    return unit @ unit.transpose(1, 2)


def _highest(scores: torch.Tensor, kept: int) -> torch.Tensor:
    """Of equal scores the first counts as the higher, on every device."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    return order[..., :kept].sort(dim=-1).values


def diverse(features: torch.Tensor, kept: int) -> torch.Tensor:
    """Each next token is the one farthest from its nearest neighbour among those chosen, the first the one least like
    all others: max-min diversity, after DivPrune (arXiv 2503.02175)."""
    similar = _similar(features)
    chosen = [similar.mean(2).argmin(1)]
    nearest = torch.full(features.shape[:2], -torch.inf, device=features.device)
    rows = torch.arange(len(features), device=features.device)
    for _ in range(kept - 1):
        nearest = torch.maximum(nearest, similar[rows, chosen[-1]])
        nearest[rows, chosen[-1]] = torch.inf
        chosen.append(nearest.argmin(1))
    return torch.stack(chosen, 1).sort(dim=1).values


def distinct(features: torch.Tensor, kept: int) -> torch.Tensor:
    """The tokens that are least like all others of the image."""
    return _highest(-_similar(features).mean(2), kept)


def strong(features: torch.Tensor, kept: int) -> torch.Tensor:
    """The tokens of the largest norm."""
    return _highest(features.float().norm(dim=-1), kept)


def even(features: torch.Tensor, kept: int) -> torch.Tensor:
    """Evenly spaced in reading order: looks at no feature, the yardstick that any rule has to beat."""
    total = features.shape[1]
    places = (torch.arange(kept, device=features.device) * 2 + 1) * total // (2 * kept)
    return places.expand(len(features), kept)


RULES: dict[str, Rule] = {"diverse": diverse, "distinct": distinct, "strong": strong, "even": even}
DEFAULT = "diverse"
