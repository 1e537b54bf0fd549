"""Two variants asked the same questions: what differs between them, and whether chance alone could have done it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmcomp.data.answer_matching import exact_match
from vlmcomp.results.schema import Latency, Report, timed_in_turns
from vlmcomp.results.store import Rows

if TYPE_CHECKING:
    import numpy as np  # the command line starts without it

RESAMPLES = 4000
LEVEL = 0.95
LITTLE = 0.02  # of the baseline's score: the loss below which quantization is said to be free
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


@dataclass(frozen=True)
class Paired:
    """``after`` against ``before`` on the same ``samples`` questions.

    ``same``: the share of answers that agree letter for letter. ``to_wrong`` and ``to_right`` count the questions
    that changed sides. ``difference`` is that of exact match, a share. ``p``: McNemar's exact two-sided test.
    """

    samples: int
    before: float
    same: float
    to_wrong: int
    to_right: int
    difference: Interval
    p: float

    @property
    def little_lost(self) -> bool:
        """Whether the interval says that less than 2 % of the score was lost."""
        return self.difference.low > -LITTLE * self.before

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``no difference seen``."""
        if not self.difference.seen:
            return "no difference seen"
        return "better" if self.difference.value > 0 else "worse"


def compare(before: Rows, after: Rows, seed: int = 0) -> Paired:
    """Compare the answers of two variants by exact match.

    Raises:
        ValueError: the two were not asked the same questions.
    """
    others = {(row["id"], row["question"], row["reference"]): row for row in before}
    if not before or not after:
        raise ValueError("the answers of one of the two are not recorded: measure it again")
    if {(row["id"], row["question"], row["reference"]) for row in after} != set(others):
        raise ValueError("the two were not asked the same questions: measure both with the same tasks and samples")
    pairs = [(others[row["id"], row["question"], row["reference"]], row) for row in after]
    hits = [(exact_match(a["answer"], a["reference"]), exact_match(b["answer"], b["reference"])) for a, b in pairs]
    to_wrong, to_right = hits.count((True, False)), hits.count((False, True))
    return Paired(
        samples=len(pairs),
        before=statistics.fmean(a for a, _ in hits),
        same=statistics.fmean(a["answer"] == b["answer"] for a, b in pairs),
        to_wrong=to_wrong,
        to_right=to_right,
        difference=mean_interval([b - a for a, b in hits], seed),
        p=mcnemar(to_wrong, to_right),
    )


Question = tuple[str, str, str]  # id, question, reference


def hits(rows: Rows) -> dict[Question, bool]:
    """Which questions were answered right, by exact match."""
    return {(r["id"], r["question"], r["reference"]): exact_match(r["answer"], r["reference"]) for r in rows}


def difference(before: Mapping[Question, bool], after: Mapping[Question, bool]) -> Interval:
    """``compare(...).difference`` from what ``hits`` says of the two: much faster where many pairs are asked for.

    Raises:
        ValueError: the two were not asked the same questions.
    """
    if set(before) != set(after):
        raise ValueError("the two were not asked the same questions: measure both with the same tasks and samples")
    return mean_interval([hit - before[question] for question, hit in after.items()])


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


def verdict(after: Report, before: Report, after_rows: Mapping[str, Rows], before_rows: Mapping[str, Rows]) -> str:
    """What ``after`` does otherwise than ``before``, in one paragraph: quality by task, speed, size.

    Raises:
        ValueError: they were not asked the same questions.
    """
    said = [f"{after.recipe} against {before.recipe}."]
    for task in (name for name in after.quality if name in before.quality):
        said.append(_quality(task, compare(before_rows.get(task, []), after_rows.get(task, []))))
    if after.latency and before.latency:
        said.append(_speed(before.latency, after.latency))
    if after.size and before.size:
        weights = (f"{r.size.total_bytes / 1e6:,.2f} MB" for r in (after, before) if r.size)
        said.append(f"Its weights are {' against '.join(weights)}.")
    return " ".join(said)


def _speed(before: Latency, after: Latency) -> str:
    found = speed_interval(before, after)
    if found is None:
        return "Their speeds do not compare: they were not timed in turns (bench --retime)."
    span = f"{1 + found.low:.2f}x to {1 + found.high:.2f}x"
    if not found.seen:
        return f"In ms/token no difference is seen ({span})."
    return f"Tokens come at {1 + found.value:.2f}x its speed ({span})."


def _quality(task: str, found: Paired) -> str:
    value, low, high = found.difference.points()
    after = found.before + found.difference.value
    lost = "less than 2 % is lost" if found.little_lost else "that less than 2 % is lost is not shown"
    flips = f"{found.to_wrong} went from right to wrong and {found.to_right} from wrong to right"
    return (
        f"On {found.samples:,} questions of {task} exact match is {100 * after:.1f} % against {100 * found.before:.1f} "
        f"%, {value} points (95 % interval {low} to {high}): {found.verdict}; {lost}. {100 * found.same:.1f} % of the "
        f"answers are the same; {flips} (McNemar p = {found.p:.2g})."
    )
