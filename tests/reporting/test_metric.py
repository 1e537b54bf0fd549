"""A task of ten answers a question is judged by VQA accuracy, everywhere."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import made_reports as made
from vlmcomp.app import charts, details, hover_text, relative, results, tables
from vlmcomp.app.results import ResultFilter
from vlmcomp.cli.main import main
from vlmcomp.data import tasks
from vlmcomp.evaluation import quality, sweep
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import claims, export, figures, grid, pareto, recommend, results_tables
from vlmcomp.reporting.comparison import compare, verdict
from vlmcomp.reporting.recommend import Constraints
from vlmcomp.results import store
from vlmcomp.results.schema import VQA_ACCURACY, Report

MODEL, TASK, COUNT = "llava-1.5-7b", "vqav2", 400
TEN = ["sofa"] * 6 + ["couch"] * 4  # four people agree: "couch" scores 1, though it is not the commonest answer


def _rows(*answers: str) -> list[dict[str, Any]]:
    facts = {"type": "other", "question": "?", "reference": "sofa", "references": TEN}
    return [facts | {"id": str(i), "answer": answer} for i, answer in enumerate(answers)]


ANSWERS = {
    "fp16": _rows(*["sofa"] * COUNT),
    "int8": _rows(*["couch"] * COUNT),  # exact match falls from 1 to 0, VQA accuracy stays
    "int4": _rows(*["couch"] * (COUNT // 2), *["chair"] * (COUNT // 2)),
    "glu30+fp16": _rows(*["sofa"] * COUNT),
}


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    task = tasks.Task(TASK, TASK, "1", "", lambda: [], 0, metric=VQA_ACCURACY)
    return [
        replace(
            made.scored(f"{MODEL}/{name}", 4.0, megabytes, vqav2=90),
            quality={TASK: replace(quality.score(task, ANSWERS[name], 0, "minilm"), task_sha256="ab")},
        )
        for name, megabytes in zip(ANSWERS, (8, 5, 4, 7), strict=True)
    ]


def _predictions(report: Report) -> dict[str, list[dict[str, Any]]]:
    return {TASK: ANSWERS[Recipe.parse(report.recipe).name]}


def test_the_pair_is_compared_by_it() -> None:
    found = compare(ANSWERS["fp16"], ANSWERS["int8"])
    assert (found.metric, found.baseline_score, found.difference.value) == (VQA_ACCURACY, 1.0, 0.0)
    assert (found.regressions, found.improvements, found.agreement, found.p_value) == (0, 0, 0.0, 1.0)
    assert found.verdict == "no difference seen" and found.within_tolerance
    worse = compare(ANSWERS["fp16"], ANSWERS["int4"])
    assert worse.verdict == "worse" and worse.difference.value == -0.5 and worse.regressions == COUNT // 2


def test_an_answer_that_some_people_gave_counts_in_part() -> None:
    ten = ["red"] * 8 + ["maroon"] * 2
    before = [row | {"references": ten, "reference": "red", "answer": "red"} for row in ANSWERS["fp16"]]
    after = [row | {"answer": "maroon"} if i < 100 else row for i, row in enumerate(before)]
    found = compare(before, after)
    assert found.difference.value == pytest.approx(-0.4 * 100 / COUNT) and found.verdict == "worse"
    assert found.difference.low < -0.1 < found.difference.high < -0.07


def test_the_stored_score_is_it_and_types_have_it(reports: list[Report]) -> None:
    dense, int8, int4, _ = (report.quality[TASK] for report in reports)
    assert (dense.metric, dense.score, int8.score, int8.exact_match, int4.score) == (VQA_ACCURACY, 1.0, 1.0, 0.0, 0.5)
    assert int4.vqa_accuracy_by_type == {"other": 0.5} and int4.commonest_answer_vqa_by_type == {"other": 1.0}
    assert Report.from_dict(reports[1].to_dict()) == reports[1]
    assert "vqav2 100 % VQA accuracy" in sweep.summary(reports[1]).replace("100.0", "100")


def test_verdicts_and_recommendations_are_by_it(reports: list[Report]) -> None:
    dense, int8, int4, _ = reports
    said = verdict(int8, dense, _predictions(int8), _predictions(dense))
    assert "VQA accuracy is 100.0 % against 100.0 %, 0.0 points" in said and "less than 2 % lost" in said
    assert "exact match" not in said and "right to wrong" not in said
    found = recommend.recommend_from_reports(Constraints(MODEL, 10**9, 1.0, "memory"), reports, _predictions)
    assert found.best is not None and found.best.recipe.name == "int8" and "VQA accuracy 0.0 points" in found.cost
    best = pareto.pareto_frontier(reports, _predictions, ["quality", "memory"])
    assert [r.recipe for r in best] == [int8.recipe, int4.recipe]
    assert [r.recipe for r in pareto.pareto_frontier(reports, lambda r: {}, ["quality", "memory"])] == [
        int8.recipe,
        int4.recipe,
    ]


def test_tables_claims_and_plots_show_it(reports: list[Report]) -> None:
    section = results_tables.results_section(reports, _predictions)
    line = next(text for text in section.splitlines() if text.startswith(f"| `{MODEL}/int8` | INT8 |"))
    assert "| Recipe | What | VQA accuracy % |" in section and "| Score less, more |" in section
    assert (
        "| 100.0 | 0.0 (" in line and "VQA accuracy on vqav2 in percent" in section and "share that agrees" in section
    )
    assert "vqav2 exact match %" in section  # recorded too, and not what decides
    assert "100.0 % kept" in claims.claims_table([MODEL], reports, _predictions)
    assert grid.relative_score(reports[1], reports[0]) == 1.0
    assert "| `glu30` | 100.0 (" in claims.pruning_curve_table("glu", [MODEL], reports, _predictions)
    plots = {plot.name: plot for plot in figures.build_plots(reports, _predictions)}
    (panel,) = plots["quality-size"].panels
    assert {p.recipe.name: p.y for p in panel.points}["int8"] == 100
    assert plots["quality-size"].y_title == "VQA accuracy, % (higher is better)"
    row = {row["recipe"]: row for row in export.to_rows(reports, _predictions)}[f"{MODEL}/int8"]
    assert row["vqav2.metric"] == VQA_ACCURACY and row["vqav2.vqa_accuracy_to_fp16_share"] == 0
    assert row["vqav2.exact_match_share"] == 0 and "vqav2.exact_match_to_fp16_share" not in row


def test_reports_without_it_by_type_show_exact_match_by_type(reports: list[Report]) -> None:
    old = [
        replace(
            r, quality={TASK: replace(r.quality[TASK], vqa_accuracy_by_type=None, commonest_answer_vqa_by_type=None)}
        )
        for r in reports
    ]
    section = results_tables.results_section(old, _predictions)
    assert "Exact match on vqav2 in percent by type" in section and "| VQA accuracy % |" in section


@pytest.fixture
def shown(reports: list[Report], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caches = (results.comparators, results._against_fp16, details.render)
    monkeypatch.setattr(results, "reports", lambda: tuple(reports))
    monkeypatch.setattr(results, "rows", _predictions)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_the_app_shows_it(shown: None, reports: list[Report]) -> None:
    view = ResultFilter(made.HARDWARE.slug, axis="size", min_score=0.9)
    lines = {line[0]: line for line in tables.table(view)}
    assert lines[f"{MODEL}/int8"][1:3] == [100.0, 0.0] and f"{MODEL}/int4" not in lines
    assert {p.recipe.name: p.y for p in relative.relative_points(reports, view, TASK)}["int8"] == 100
    assert "VQA accuracy: 100.0 %" in hover_text.recorded(reports[1], TASK)
    assert any("VQA accuracy on vqav2" in note.text for note in charts.scatter(view).layout.annotations)
    assert details.regressions(reports[1], TASK) == [] and len(details.regressions(reports[2], TASK)) == COUNT // 2
    card = details.render(made.HARDWARE.slug, f"{MODEL}/int4", TASK)
    assert "VQA accuracy" in card and f"{COUNT // 2} of {COUNT} answers score less, 0 score more" in card
    record = next(r for r in results.to_records() if r["recipe"].endswith("/int8"))
    assert (record["metric"], record["score"]) == (VQA_ACCURACY, 1.0)


def test_the_commands_say_it(reports: list[Report], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for report in reports:
        store.save(report, _predictions(report), tmp_path)
    root = ["--root", str(tmp_path)]
    assert main(["compare", f"{MODEL}/int8", f"{MODEL}/fp16", *root]) == 0
    assert "VQA accuracy is 100.0 % against 100.0 %" in capsys.readouterr().out
    assert main(["recommend", "--memory", "1GB", "--model", MODEL, *root]) == 0
    assert capsys.readouterr().out.startswith(f"{MODEL}/int8\n")
    assert main(["report", "--format", "csv", *root]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {line["vqav2.metric"] for line in lines} == {VQA_ACCURACY}


def test_a_bar_in_a_name_does_not_break_a_table() -> None:
    report = made.report(quality={"a|b": made.quality("a|b"), "c|d": made.quality("c|d"), "e": made.quality("e")})
    other = replace(report, recipe="llava-shapes/int8")
    section = results_tables.results_section([report, other], lambda r: {})
    tables = [block for block in section.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 3 and any("a\\|b" in block or "c\\|d" in block for block in tables)
    for block in tables:
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1
