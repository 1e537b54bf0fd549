"""What is recommended fits, stays within the loss by its interval, and is best at what was asked for."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.support.made_reports import failed, quality, report, rows
from vlmcomp.cli.main import main
from vlmcomp.reporting import grid
from vlmcomp.reporting import recommend as recommendation
from vlmcomp.reporting.comparison import compare
from vlmcomp.reporting.recommend import Constraints, Recommendation, parse_bytes, recommend_from_size_estimates
from vlmcomp.results import store
from vlmcomp.results.schema import Latency, Memory, Report, Size

ROOT = Path(__file__).resolve().parents[2]
COUNT = 400
MEMORIES, LOSSES = (4_000_000, 6_000_000, 10_000_000), (0.0, 1.0, 5.0, 100.0)


def _made(name: str, size: int, ms: float, wrong: int, session: str = "s") -> tuple[Report, store.Predictions]:
    """A report of ``size`` bytes whose first ``wrong`` answers of ``COUNT`` are wrong, timed at about ``ms``."""
    times = [ms * (1 + 0.01 * (i % 3)) for i in range(10)]
    timed = Latency(32, 80, 2, 1, [10.0] * 10, times, [100.0] * 10, session=session)
    found = report(
        f"llava-shapes/{name}",
        quality={"shapes-vqa": quality(exact=1 - wrong / COUNT, samples=COUNT)},
        latency=timed,
        size=Size({"decoder MLP": size}, {"decoder MLP": size}, size),
        memory=Memory(1, 2, size + 1000, "rss"),
        pruned=[],
    )
    return found, rows(*(["blue"] * wrong + ["red"] * (COUNT - wrong)))["shapes-vqa"]


MADE = [
    _made("fp16", 8_000_000, 10.0, 20),
    _made("int8", 5_000_000, 20.0, 21),
    _made("int4", 4_000_000, 21.0, 30),
    _made("glu30+fp16", 7_000_000, 8.0, 24),
    _made("glu30+int4", 3_500_000, 15.0, 60),
    _made("heads25+fp16", 7_500_000, 5.0, 80),
    _made("glu20+fp16", 7_600_000, 4.0, 22, session="another day"),
]
REPORTS = [r for r, _ in MADE] + [failed("llava-shapes/heads25+int4")]
ROWS = {r.recipe: {"shapes-vqa": answers} for r, answers in MADE}


def rows_of(found: Report) -> dict[str, store.Predictions]:
    return ROWS.get(found.recipe, {})


def advice(memory: int, loss: float, goal: str) -> Recommendation:
    return recommendation.recommend_from_reports(Constraints("llava-shapes", memory, loss, goal), REPORTS, rows_of)


@pytest.mark.parametrize("memory, loss, goal", itertools.product(MEMORIES, LOSSES, recommendation.GOALS))
def test_it_fits_and_stays_within_the_loss_by_the_intervals_lower_end(memory: int, loss: float, goal: str) -> None:
    found = advice(memory, loss, goal)
    if found.best is None:
        assert all(o.refused for o in found.candidates)
        return
    best = found.best
    assert best.required_bytes <= memory and best.weight_bytes <= best.required_bytes
    dense, mine = (ROWS[f"llava-shapes/{n}"]["shapes-vqa"] for n in ("fp16", best.recipe.name))
    assert best.recipe.name == "fp16" or 100 * compare(dense, mine).difference.low >= -loss
    assert not best.refused and best in found.candidates


@pytest.mark.parametrize("memory, loss", itertools.product(MEMORIES, LOSSES))
def test_for_memory_nothing_allowed_is_smaller(memory: int, loss: float) -> None:
    found = advice(memory, loss, "memory")
    allowed = [o.weight_bytes for o in found.candidates if not o.refused]
    assert (found.best.weight_bytes if found.best else None) == min(allowed, default=None)


@pytest.mark.parametrize("memory, loss", itertools.product(MEMORIES, LOSSES))
def test_speed_counts_only_in_turns_and_only_where_it_is_seen(memory: int, loss: float) -> None:
    found = advice(memory, loss, "speed")
    for option in found.candidates:
        if option.recipe.name == "glu20+fp16":  # four milliseconds, but of another session
            assert option.speed is None and option.refused
    allowed = [o for o in found.candidates if not o.refused]
    faster = [o for o in allowed if o.speed and o.speed.low > 0]
    if faster:
        assert found.best is not None and found.best.speed.value == max(o.speed.value for o in faster)
    elif any(o.recipe.name == "fp16" for o in allowed):
        assert found.best.recipe.name == "fp16" and "none is seen to decode faster" in found.reason


def test_more_memory_or_more_loss_never_gives_less() -> None:
    for loss, (small, large) in itertools.product(LOSSES, itertools.pairwise(MEMORIES)):
        before, after = advice(small, loss, "memory"), advice(large, loss, "memory")
        assert before.best is None or after.best.weight_bytes <= before.best.weight_bytes
    for memory, (little, much) in itertools.product(MEMORIES, itertools.pairwise(LOSSES)):
        before, after = advice(memory, little, "memory"), advice(memory, much, "memory")
        assert before.best is None or after.best.weight_bytes <= before.best.weight_bytes


def test_the_order_of_the_reports_changes_nothing() -> None:
    for goal in recommendation.GOALS:
        wish = Constraints("llava-shapes", 10_000_000, 5.0, goal)
        turned = recommendation.recommend_from_reports(wish, REPORTS[::-1], rows_of)
        assert turned.best == advice(10_000_000, 5.0, goal).best


def test_without_recorded_answers_only_fp16_is_certain() -> None:
    found = recommendation.recommend_from_reports(
        Constraints("llava-shapes", 10_000_000, 100.0, "memory"), REPORTS, lambda r: {}
    )
    assert found.best.recipe.name == "fp16"
    assert all("not recorded" in o.refused for o in found.candidates if o.recipe.name != "fp16")


def test_what_stands_in_the_way_is_said() -> None:
    assert "Nothing fits" in advice(100, 1.0, "memory").reason
    assert "may lose more" in advice(4_500_000, 0.0, "memory").reason
    untimed = [replace(r, latency=replace(r.latency, session="")) if r.latency else r for r in REPORTS]
    told = recommendation.recommend_from_reports(
        Constraints("llava-shapes", 10_000_000, 5.0, "speed"), untimed, rows_of
    )
    assert told.best is None and "timed in turns" in told.reason


def test_too_few_questions_are_told_and_leave_fp16() -> None:
    few = {name: {"shapes-vqa": found["shapes-vqa"][:6]} for name, found in ROWS.items()}
    reports = [replace(r, quality={n: replace(q, samples=6) for n, q in r.quality.items()}) for r in REPORTS]
    wish = Constraints("llava-shapes", 10_000_000, 2.0, "memory")
    told = recommendation.recommend_from_reports(wish, reports, lambda r: few.get(r.recipe, {}))
    assert told.best.recipe.name == "fp16"
    assert "6 questions are too few to show a loss within 2 points: it takes 183" in told.reason
    assert "too few" not in advice(10_000_000, 5.0, "memory").reason
    assert "no number of questions shows" in advice(10_000_000, 0.0, "memory").reason


def test_arithmetic_takes_the_first_that_fits_and_claims_nothing_more() -> None:
    weights = {"llava-1.5-7b/fp16": 14_000, "llava-1.5-7b/int8": 8_000, "llava-1.5-7b/int4": 5_000}
    building = {"llava-1.5-7b/fp16": 15_000, "llava-1.5-7b/int8": 9_000, "llava-1.5-7b/int4": 6_000}
    for memory, name in ((20_000, "fp16"), (14_500, "int8"), (8_500, "int4"), (5_500, None)):
        found = recommend_from_size_estimates(Constraints("llava-1.5-7b", memory, 0.0, "speed"), weights, building)
        assert (found.best and found.best.recipe.name) == name
        assert not found.measured and found.basis.startswith("arithmetic")
        if found.best:
            assert found.best.difference is None and found.best.speed is None and "not known" in found.cost


def test_amounts_of_memory() -> None:
    assert parse_bytes("8GB") == 8 * 10**9 and parse_bytes(" 4.5 mb ") == 4_500_000
    for text in ("8", "", "-8GB", "8 apples", "1e9GB", "0GB", "9" * 100 + "GB", "nanGB", None, 8):
        with pytest.raises(ValueError, match="not an amount"):
            parse_bytes(text)


@pytest.mark.parametrize(
    "model, memory, loss, goal, sentence",
    [
        ("gpt", 1, 1.0, "memory", "unknown model"),
        ("llava-shapes", 0, 1.0, "memory", "more than nothing"),
        ("llava-shapes", 1, -1.0, "memory", "give 0 to 100"),
        ("llava-shapes", 1, float("nan"), "memory", "give 0 to 100"),
        ("llava-shapes", 1, 1.0, "beauty", "not a goal"),
    ],
)
def test_an_impossible_wish_is_one_sentence(model, memory, loss, goal, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        Constraints(model, memory, loss, goal)


def test_the_recorded_results_give_a_recipe_that_builds_and_loads_as_it_says(tmp_path, capsys, monkeypatch) -> None:
    assert main(["recommend", "--memory", "8GB", "--loss", "5", "--for", "memory"]) == 0
    said = capsys.readouterr().out
    wish = Constraints("llava-shapes", 8 * 10**9, 5.0, "memory")
    found = recommendation.recommend_from_reports(
        wish, grid.comparable_reports("llava-shapes", store.load_all()), store.load_predictions
    )
    assert said.startswith(str(found.best.recipe)) and found.command in said and found.python in said
    monkeypatch.chdir(tmp_path)
    assert main(found.command.split()[1:]) == 0
    Image.new("RGB", (96, 96), "blue").save("photo.png")
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", found.python], env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_an_unmeasured_real_model_is_arithmetic_on_the_command_line(capsys) -> None:
    assert main(["recommend", "--memory", "10GB", "--model", "llava-1.5-7b"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("llava-1.5-7b/int8\n") and "arithmetic from published shapes" in said
    assert main(["recommend", "--memory", "1GB", "--model", "llava-1.5-7b"]) == 1
    assert "Nothing fits" in capsys.readouterr().out
    assert main(["recommend", "--memory", "much"]) == 2
