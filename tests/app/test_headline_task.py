"""The app shows a model that was measured on another task, and lets the visitor choose among tasks."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from tests.support import made_reports as made
from tests.support.made_reports import scored, scored_rows
from vlmcomp.app import charts, details, downloads, explore_tab, recommend_tab, results, tables
from vlmcomp.app.results import ResultFilter
from vlmcomp.data.tasks import Task

HARDWARE = made.HARDWARE.slug
REAL, BOTH = "llava-1.5-7b", "llava-shapes"
REPORTS = (
    scored(f"{REAL}/fp16", 8.0, 8, vqav2=90),
    scored(f"{REAL}/int8", 9.0, 5, vqav2=60),
    scored(f"{BOTH}/fp16", 4.0, 3, shapes_vqa=80, vqav2=70),
    scored(f"{BOTH}/int8", 5.0, 2, shapes_vqa=79, vqav2=20),
    scored(f"{BOTH}/int4", 5.0, 1, shapes_vqa=20, vqav2=69),
)


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caches = (results.comparators, results._against_fp16, details.render)
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setattr(results, "reports", lambda: REPORTS)
    monkeypatch.setattr(results, "rows", scored_rows)
    yield
    for cached in caches:
        cached.cache_clear()


def _heights(view: ResultFilter) -> dict[str, float]:
    """The y of every point of the chart, by recipe."""
    traces = [trace for trace in charts.scatter(view).data if trace.mode == "markers"]
    return {recipe: y for trace in traces for (recipe, *_), y in zip(trace.customdata, trace.y, strict=True)}


@pytest.mark.parametrize("axis", results.AXES)
def test_a_model_measured_on_another_task_is_shown(axis: str) -> None:
    view = ResultFilter(HARDWARE, (REAL,), axis=axis)
    assert _heights(view) == pytest.approx({f"{REAL}/fp16": 100, f"{REAL}/int8": 100 * 60 / 90})
    assert [line[:3] for line in tables.table(view)] == [[f"{REAL}/fp16", 90, None], [f"{REAL}/int8", 60, -30]]
    assert any("vqav2" in note.text for note in charts.scatter(view).layout.annotations)
    assert [record["exact_match"] for record in results.to_records(model=REAL)] == [0.9, 0.6]
    assert {record["task"] for record in results.to_records(model=REAL)} == {"vqav2"}


def test_its_card_counts_regressions_and_downloads_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "all_samples", property(lambda task: pytest.fail("no task may be loaded")))
    card = details.render(HARDWARE, f"{REAL}/int8")
    assert "60.0 % of 100" in card and "30 of 100 answers" in card and "<img" not in card


def test_a_task_is_offered_where_there_are_several_and_the_choice_is_honored() -> None:
    for families, offered in (((REAL,), ["vqav2"]), ((BOTH,), ["shapes-vqa", "vqav2"])):
        dropdown = explore_tab.task_dropdown(HARDWARE, families)
        assert [name for name, _ in dropdown.choices] == offered
        assert dropdown.value == offered[0] and dropdown.visible == (len(offered) > 1)
    for task, score, dense in (("shapes-vqa", 79, 80), ("vqav2", 20, 70)):
        view = ResultFilter(HARDWARE, (BOTH,), axis="size", task=task)
        assert _heights(view)[f"{BOTH}/int8"] == pytest.approx(100 * score / dense)
        assert {line[0]: line[1] for line in tables.table(view)}[f"{BOTH}/int8"] == score
        assert f"{score}.0 % of 100" in details.render(HARDWARE, f"{BOTH}/int8", task)
        chart = downloads.save_chart("html", view)
        assert f"{task}: 100 questions".encode() in base64.b64decode(chart["content"])
    both = ResultFilter(HARDWARE, (REAL, BOTH), axis="size")
    assert len(_heights(both)) == len(REPORTS)  # the task that all of them share
    assert explore_tab.task_dropdown(HARDWARE, (REAL,), "shapes-vqa").value == "vqav2"  # what they do not have


def test_the_recommendation_is_by_the_chosen_task() -> None:
    for task, best in (("shapes-vqa", "int8"), ("vqav2", "int4"), (None, "int8")):
        assert recommend_tab.advise(BOTH, "8GB", 6, "memory", task).best.recipe.name == best
    found = recommend_tab.advise(REAL, "8GB", 100, "memory")
    assert found.measured and found.best.recipe.name == "int8" and "vqav2" in found.basis
    assert recommend_tab.task_dropdown(BOTH).visible and not recommend_tab.task_dropdown(REAL).visible
    with pytest.raises(ValueError, match="must be"):
        recommend_tab.advise(BOTH, "8GB", 5, "memory", 5)
