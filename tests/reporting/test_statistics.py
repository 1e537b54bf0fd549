"""Paired comparison: exact tests against known values, intervals that hold what they promise, verdicts that follow."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import NormalDist

import pytest

from tests.support.made_reports import report, rows
from vlmcomp.cli.main import main
from vlmcomp.reporting import comparison
from vlmcomp.reporting import statistics as paired_statistics
from vlmcomp.results import store
from vlmcomp.results.schema import Latency


def _rows(hits: list[bool], tag: str = "") -> store.Predictions:
    return [
        {"id": str(i), "type": "t", "question": f"q{i}", "reference": "red", "answer": "red" if hit else f"blue{tag}"}
        for i, hit in enumerate(hits)
    ]


def _timed(steps: list[float], session: str = "one") -> Latency:
    return Latency(2, 3, 1, 1, steps, steps, steps, session=session)


@pytest.mark.parametrize(
    ("to_wrong", "to_right", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (6, 0, 0.03125), (0, 6, 0.03125), (1, 9, 0.021484375), (10, 3, 0.09228515625)],
)
def test_mcnemar_is_the_binomial_test(to_wrong: int, to_right: int, p: float) -> None:
    assert paired_statistics.mcnemar_p_value(to_wrong, to_right) == pytest.approx(p)


def test_a_variant_against_itself_differs_in_nothing() -> None:
    mine = _rows([True, False, True, True])
    found = comparison.compare(mine, mine)
    assert (found.agreement, found.regressions, found.improvements, found.p_value) == (1.0, 0, 0, 1.0)
    assert found.difference.value == 0 and found.difference.high == -found.difference.low == pytest.approx(
        0.602, abs=1e-3
    )
    assert found.verdict == "no difference seen" and not found.within_tolerance


def test_flips_are_counted_and_the_order_of_rows_does_not_matter() -> None:
    before, after = _rows([True, True, False, False]), _rows([True, False, True, False], tag="er")
    found = comparison.compare(before, list(reversed(after)))
    assert (found.num_samples, found.regressions, found.improvements, found.agreement) == (4, 1, 1, 0.25)
    back = comparison.compare(after, before)
    assert back.difference.value == -found.difference.value and back.p_value == found.p_value


def test_other_questions_are_refused() -> None:
    mine = _rows([True, False])
    other_reference = [row | {"reference": "blue"} for row in mine]
    for other in (mine[:1], _rows([True, False, True]), other_reference):
        with pytest.raises(ValueError, match="not asked the same questions"):
            comparison.compare(mine, other)
    with pytest.raises(ValueError, match="are not recorded"):
        comparison.compare(mine, [])


def test_a_large_loss_is_worse_and_a_small_one_on_few_questions_is_not_seen() -> None:
    many = comparison.compare(_rows([True] * 1000), _rows([True] * 940 + [False] * 60))
    assert many.verdict == "worse" and not many.within_tolerance and many.difference.high < -0.04
    few = comparison.compare(_rows([True] * 20), _rows([True] * 19 + [False]))
    assert (
        few.verdict == "no difference seen" and not few.within_tolerance
    )  # not seen is not the same as shown to be small
    little = comparison.compare(_rows([True] * 1000), _rows([True] * 994 + [False] * 6))
    assert little.verdict == "worse" and little.within_tolerance
    fewer = comparison.compare(_rows([True] * 1000), _rows([True] * 995 + [False] * 5))
    assert fewer.verdict == "no difference seen" and fewer.p_value > 0.05  # p is 0.0625


def test_too_few_questions_say_so_and_their_interval_has_a_width() -> None:
    found = comparison.compare(_rows([True] * 6), _rows([True] * 6))
    assert not found.within_tolerance and found.loss == "too few questions to show a loss below 2 %"
    assert found.difference.high == -found.difference.low == pytest.approx(1 - 0.025 ** (1 / 6))
    many = comparison.compare(_rows([True] * 184), _rows([True] * 184))
    assert many.loss == "less than 2 % lost" and many.retention.low > 0.98
    lost = comparison.compare(_rows([True] * 500), _rows([True] * 400 + [False] * 100))
    assert lost.loss == "more than 2 % lost" and lost.verdict == "worse"
    unclear = comparison.compare(_rows([True] * 500), _rows([True] * 495 + [False] * 5))
    assert unclear.loss == "less than 2 % lost is not shown" and unclear.verdict == "no difference seen"


def test_what_is_printed_stays_on_its_side_of_the_threshold() -> None:
    texts = {0.0499: "p = 0.0499", 0.05: "p = 0.05", 0.0501: "p = 0.05", 0.03125: "p = 0.031", 1e-9: "p < 0.0001"}
    assert {p: paired_statistics.p_value_text(p) for p in texts} == texts
    assert paired_statistics.Interval(-0.003, -0.0065, -0.0002).points() == ("-0.30", "-0.65", "-0.02")
    assert paired_statistics.Interval(-0.003, -0.0065, 0.0002).points() == ("-0.3", "-0.7", "0.0")


def test_thousands_of_changed_answers_have_a_p_value_at_once() -> None:
    assert paired_statistics.mcnemar_p_value(20_000, 20_000) == 1
    normal = 2 * NormalDist().cdf(-(1000 - 1) / 40_000**0.5)  # with the continuity correction
    assert paired_statistics.mcnemar_p_value(20_500, 19_500) == pytest.approx(normal, rel=0.01)
    assert paired_statistics.mcnemar_p_value(40_000, 0) == 0


def test_intervals_hold_the_truth_about_as_often_as_they_promise() -> None:
    rng, held = random.Random(0), 0
    for trial in range(100):
        found = paired_statistics.mean_interval([rng.random() < 0.3 for _ in range(300)], seed=trial)
        held += found.low <= 0.3 <= found.high
    assert 88 <= held <= 100
    assert paired_statistics.mean_interval([0.0, 1.0, 1.0], 7) == paired_statistics.mean_interval([0.0, 1.0, 1.0], 7)
    with pytest.raises(ValueError, match="at least one value"):
        paired_statistics.mean_interval([])


def test_a_slow_spell_that_hit_both_is_no_difference_and_a_real_one_is_seen() -> None:
    slow = [1.0, 1.1, 5.0, 5.2, 1.0, 0.9, 4.8, 1.0]
    before = _timed(slow)
    assert not paired_statistics.speed_interval(
        before, _timed([t * 1.001 + d for t, d in zip(slow, [0.01, -0.02] * 4)])
    ).significant
    faster = paired_statistics.speed_interval(before, _timed([t / 2 for t in slow]))
    assert faster.significant and faster.value == pytest.approx(1.0) and faster.low == pytest.approx(1.0)
    assert paired_statistics.speed_interval(before, _timed(slow, session="another")) is None
    assert paired_statistics.speed_interval(_timed(slow, session=""), _timed(slow, session="")) is None


def test_speed_is_told_of_what_was_timed_in_turns_alone() -> None:
    def verdict(session: str, factor: float) -> str:
        steps = [4.0, 4.1, 3.9, 4.0, 4.2, 4.0]
        before = report("llava-shapes/fp16", latency=_timed(steps))
        after = report("llava-shapes/int8", latency=_timed([s * factor for s in steps], session))
        recorded = {task: rows("red", "red")["shapes-vqa"] for task in after.quality}
        return comparison.verdict(after, before, recorded, recorded)

    assert "Tokens come at 0.50x its speed (0.50x to 0.50x)." in verdict("one", 2)
    assert "In ms/token no difference is seen (1.00x to 1.00x)." in verdict("one", 1)
    assert "0.50x" not in verdict("another", 2) and "not timed in turns" in verdict("another", 2)


def test_the_command_says_it_in_one_paragraph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = {"fp16": ("red", "red", "blue", "red"), "int8": ("red", "blue", "red", "red")}
    for precision, given in answers.items():
        made = report(f"llava-shapes/{precision}", ms=4.0 if precision == "fp16" else 8.0)
        store.save(made, rows(*given) | {"easy-vqa": rows(*given)["shapes-vqa"]}, tmp_path)
    command = ["compare", "llava-shapes/int8", "llava-shapes/fp16", "--root", str(tmp_path)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("On cpu-test-2c. llava-shapes/int8 against llava-shapes/fp16. On 4 questions of shapes-vqa")
    assert "1 went from right to wrong and 1 from wrong to right (McNemar p = 1)" in said
    assert "no difference seen" in said and "they were not timed in turns" in said and "x its speed" not in said
    assert len(said.strip().splitlines()) == 1
    assert main([*command[:2], "llava-shapes/int4", *command[3:]]) == 2
    assert "measured both in the same way" in capsys.readouterr().err
