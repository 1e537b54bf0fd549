"""Paired comparison of two reports on the same questions, and a verdict in words."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from vlmcomp.data.answer_matching import choose_metric, score_answer
from vlmcomp.feedback import format_count
from vlmcomp.reporting.paired_scores import PairedScores
from vlmcomp.reporting.statistics import Interval, fewest_questions, p_value_text, speed_interval
from vlmcomp.results.schema import EXACT_MATCH, Latency, Report, same_questions
from vlmcomp.results.store import Predictions

TOLERANCE = 0.02  # relative loss of the baseline's score below which quantization counts as free
_OTHER_QUESTIONS = "the two were not asked the same questions: measure both with the same tasks and samples"

Question = tuple[str, str, str]  # id, question, reference


@dataclass(frozen=True)
class PairedComparison:
    """A compressed model against its baseline on the same ``num_samples`` questions.

    ``metric`` is the score that judges the task, ``baseline_score`` and ``difference`` are shares of it. ``retention``:
    the score as a share of the baseline's, None if that is 0. ``agreement``: share of answers that are identical.
    ``regressions`` and ``improvements`` count the questions that score less and more: by exact match those that went
    from right to wrong and from wrong to right. ``p_value`` is that of the two-sided test that the intervals invert, of
    exact match McNemar's.
    """

    metric: str
    num_samples: int
    baseline_score: float
    agreement: float
    regressions: int
    improvements: int
    difference: Interval
    retention: Interval | None
    p_value: float

    @property
    def within_tolerance(self) -> bool:
        """Whether the 95 % interval of the retention excludes a loss of 2 % of the score or more."""
        return self.retention is not None and self.retention.low > 1 - TOLERANCE

    @property
    def loss(self) -> str:
        """Whether less than 2 % of the score is lost, by the interval; ``too few questions`` if none could show it, and
        that there is nothing to lose if the baseline's score is 0."""
        if not self.baseline_score:
            who = "the baseline" if self.improvements else "neither of the two"
            return f"{who} gives {'no' if self.improvements else 'a'} right answer, so there is nothing to lose"
        tolerance = f"{100 * TOLERANCE:.0f} %"
        if self.within_tolerance:
            return f"less than {tolerance} lost"
        if self.retention is not None and self.retention.high < 1 - TOLERANCE:
            return f"more than {tolerance} lost"
        if self.baseline_score * self.num_samples < fewest_questions(TOLERANCE):  # of those that can be lost
            return f"too few questions to show a loss below {tolerance}"
        return f"less than {tolerance} lost is not shown"

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``no difference seen``."""
        if not self.difference.significant:
            return "no difference seen"
        return "better" if self.difference.value > 0 else "worse"


def compare(before: Predictions, after: Predictions) -> PairedComparison:
    """Compare the predictions of a baseline and of a compressed model, in any order, by the score that judges the task.

    Raises:
        ValueError: one has no predictions, or the questions differ.
    """
    if not before or not after:
        raise ValueError("the answers of one of the two are not recorded: measure it again")
    by_question = {_question(row): row for row in before}
    if {_question(row) for row in after} != set(by_question):
        raise ValueError(_OTHER_QUESTIONS)
    pairs = [(by_question[_question(row)], row) for row in after]
    metric = choose_metric([*before, *after])
    correct = [(score_answer(a, metric), score_answer(b, metric)) for a, b in pairs]
    scores = PairedScores([a for a, _ in correct], [b for _, b in correct])
    return PairedComparison(
        metric=metric,
        num_samples=len(pairs),
        baseline_score=scores.mean_before,
        agreement=statistics.fmean(a["answer"] == b["answer"] for a, b in pairs),
        regressions=sum(b < a for a, b in correct),
        improvements=sum(b > a for a, b in correct),
        difference=scores.difference(),
        retention=scores.retention(),
        p_value=scores.p_value(),
    )


def _question(row: Mapping[str, str]) -> Question:
    return row["id"], row["question"], row["reference"]


def scores_by_question(predictions: Predictions) -> dict[Question, float]:
    """The score of each answer, by the one that judges the task."""
    metric = choose_metric(predictions)
    return {_question(row): score_answer(row, metric) for row in predictions}


def difference(before: Mapping[Question, float], after: Mapping[Question, float]) -> Interval:
    """``compare(...).difference`` from two ``scores_by_question``: much faster for many pairs of reports.

    Raises:
        ValueError: the questions differ.
    """
    if set(before) != set(after):
        raise ValueError(_OTHER_QUESTIONS)
    return PairedScores([before[question] for question in after], list(after.values())).difference()


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
    kept = found.retention
    loss = found.loss + (f", {100 * kept.low:.1f} to {100 * kept.high:.1f} % kept (95 %)" if kept else "")
    changes = f"{found.regressions} score less and {found.improvements} more ("
    if found.metric == EXACT_MATCH:
        changes = f"{found.regressions} went from right to wrong and {found.improvements} from wrong to right (McNemar "
    return (
        f"On {format_count(found.num_samples, 'question')} of {task} {found.metric} is {100 * score:.1f} % against "
        f"{100 * found.baseline_score:.1f} %, {value} points (95 % interval {low} to {high}): {found.verdict}; {loss}. "
        f"{100 * found.agreement:.1f} % of the answers are the same; {changes}{p_value_text(found.p_value)})."
    )
