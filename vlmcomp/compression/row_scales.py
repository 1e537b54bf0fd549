"""The scales that a Linear was rounded by, noted at the Linear: whoever packs or slices it later keeps its codes."""

from __future__ import annotations

import torch
from torch import nn

_ATTRIBUTE = "row_scales"


def set_row_scales(linear: nn.Linear, scales: torch.Tensor) -> None:
    """Note (out, groups) scales."""
    setattr(linear, _ATTRIBUTE, scales)


def get_row_scales(linear: nn.Linear) -> torch.Tensor | None:
    """The (out, groups) scales, or None for a Linear that has not been rounded."""
    return getattr(linear, _ATTRIBUTE, None)


def copy_row_scales(linear: nn.Linear, copy: nn.Linear, kept_rows: torch.Tensor | None) -> None:
    """Note the scales of ``linear`` at a copy that has only some of its rows (None: all); does nothing without any."""
    scales = get_row_scales(linear)
    if scales is not None:
        set_row_scales(copy, scales if kept_rows is None else scales[kept_rows])
