"""Scores of two models on the same questions: a test, and intervals of their difference and ratio that agree with it.

All invert one test, Gaffke's for the mean of bounded values (2005; Learned-Miller and Thomas, arXiv 1905.06208): the
questions get random weights, and so does one question more, which has the worst outcome there is. It assumes nothing of
the scores but their range, and is made for few changed answers or none. For right and wrong answers it is McNemar's
exact test, and where nothing changes the rule of three. For graded scores its validity is conjectured, not proven; no
case that violates it is known.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmcomp.reporting.gamma_sums import probability_below_zero
from vlmcomp.reporting.statistics import CONFIDENCE, Interval

if TYPE_CHECKING:
    import numpy as np  # the command line starts without it

_TAIL = (1 - CONFIDENCE) / 2
_NORMAL = statistics.NormalDist()
_SMALLEST = 1e-16  # probability whose normal quantile is taken
_PRECISION = 1e-7  # of a bound, in standard deviations


class PairedScores:
    """The scores of the same questions before and after a change, each from 0 to 1.

    Raises:
        ValueError: no scores.
    """

    def __init__(self, before: Sequence[float], after: Sequence[float]) -> None:
        import numpy as np

        if not len(before):
            raise ValueError("an interval needs at least one value")
        kinds = sorted(Counter(zip(before, after, strict=True)).items())
        self._kinds = tuple(np.array([(*pair, count) for pair, count in kinds], float).T)
        self.mean_before, self.mean_after = statistics.fmean(before), statistics.fmean(after)

    def difference(self) -> Interval:
        """Mean after minus mean before, with its 95 % interval."""
        before, after, counts = self._kinds
        low = _difference(before, after, counts).lower_bound()
        high = -_difference(after, before, counts).lower_bound()
        return Interval(float(counts @ (after - before) / counts.sum()), low, high)

    def retention(self) -> Interval | None:
        """Mean after as a share of the mean before, with its 95 % interval; None if the mean before is 0."""
        if not self.mean_before:
            return None
        before, after, counts = self._kinds
        low = _ratio(before, after, counts).lower_bound()
        high = 1 / _ratio(after, before, counts).lower_bound()
        return Interval(self.mean_after / self.mean_before, low, high)

    def p_value(self) -> float:
        """Two-sided p-value of equal means; below 0.05 exactly where the intervals exclude equality."""
        before, after, counts = self._kinds
        sides = (_difference(before, after, counts), _difference(after, before, counts))
        return min(1.0, 2 * min(side.chance_below(0) for side in sides))


def _difference(before: np.ndarray, after: np.ndarray, counts: np.ndarray) -> _WeightedRatio:
    """Differences of scores; the added question falls from 1 to 0."""
    import numpy as np

    return _WeightedRatio(np.append(after - before, -1), np.ones(len(before) + 1), np.append(counts, 1.0), -1, 0)


def _ratio(before: np.ndarray, after: np.ndarray, counts: np.ndarray) -> _WeightedRatio:
    """Ratios of scores; the added question falls from 1 to 0."""
    import numpy as np

    return _WeightedRatio(np.append(after, 0), np.append(before, 1), np.append(counts, 1.0), 0, 1)


@dataclass(frozen=True)
class _WeightedRatio:
    """The ratio of two sums over kinds of questions under random weights.

    ``tops``, ``bottoms``: (K,), what is summed. ``counts``: (K,), of the questions. ``least``: a lower limit of the
    ratio. ``equal``: the ratio that means no change.
    """

    tops: np.ndarray
    bottoms: np.ndarray
    counts: np.ndarray
    least: float
    equal: float

    def chance_below(self, value: float) -> float:
        """The chance that random weights give ``value`` or less: of an exponential variable a question."""
        return probability_below_zero(self.tops - value * self.bottoms, self.counts)

    def lower_bound(self) -> float:
        """The value with a chance of 2.5 % below it; above ``equal`` exactly where ``equal`` has a smaller chance.

        Secant steps inside a bracket, on the scale of normal quantiles, where the chance is nearly linear.
        """
        if self.chance_below(self.least) >= _TAIL:
            return self.least
        total = float(self.counts @ self.bottoms)
        mean = float(self.counts @ self.tops) / total
        deviation = math.sqrt(self.counts @ (self.tops - mean * self.bottoms) ** 2) / total
        low, high = self.least, mean
        last_value, last_excess = mean, -_NORMAL.inv_cdf(_TAIL)  # of a normal distribution
        value = self.equal if low < self.equal < high else max(mean - 2 * deviation, (low + mean) / 2)
        while low < value < high:
            excess = self._excess(value)
            low, high = (value, high) if excess < 0 else (low, value)
            if abs(excess) < _PRECISION and value != self.equal:
                return value
            slope = (excess - last_excess) / (value - last_value)
            last_value, last_excess = value, excess
            value -= excess / slope if slope else math.inf
            if not low < value < high:
                value = (low + high) / 2
        return value

    def _excess(self, value: float) -> float:
        """Normal quantile of the chance below ``value``, above that of 2.5 %."""
        chance = min(max(self.chance_below(value), _SMALLEST), 1 - _SMALLEST)
        return _NORMAL.inv_cdf(chance) - _NORMAL.inv_cdf(_TAIL)
