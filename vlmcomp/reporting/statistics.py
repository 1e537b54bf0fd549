"""Intervals and tests for the difference between two compressed models; those of scores are in ``paired_scores``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmcomp.reporting.gamma_sums import probability_below_zero
from vlmcomp.results.schema import Latency, same_timing_session

if TYPE_CHECKING:
    import numpy as np  # the command line starts without it

RESAMPLES = 4000
CONFIDENCE = 0.95
SIGNIFICANCE = 0.05  # p-values below it are called a difference
_FEWEST_FLIPS = 6  # that are significant if all have one direction: 2 / 2**6 < 0.05
_CHUNK = 200  # resamples at a time, which bounds the memory


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    def points(self) -> tuple[str, str, str]:
        """Value and bounds of a share as signed percentage points; 0.0 has no sign.

        One decimal, and as many more as it takes to keep the bound of a significant difference off 0.
        """
        decimals = 1
        while self.significant and abs(round(100 * min(self.low, self.high, key=abs), decimals)) == 0 and decimals < 9:
            decimals += 1
        value, low, high = (_signed(100 * x, decimals) for x in (self.value, self.low, self.high))
        return value, low, high

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high

    @property
    def speedup_text(self) -> str:
        """A relative speed minus 1 as a factor with its bounds: ``1.20x (1.02 to 1.57)``."""
        return f"{1 + self.value:.2f}x ({1 + self.low:.2f} to {1 + self.high:.2f})"


def _signed(number: float, decimals: int) -> str:
    text = f"{number:+.{decimals}f}"
    return text if float(text) else f"{0:.{decimals}f}"


def mcnemar_p_value(regressions: int, improvements: int) -> float:
    """Two-sided p-value of the exact McNemar test: regressions and improvements are equally likely (McNemar 1947)."""
    import numpy as np

    fewer, more = sorted((regressions, improvements))
    if not more:
        return 1.0
    # The binomial tail is the chance that one gamma variable exceeds another: no sum over thousands of changes.
    return min(1.0, 2 * probability_below_zero(np.array([1.0, -1.0]), np.array([more, fewer + 1.0])))


def p_value_text(p_value: float) -> str:
    """``p = 0.03``, with as many digits as it takes to stay on its side of 0.05, or ``p < 0.0001``."""
    if p_value < 0.0001:
        return "p < 0.0001"
    texts = (f"{p_value:.{digits}g}" for digits in range(2, 18))
    return "p = " + next(text for text in texts if (float(text) < SIGNIFICANCE) == (p_value < SIGNIFICANCE))


def minimum_detectable_difference(num_samples: int, changed: float) -> float:
    """The smallest difference of shares that McNemar's exact test sees, if the share ``changed`` of the answers flips.

    With fewer than six flips there is none; six are counted then.
    """
    flips = max(round(changed * num_samples), _FEWEST_FLIPS)
    seen = (more for more in range((flips + 1) // 2, flips + 1) if mcnemar_p_value(flips - more, more) < SIGNIFICANCE)
    return (2 * next(seen) - flips) / num_samples


def fewest_questions(loss: float) -> int:
    """The number of questions from which scores that are all equal show a loss of at most ``loss``, above 0."""
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(1 - loss)) if loss < 1 else 1


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean of unbounded ``values`` with its percentile bootstrap interval (Efron 1979).

    Raises:
        ValueError: no values.
    """
    import numpy as np

    if not len(values):
        raise ValueError("an interval needs at least one value")
    distinct, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
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
