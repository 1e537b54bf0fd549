"""Two reports on the same questions: paired differences, and a verdict in words."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmcomp.data.answer_matching import exact_match
from vlmcomp.reporting.statistics import Interval, mcnemar, mean_interval, speed_interval
from vlmcomp.results.schema import Latency, Report
from vlmcomp.results.store import Rows

if TYPE_CHECKING:
    pass  # the command line starts without it


LITTLE = 0.02  # of the baseline's score: the loss below which quantization is said to be free


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
