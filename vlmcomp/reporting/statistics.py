"""Intervals and tests for the difference between two compressed models."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmcomp.results.schema import Latency, same_timing_session

if TYPE_CHECKING:
    import numpy as np  # the command line starts without it

RESAMPLES = 4000
CONFIDENCE = 0.95
_CHUNK = 200  # resamples at a time, which bounds the memory


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def points(self) -> tuple[str, str, str]:
        """Value and bounds of a share as signed percentage points; 0.0 has no sign."""
        texts = (f"{100 * x:+.1f}" for x in (self.value, self.low, self.high))
        return tuple("0.0" if text in ("+0.0", "-0.0") else text for text in texts)  # type: ignore[return-value]

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high

    @property
    def speedup_text(self) -> str:
        """A relative speed minus 1 as a factor with its bounds: ``1.20x (1.02 to 1.57)``."""
        return f"{1 + self.value:.2f}x ({1 + self.low:.2f} to {1 + self.high:.2f})"


def mcnemar_p_value(regressions: int, improvements: int) -> float:
    """Two-sided p-value of the exact McNemar test: regressions and improvements are equally likely (McNemar 1947)."""
    changes = regressions + improvements
    tail = sum(math.comb(changes, k) for k in range(min(regressions, improvements) + 1))
    return min(1.0, 2 * tail / 2**changes)


def minimum_detectable_difference(num_samples: int, changed: float) -> float:
    """Half the 95 % interval of a paired difference of shares, if the share ``changed`` of the answers flips.

    Normal approximation with McNemar's variance, changed / num_samples: smaller differences are not significant.
    """
    return statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(changed / num_samples)


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean of ``values`` with its percentile bootstrap interval (Efron 1979).

    Raises:
        ValueError: no values.
    """
    import numpy as np

    if not len(values):
        raise ValueError("an interval needs at least one value")
    distinct, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
    # A mean depends only on how often each distinct value is drawn, and right and wrong answers are three values.
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=RESAMPLES)
    return _percentile_interval(float(np.mean(values)), drawn @ distinct / len(values))


def median_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Median of ``values`` with its percentile bootstrap interval.

    Raises:
        ValueError: no values.
    """
    import numpy as np

    return _bootstrap(np.asarray(values, dtype=float), lambda drawn: np.median(drawn, 1), seed)


def percentile_95(values: Sequence[float]) -> float:
    """The 95th percentile, linearly interpolated between the nearest values."""
    ordered = sorted(values)
    position = 0.95 * (len(values) - 1)
    low = int(position)
    return ordered[low] + (position - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def decode_interval(latency: Latency) -> Interval:
    """Median milliseconds per decoded token with its interval."""
    return median_interval(latency.decode_ms_per_token)


def speed_interval(before: Latency, after: Latency, seed: int = 0) -> Interval | None:
    """``speedup_interval`` of two latencies; None if they were not timed in turns.

    Without turns, differences between processes cannot be separated from differences between models.
    """
    if not same_timing_session(before, after):
        return None
    return speedup_interval(before.decode_ms_per_token, after.decode_ms_per_token, seed)


def speedup_interval(before: Sequence[float], after: Sequence[float], seed: int = 0) -> Interval:
    """Relative speedup, median of ``before`` / median of ``after`` minus 1, of times taken in turns.

    Runs are resampled in pairs, so that a slow period of the machine that affects both cancels out.
    """
    import numpy as np

    pairs = np.stack([np.asarray(times, float) for times in (before, after)], 1)
    return _bootstrap(pairs, lambda d: np.median(d[..., 0], 1) / np.median(d[..., 1], 1) - 1, seed)


def _bootstrap(rows: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int) -> Interval:
    """``statistic`` of ``rows`` (first axis: runs) with its percentile interval over resampled runs."""
    import numpy as np

    if not len(rows):
        raise ValueError("an interval needs at least one value")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES // _CHUNK):
        found.append(statistic(rows[rng.integers(len(rows), size=(_CHUNK, len(rows)))]))
    return _percentile_interval(float(statistic(rows[None])[0]), np.concatenate(found))


def _percentile_interval(value: float, drawn: np.ndarray) -> Interval:
    import numpy as np

    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
