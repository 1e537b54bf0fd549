"""Paired comparison of two reports on the same questions, and a verdict in words."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from vlmcomp.data.answer_matching import exact_match
from vlmcomp.reporting.statistics import Interval, mcnemar_p_value, mean_interval, speed_interval
from vlmcomp.results.schema import Latency, Report, same_questions
from vlmcomp.results.store import Predictions

TOLERANCE = 0.02  # relative loss of the baseline's score below which quantization counts as free
_OTHER_QUESTIONS = "the two were not asked the same questions: measure both with the same tasks and samples"

Question = tuple[str, str, str]  # id, question, reference


@dataclass(frozen=True)
class PairedComparison:
    """A compressed model against its baseline on the same ``num_samples`` questions.

    ``baseline_score`` and ``difference`` are exact-match shares. ``agreement``: share of answers that are identical.
    ``regressions`` and ``improvements`` count the questions that went from right to wrong and from wrong to right;
    ``p_value`` is that of McNemar's exact two-sided test on them.
    """

    num_samples: int
    baseline_score: float
    agreement: float
    regressions: int
    improvements: int
    difference: Interval
    p_value: float

    @property
    def within_tolerance(self) -> bool:
        """Whether the interval excludes a loss of 2 % of the score or more."""
        return self.difference.low > -TOLERANCE * self.baseline_score

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``no difference seen``."""
        if not self.difference.significant:
            return "no difference seen"
        return "better" if self.difference.value > 0 else "worse"


def compare(before: Predictions, after: Predictions, seed: int = 0) -> PairedComparison:
    """Compare the predictions of two models by exact match.

    Args:
        before: the baseline's.
        after: the compressed model's, on the same questions in any order.
        seed: of the bootstrap.

    Raises:
        ValueError: one has no predictions, or the questions differ.
    """
    if not before or not after:
        raise ValueError("the answers of one of the two are not recorded: measure it again")
    by_question = {_question(row): row for row in before}
    if {_question(row) for row in after} != set(by_question):
        raise ValueError(_OTHER_QUESTIONS)
    pairs = [(by_question[_question(row)], row) for row in after]
    correct = [(exact_match(a["answer"], a["reference"]), exact_match(b["answer"], b["reference"])) for a, b in pairs]
    regressions = correct.count((True, False))
    improvements = correct.count((False, True))
    return PairedComparison(
        num_samples=len(pairs),
        baseline_score=statistics.fmean(a for a, _ in correct),
        agreement=statistics.fmean(a["answer"] == b["answer"] for a, b in pairs),
        regressions=regressions,
        improvements=improvements,
        difference=mean_interval([b - a for a, b in correct], seed),
        p_value=mcnemar_p_value(regressions, improvements),
    )


def _question(row: Mapping[str, str]) -> Question:
    return row["id"], row["question"], row["reference"]


def correct_by_question(predictions: Predictions) -> dict[Question, bool]:
    """Whether each question was answered right, by exact match."""
    return {_question(row): exact_match(row["answer"], row["reference"]) for row in predictions}


def difference(before: Mapping[Question, bool], after: Mapping[Question, bool]) -> Interval:
    """``compare(...).difference`` from two ``correct_by_question``: much faster for many pairs of reports.

    Raises:
        ValueError: the questions differ.
    """
    if set(before) != set(after):
        raise ValueError(_OTHER_QUESTIONS)
    return mean_interval([correct - before[question] for question, correct in after.items()])


def verdict(
    after: Report,
    before: Report,
    after_predictions: Mapping[str, Predictions],
    before_predictions: Mapping[str, Predictions],
    task: str | None = None,
) -> str:
    """One paragraph on how ``after`` differs from ``before``: quality by task, speed, size.

    Args:
        after: the report to judge.
        before: the report that it is compared with.
        after_predictions: predictions of ``after`` by task.
        before_predictions: predictions of ``before`` by task.
        task: the only task to compare (None: every task of both).

    Raises:
        ValueError: the questions differ.
    """
    sentences = [f"{after.recipe} against {before.recipe}."]
    for name in (name for name in after.quality if name in before.quality and task in (None, name)):
        if not same_questions(after.quality[name], before.quality[name]):
            raise ValueError(_OTHER_QUESTIONS)
        found = compare(before_predictions.get(name, []), after_predictions.get(name, []))
        sentences.append(_quality_sentence(name, found))
    if after.latency and before.latency:
        sentences.append(_speed_sentence(before.latency, after.latency))
    if after.size and before.size:
        weights = (f"{size.total_bytes / 1e6:,.2f} MB" for size in (after.size, before.size))
        sentences.append(f"Its weights are {' against '.join(weights)}.")
    return " ".join(sentences)


def _speed_sentence(before: Latency, after: Latency) -> str:
    found = speed_interval(before, after)
    if found is None:
        return "Their speeds do not compare: they were not timed in turns (bench --latency-only)."
    bounds = f"{1 + found.low:.2f}x to {1 + found.high:.2f}x"
    if not found.significant:
        return f"In ms/token no difference is seen ({bounds})."
    return f"Tokens come at {1 + found.value:.2f}x its speed ({bounds})."


def _quality_sentence(task: str, found: PairedComparison) -> str:
    value, low, high = found.difference.points()
    score = found.baseline_score + found.difference.value
    loss = "less than 2 % is lost" if found.within_tolerance else "that less than 2 % is lost is not shown"
    flips = f"{found.regressions} went from right to wrong and {found.improvements} from wrong to right"
    return (
        f"On {found.num_samples:,} questions of {task} exact match is {100 * score:.1f} % against "
        f"{100 * found.baseline_score:.1f} %, {value} points (95 % interval {low} to {high}): {found.verdict}; {loss}. "
        f"{100 * found.agreement:.1f} % of the answers are the same; {flips} (McNemar p = {found.p_value:.2g})."
    )
