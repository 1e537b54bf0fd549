"""A task of which the FP16 model knows nothing: the sentences say so instead of asking for more questions."""

from __future__ import annotations

import pytest

from tests.support import made_reports as made
from vlmcomp.reporting import comparison
from vlmcomp.reporting.comparison import compare
from vlmcomp.reporting.recommend import Constraints, recommend_from_reports

FP16, INT8 = "llava-shapes/fp16", "llava-shapes/int8"
TASK = "vqav2"


def rows(correct: int, total: int, references: list[str] | None = None) -> list[dict]:
    answers = ["red"] * correct + ["blue"] * (total - correct)
    found = made.rows(*answers, task=TASK)[TASK]
    return [row | ({"references": references} if references else {}) for row in found]


@pytest.mark.parametrize("total", [1, 5, 200, 3000])
@pytest.mark.parametrize("references", [None, ["red"] * 10])
def test_neither_knows_the_task(total: int, references: list[str] | None) -> None:
    found = compare(rows(0, total, references), rows(0, total, references))
    assert found.loss == "neither of the two gives a right answer, so there is nothing to lose"
    assert found.verdict == "no difference seen" and found.retention is None
    report = made.scored(FP16, vqav2=0)
    said = comparison.verdict(made.scored(INT8, vqav2=0), report, {TASK: rows(0, total)}, {TASK: rows(0, total)})
    assert "neither of the two gives a right answer" in said and "too few" not in said


def test_only_the_compressed_model_is_right() -> None:
    found = compare(rows(0, 200), rows(50, 200))
    assert found.loss == "the baseline gives no right answer, so there is nothing to lose" and found.verdict == "better"


def test_few_right_answers_are_still_too_few() -> None:
    assert compare(rows(1, 5), rows(1, 5)).loss == "too few questions to show a loss below 2 %"
    assert compare(rows(5, 5), rows(0, 5)).loss != compare(rows(0, 5), rows(0, 5)).loss


@pytest.mark.parametrize("points", [0.5, 5.0, 100.0])
@pytest.mark.parametrize("goal", ["memory", "speed"])
def test_a_recommendation_says_that_nothing_is_known(points: float, goal: str) -> None:
    reports = [made.scored(FP16, vqav2=0), made.scored(INT8, 2.0, 2, vqav2=0)]
    wish = Constraints("llava-shapes", 10**9, points, goal)
    found = recommend_from_reports(wish, reports, made.scored_rows, TASK)
    assert found.reason.endswith("FP16 gives no right answer to vqav2: choose a task that the model knows.")
    assert "too few" not in found.reason
