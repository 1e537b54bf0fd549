"""Which task decides quality: the one that most reports share, or the one that was asked for, in every table."""

from __future__ import annotations

import csv
import io
import itertools
import random
from pathlib import Path

import pytest

from tests.support import made_reports as made
from tests.support.made_reports import scored, scored_rows
from vlmcomp.cli.main import main
from vlmcomp.reporting import claims, export, figures, grid, pareto, results_tables
from vlmcomp.reporting.comparison import verdict
from vlmcomp.reporting.grouping import choose_headline_task, compare_to_baseline, list_tasks
from vlmcomp.reporting.recommend import Constraints, recommend
from vlmcomp.results import store
from vlmcomp.results.schema import Report

REAL, BUNDLED = "llava-1.5-7b", "llava-shapes"
# of one task alone, as a real model is measured
VQA_ONLY = [
    scored(f"{REAL}/fp16", 8.0, 8, vqav2=90),
    scored(f"{REAL}/int8", 9.0, 5, vqav2=89),
    scored(f"{REAL}/glu30+fp16", 6.0, 7, vqav2=50),
    made.failed(f"{REAL}/int4"),
]
SHAPES = [scored(f"{BUNDLED}/{name}", 4.0, 2, shapes_vqa=80, easy_vqa=100) for name in ("fp16", "int8", "heads25+fp16")]
MIXED = [*SHAPES, *VQA_ONLY]
# good at the one where it is bad at the other
TWO_TASKS = [
    scored(f"{REAL}/fp16", 8.0, 8, shapes_vqa=80, vqav2=90),
    scored(f"{REAL}/int8", 9.0, 5, shapes_vqa=79, vqav2=40),
    scored(f"{REAL}/int4", 9.0, 6, shapes_vqa=30, vqav2=89),
]
TASKS = ("shapes-vqa", "vqav2")


def _estimate(model: str) -> tuple[dict[str, int], dict[str, int]]:
    raise AssertionError("a measured model needs no estimate")


@pytest.mark.parametrize("seed", range(20))
def test_the_default_is_shared_by_most_and_of_equals_listed_first(seed: int) -> None:
    rng = random.Random(seed)
    names = ["a", "b", "c", "d"]
    reports = []
    for i in range(rng.randrange(8)):
        chosen = rng.sample(names, rng.randrange(4))
        reports.append(made.report(f"{BUNDLED}/glu{i + 10}+fp16", quality={n: made.quality(n) for n in chosen}))
    listed = list(dict.fromkeys(task for report in reports for task in report.quality))
    counts = {task: sum(task in report.quality for report in reports) for task in listed}
    tasks = list_tasks(reports)
    assert sorted(tasks) == sorted(listed) and choose_headline_task(reports) == next(iter(tasks), None)
    for first, second in itertools.pairwise(tasks):
        assert (counts[first], -listed.index(first)) > (counts[second], -listed.index(second))


def test_failed_reports_have_no_task() -> None:
    assert choose_headline_task([]) is None
    assert choose_headline_task([made.failed(f"{REAL}/int4")]) is None


def test_a_model_measured_on_another_task_has_its_frontier_and_comparisons() -> None:
    frontier = pareto.pareto_frontier(VQA_ONLY, scored_rows)
    assert [r.recipe for r in frontier] == [r.recipe for r in VQA_ONLY[:3]]
    assert [r.recipe for r in pareto.pareto_frontier(VQA_ONLY, scored_rows, ["quality"])] == [
        f"{REAL}/fp16",
        f"{REAL}/int8",  # one question of a hundred is inside the noise
    ]
    found = compare_to_baseline(scored_rows, VQA_ONLY[2], VQA_ONLY[0])
    assert found is not None and found.regressions == 40
    assert pareto.pareto_frontier(VQA_ONLY, scored_rows, task="shapes-vqa") == []
    assert compare_to_baseline(scored_rows, VQA_ONLY[2], VQA_ONLY[0], "shapes-vqa") is None


def test_a_model_measured_on_another_task_has_its_column_in_the_grid_and_the_claims() -> None:
    head, _, *lines = grid.grid_table([BUNDLED, REAL], MIXED).splitlines()
    assert head == f"| Compression | {BUNDLED} (shapes-vqa) | {REAL} (vqav2) |"  # they differ, so they are named
    row = next(line for line in lines if line.startswith("| 30 % of MLP neurons, FP16 |"))
    assert row.endswith("| not measured | 55.6 · 88 % · 1.33x |")
    assert grid.grid_table([REAL], VQA_ONLY).startswith(f"| Compression | {REAL} |")
    table = claims.claims_table([BUNDLED, REAL], MIXED, scored_rows)
    assert f"{REAL} (vqav2)" in table and "98.9 % kept" in table
    curve = claims.pruning_curve_table("glu", [REAL], MIXED, scored_rows)
    assert "| `glu30` | 55.6 (" in curve


def test_a_model_measured_on_another_task_is_recommended_by_its_measurements() -> None:
    for goal, best in {"memory": "int8", "speed": "fp16"}.items():
        found = recommend(Constraints(REAL, 10**9, 6.0, goal), MIXED, scored_rows, _estimate)
        assert found.measured and "100 questions of vqav2" in found.basis
        assert found.best is not None and found.best.recipe.name == best


def test_a_model_measured_on_another_task_is_plotted_exported_and_tabled() -> None:
    plots = {plot.name: plot for plot in figures.build_plots(MIXED, scored_rows)}
    for name in ("quality-latency", "quality-size"):
        titles = [panel.title for panel in plots[name].panels]
        assert titles == [f"{REAL} (vqav2)", f"{BUNDLED} (shapes-vqa)"]
        assert {point.y for point in plots[name].panels[0].points} == {90.0, 89.0, 50.0}
        assert "vqav2: 100 questions" in plots[name].note
    rows = {row["recipe"]: row for row in export.to_rows(MIXED, scored_rows)}
    assert all(rows[r.recipe]["on_frontier"] is True for r in VQA_ONLY[:3])
    section = results_tables.results_section(VQA_ONLY, scored_rows)
    assert "Exact match on vqav2 in percent" in section and "| `llava-1.5-7b/glu30+fp16` |" in section
    assert "| 50.0 | -40.0 (" in section


@pytest.mark.parametrize("task", TASKS)
def test_the_choice_of_a_task_is_honored(task: str) -> None:
    good, bad = ("int8", "int4") if task == "shapes-vqa" else ("int4", "int8")
    baseline = TWO_TASKS[0]
    for report in TWO_TASKS[1:]:
        lost = report.recipe.endswith(bad)
        assert (grid.relative_score(report, baseline, task) < 0.5) == lost  # type: ignore[operator]
        assert verdict(report, baseline, scored_rows(report), scored_rows(baseline), task).count(" questions of ") == 1
    frontier = pareto.pareto_frontier(TWO_TASKS, scored_rows, ["quality"], task)
    assert [r.recipe for r in frontier] == [f"{REAL}/fp16", f"{REAL}/{good}"]
    found = recommend(Constraints(REAL, 10**9, 6.0, "memory"), TWO_TASKS, scored_rows, _estimate, task)
    assert found.best is not None and found.best.recipe.name == good and f"questions of {task}" in found.basis
    plots = {plot.name: plot for plot in figures.build_plots(TWO_TASKS, scored_rows, task)}
    for name, goal in {"quality-latency": "latency", "quality-size": "memory"}.items():
        (panel,) = plots[name].panels
        assert sorted(p.y for p in panel.points) == sorted(100 * r.quality[task].exact_match for r in TWO_TASKS)
        frontier = pareto.pareto_frontier(TWO_TASKS, scored_rows, ["quality", goal], task)
        assert {str(p.recipe) for p in panel.points if p.on_frontier} == {r.recipe for r in frontier}
    rows = {row["recipe"]: row["on_frontier"] for row in export.to_rows(TWO_TASKS, scored_rows, task)}
    assert rows[f"{REAL}/{good}"] is True
    line = next(x for x in grid.grid_table([REAL], TWO_TASKS, task).splitlines() if x.startswith("| INT8 |"))
    score = 100 * TWO_TASKS[1].quality[task].exact_match / baseline.quality[task].exact_match
    assert f"| {score:.1f} · " in line
    section = results_tables.results_section(TWO_TASKS, scored_rows, task)
    assert f"Exact match on {task} in percent" in section


def test_without_a_choice_the_first_of_two_tasks_decides() -> None:
    found = recommend(Constraints(REAL, 10**9, 6.0, "memory"), TWO_TASKS, scored_rows, _estimate)
    assert found.best is not None and found.best.recipe.name == "int8" and "questions of shapes-vqa" in found.basis
    with pytest.raises(ValueError, match="not measured on gqa: choose shapes-vqa or vqav2"):
        recommend(Constraints(REAL, 10**9, 6.0, "memory"), TWO_TASKS, scored_rows, _estimate, "gqa")


def test_reports_that_share_the_chosen_task_compare_though_other_tasks_differ() -> None:
    alone = scored(f"{REAL}/int8", 9.0, 5, vqav2=89)
    mixed = [TWO_TASKS[0], alone]
    assert len(grid.comparable_reports(REAL, mixed)) == 1
    assert len(grid.comparable_reports(REAL, mixed, "vqav2")) == 2


def _save(reports: list[Report], root: Path) -> None:
    for report in reports:
        store.save(report, scored_rows(report), root)


def test_the_command_line_takes_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _save([*TWO_TASKS, *SHAPES], tmp_path / "results")
    root = ["--root", str(tmp_path / "results")]

    def printed(*words: str) -> str:
        assert main([*words, *root]) == 0
        return capsys.readouterr().out

    for task, best in zip(TASKS, ("int8", "int4"), strict=True):
        command = ("recommend", "--memory", "8GB", "--model", REAL, "--max-accuracy-drop", "6")
        assert printed(*command, "--task", task).startswith(f"{REAL}/{best}\n")
        assert f"Exact match on {task} in percent" in printed("report", "--model", REAL, "--task", task)
    lines = list(csv.DictReader(io.StringIO(printed("report", "--format", "csv", "--task", "vqav2"))))
    assert {line["recipe"] for line in lines} == {r.recipe for r in TWO_TASKS}
    folder = tmp_path / "plots"
    printed("report", "--plots", str(folder), "--task", "vqav2")
    assert b"vqav2: 100 questions" in (folder / "quality-size.html").read_bytes()
    assert main(["report", *root, "--task", "gqa"]) == 2
    assert "no reports of --task gqa: choose shapes-vqa or" in capsys.readouterr().err
