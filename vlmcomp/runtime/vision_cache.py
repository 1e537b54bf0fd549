"""The output of one vision tower pass over an image, for all variants of a model, since no recipe changes the tower."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch

TowerKey: TypeAlias = "tuple[str, str, torch.device]"  # model, compute dtype, device


class VisionCache:
    """The last output of a vision tower, with its inputs; one entry.

    Attributes:
        saved_seconds: time that the last answer did not spend in the tower.
    """

    def __init__(self) -> None:
        self.saved_seconds = 0.0
        self._tower: TowerKey | None = None
        self._inputs: tuple[Any, ...] = ()
        self._output: Any = None
        self._tower_seconds = 0.0

    def get(self, tower: TowerKey, inputs: tuple[Any, ...]) -> Any:
        """The output of ``tower`` for equal inputs, and sets ``saved_seconds``; None if it is not the stored one."""
        if self._tower != tower or not _same_inputs(inputs, self._inputs):
            return None
        self.saved_seconds = self._tower_seconds
        return copy.copy(self._output)  # families set attributes on it

    def put(self, tower: TowerKey, inputs: tuple[Any, ...], output: Any, seconds: float) -> None:
        """Stores a pass in place of the last one.

        Args:
            tower: what computed it.
            inputs: arguments of the tower's forward.
            output: what it returned.
            seconds: how long it took.
        """
        self._tower = tower
        self._inputs = inputs
        self._output = copy.copy(output)
        self._tower_seconds = seconds


def _same_inputs(inputs: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    return len(inputs) == len(others) and all(map(_equal, inputs, others))


def _equal(value: Any, other: Any) -> bool:
    if type(value) is not type(other):
        return False
    if hasattr(value, "shape"):
        return value.shape == other.shape and bool((value == other).all())
    return value == other
