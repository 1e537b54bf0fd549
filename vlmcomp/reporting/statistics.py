"""Two variants asked the same questions: what differs between them, and whether chance alone could have done it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmcomp.results.schema import Latency, timed_in_turns

if TYPE_CHECKING:
    import numpy as np  # the command line starts without it

RESAMPLES = 4000
LEVEL = 0.95
_CHUNK = 200  # resamples at a time


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def points(self) -> tuple[str, str, str]:
        """Value and bounds of a share as percentage points with their signs; 0.0 has none."""
        texts = (f"{100 * x:+.1f}" for x in (self.value, self.low, self.high))
        return tuple("0.0" if text in ("+0.0", "-0.0") else text for text in texts)  # type: ignore[return-value]

    @property
    def seen(self) -> bool:
        """Whether the interval leaves 0 out: a difference that is there."""
        return not self.low <= 0 <= self.high

    @property
    def factor(self) -> str:
        """Of a speed: how many times the other's it is, with its bounds, ``1.20x (1.02 to 1.57)``."""
        return f"{1 + self.value:.2f}x ({1 + self.low:.2f} to {1 + self.high:.2f})"


def mcnemar(to_wrong: int, to_right: int) -> float:
    """Two-sided p of the exact McNemar test: changes of side are as likely one way as the other (McNemar 1947)."""
    changes = to_wrong + to_right
    tail = sum(math.comb(changes, k) for k in range(min(to_wrong, to_right) + 1))
    return min(1.0, 2 * tail / 2**changes)


def resolvable(samples: int, changed: float) -> float:
    """Half the 95 % interval of a paired difference of shares where ``changed`` of the answers change sides.

    By the normal approximation to McNemar's variance, changed / samples: a smaller difference is not told from none.
    """
    return statistics.NormalDist().inv_cdf((1 + LEVEL) / 2) * math.sqrt(changed / samples)


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean of ``values`` with its percentile bootstrap interval (Efron 1979).

    Raises:
        ValueError: no values.
    """
    import numpy as np

    if not len(values):
        raise ValueError("an interval needs at least one value")
    distinct, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
    # how often each distinct value is drawn is all that a mean needs: right and wrong answers are three values
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=RESAMPLES)
    return _bounds(float(np.mean(values)), drawn @ distinct / len(values))


def median_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Median of ``values`` with its percentile bootstrap interval.

    Raises:
        ValueError: no values.
    """
    import numpy as np

    return _bootstrap(np.asarray(values, dtype=float), lambda drawn: np.median(drawn, 1), seed)


def speed_interval(before: Latency, after: Latency, seed: int = 0) -> Interval | None:
    """How much faster ``after`` decodes: median of ``before`` / median of ``after``, minus 1.

    Runs taken in turns are drawn together, so that a slow spell which hit both cancels out. None for models that were
    not timed in turns: what separates their processes cannot be told from what separates the models.
    """
    if not timed_in_turns(before, after):
        return None
    return faster(before.decode_ms_per_token, after.decode_ms_per_token, seed)


def faster(before: Sequence[float], after: Sequence[float], seed: int = 0) -> Interval:
    """Median of ``before`` / median of ``after``, minus 1, of times that were taken in turns."""
    import numpy as np

    both = np.stack([np.asarray(x, float) for x in (before, after)], 1)
    return _bootstrap(both, lambda d: np.median(d[..., 0], 1) / np.median(d[..., 1], 1) - 1, seed)


def _bootstrap(rows: np.ndarray, measure: Callable[[np.ndarray], np.ndarray], seed: int) -> Interval:
    import numpy as np

    if not len(rows):
        raise ValueError("an interval needs at least one value")
    rng, found = np.random.default_rng(seed), []
    for _ in range(RESAMPLES // _CHUNK):
        found.append(measure(rows[rng.integers(len(rows), size=(_CHUNK, len(rows)))]))
    return _bounds(float(measure(rows[None])[0]), np.concatenate(found))


def _bounds(value: float, drawn: np.ndarray) -> Interval:
    import numpy as np

    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
