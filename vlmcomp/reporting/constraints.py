"""What a device and its user demand of a recipe."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from vlmcomp.models import registry

GOALS = ("memory", "speed")
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?b)", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Bytes of ``8GB`` or ``4.5 MB``, in powers of ten.

    Raises:
        ValueError: another spelling, or zero.
    """
    found = _AMOUNT.fullmatch(text.strip()) if isinstance(text, str) and len(text) < 40 else None
    if found is None or float(found[1]) <= 0:
        raise ValueError(f"'{str(text)[:40]}' is not an amount of memory: write for example 8GB or 500MB")
    return max(1, int(float(found[1]) * _UNITS[found[2].lower()]))


@dataclass(frozen=True)
class Constraints:
    """What a recipe must satisfy, and what it is chosen for.

    ``memory_bytes``: of the device. ``max_accuracy_drop``: percentage points of the task's score. ``optimize_for``: one
    of ``GOALS``.
    """

    model: str
    memory_bytes: int
    max_accuracy_drop: float
    optimize_for: str

    def __post_init__(self) -> None:
        registry.get_model_spec(self.model)
        if self.memory_bytes <= 0:
            raise ValueError("the memory must be more than nothing: write for example 8GB")
        if not (math.isfinite(self.max_accuracy_drop) and 0 <= self.max_accuracy_drop <= 100):
            raise ValueError(f"a drop of {self.max_accuracy_drop:g} points is impossible: give 0 to 100")
        if self.optimize_for not in GOALS:
            raise ValueError(f"'{self.optimize_for}' is not a goal: use one of {', '.join(GOALS)}")
