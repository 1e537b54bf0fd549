"""Recorded results as the app shows them: loaded once, and filtered for each visitor. No Gradio here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from vlmcomp.feedback import format_count
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.comparison import PairedComparison
from vlmcomp.reporting.grid import comparable_reports
from vlmcomp.reporting.grouping import (
    choose_headline_task,
    comparable_timings,
    compare_to_baseline,
    find_baseline,
    list_tasks,
    sort_reports,
)
from vlmcomp.reporting.pareto import Comparators, build_comparators, pareto_frontier
from vlmcomp.reporting.recommend import required_memory
from vlmcomp.reporting.statistics import Interval, speed_interval
from vlmcomp.results import store
from vlmcomp.results.schema import Quality, Report

AXES = {"speed": "Quality vs speed", "size": "Quality vs size"}
# Reasons why a filter hides a report that could otherwise be shown
TOO_LARGE = "does not fit"
TOO_INACCURATE = "below the minimum score"


@dataclass(frozen=True)
class ResultFilter:
    """Which results a visitor wants to see.

    Attributes:
        hardware: slug of the machine.
        models: the families (none: all).
        techniques: the compression techniques (none: all).
        axis: ``"speed"`` or ``"size"``, the x axis of the chart.
        fits_bytes: memory that a recipe may need to answer (None: any).
        min_score: of the task's score, from 0 to 1.
        task: the task of the quality; without results of it, the headline task of the shown reports.
    """

    hardware: str | None = None
    models: tuple[str, ...] = ()
    techniques: tuple[str, ...] = ()
    axis: str = "speed"
    fits_bytes: int | None = None
    min_score: float = 0.0
    task: str | None = None


@dataclass(frozen=True)
class Selection:
    """The reports that a filter shows, those that it leaves out with the reason, and the task of the quality."""

    shown: tuple[Report, ...]
    left_out: tuple[tuple[Report, str], ...]
    task: str | None = None


@cache
def reports() -> tuple[Report, ...]:
    """Every recorded result."""
    return tuple(store.load_all())


def rows(report: Report) -> dict[str, store.Predictions]:
    """The predictions of a report, by task."""
    return store.load_predictions(report)


@cache
def comparators(task: str) -> Comparators:
    """Comparators of reports by goal, with quality on ``task``; cached for all visitors."""
    return build_comparators(rows, task)


def hardware() -> list[str]:
    """Slugs of the machines with results, the one with the most results first."""
    counts = Counter(r.hardware.slug for r in reports())
    return sorted(counts, key=lambda slug: (-counts[slug], slug))


def hardware_title(slug: str) -> str:
    """The machine in words, with what tells it from others of the same name: ``AMD EPYC, 2 CPU cores, bfloat16``."""
    mine = [r for r in reports() if r.hardware.slug == slug]
    machine = mine[0].hardware
    cores = [f"{format_count(machine.cores, 'CPU core')}"] if machine.device == "cpu" else []
    dtypes = Counter(r.dtype_computed for r in mine if r.dtype_computed)
    return ", ".join([machine.name, *cores, *(name for name, _ in dtypes.most_common(1))])


def models_on(slug: str | None) -> list[str]:
    """The models with results of a machine."""
    return sorted({Recipe.parse(r.recipe).model for r in reports() if r.hardware.slug == slug})


def main_hardware(model: str) -> str | None:
    """The machine with the most results among those that measured ``model``; None if none did."""
    return next((slug for slug in hardware() if model in models_on(slug)), None)


def default_models(slug: str | None, model: str) -> list[str]:
    """``model``, or the first model that was measured on this machine."""
    models = models_on(slug)
    return [model] if model in models else models[:1]


def find(slug: str | None, recipe: str | None) -> Report | None:
    """The report of a recipe on a machine."""
    return next((r for r in reports() if r.hardware.slug == slug and r.recipe == recipe), None)


def group(slug: str | None, model: str, task: str | None = None) -> list[Report]:
    """The comparable reports of a model on a machine, including its FP16 report."""
    return comparable_reports(model, [r for r in reports() if r.hardware.slug == slug], task)


def tasks_on(slug: str | None, models: Sequence[str] = ()) -> list[str]:
    """Tasks that models (none: all) were measured on at a machine, the headline task first."""
    return list_tasks([r for r in reports() if _is_of(r, slug, models)])


def _is_of(report: Report, slug: str | None, models: Sequence[str]) -> bool:
    return report.hardware.slug == slug and (not models or Recipe.parse(report.recipe).model in models)


def select(found: Sequence[Report], view: ResultFilter) -> Selection:
    """Applies a filter to reports; those of other machines, families and techniques are not even left out."""
    passed: list[Report] = []
    left_out: list[tuple[Report, str]] = []
    candidates = [r for r in sort_reports(found) if _is_of(r, view.hardware, view.models)]
    tasks = list_tasks(candidates)
    task = view.task if view.task in tasks else next(iter(tasks), "")
    for report in candidates:
        if view.techniques and Recipe.parse(report.recipe).technique not in view.techniques:
            continue
        if report.error is not None:
            left_out.append((report, f"failed: {report.error}"))
        elif report.size is None or task not in report.quality or (view.axis == "speed" and not report.latency):
            left_out.append((report, "not measured completely"))
        elif view.fits_bytes is not None and required_memory(report) > view.fits_bytes:
            left_out.append((report, TOO_LARGE))
        elif report.quality[task].score < view.min_score:
            left_out.append((report, TOO_INACCURATE))
        else:
            passed.append(report)
    conditions = Counter(_quality_conditions(r.quality[task]) for r in passed)
    most_common = conditions.most_common(1)[0][0] if conditions else None
    shown = [r for r in passed if _quality_conditions(r.quality[task]) == most_common]
    if view.axis == "speed":
        shown = comparable_timings(shown)
    left_out += [(r, "measured under other conditions than the others") for r in passed if r not in shown]
    return Selection(tuple(shown), tuple(left_out), task or None)


def _quality_conditions(quality: Quality) -> tuple[object, ...]:
    """What two scores must share to be comparable."""
    questions = (quality.version, quality.task_sha256, quality.samples, quality.seed)
    return *questions, quality.bertscore_encoder, quality.meteor_data


def comparable(shown: Sequence[Report], axis: str) -> list[list[Report]]:
    """The sets of reports that compare on the axis: those of one model and, for times, of one timing session."""
    sets: dict[tuple[str, str | None], list[Report]] = {}
    for report in shown:
        session = report.latency.session if axis == "speed" and report.latency else None
        if session or axis == "size":
            sets.setdefault((Recipe.parse(report.recipe).model, session), []).append(report)
    return list(sets.values())


def frontiers(shown: Sequence[Report], axis: str, task: str | None = None) -> list[list[Report]]:
    """The Pareto frontier of quality and the axis in each comparable set; differences within the noise are ties."""
    task = task or choose_headline_task(shown)
    if task is None:
        return []
    goals = ["quality", "memory" if axis == "size" else "latency"]
    return [pareto_frontier(each, rows, goals, task, comparators(task)) for each in comparable(shown, axis)]


def baseline_of(report: Report, task: str | None = None) -> Report | None:
    """FP16 of the same model on the same machine; None if it was not measured as ``report`` was."""
    return find_baseline(group(report.hardware.slug, Recipe.parse(report.recipe).model, task))


@cache
def _against_fp16(slug: str, recipe: str, task: str | None) -> tuple[PairedComparison | None, Interval | None]:
    report = find(slug, recipe)
    baseline = baseline_of(report, task) if report else None
    if report is None or baseline is None or report is baseline or report.error is not None:
        return None, None
    comparison = compare_to_baseline(rows, report, baseline, task)
    if not baseline.latency or not report.latency:
        return comparison, None
    return comparison, speed_interval(baseline.latency, report.latency)


def against_fp16(report: Report, task: str | None = None) -> tuple[PairedComparison | None, Interval | None]:
    """Comparison of quality with FP16 on the same machine, and interval of the speedup; None for what is unknown.

    ``task`` is that of the quality (None: the headline task of the two).
    """
    return _against_fp16(report.hardware.slug, report.recipe, task)


def size_factor(report: Report, task: str | None = None) -> float | None:
    """Bytes of the weights as a share of FP16's; None if one of them is unknown."""
    baseline = baseline_of(report, task)
    if baseline is None or baseline.size is None or report.size is None:
        return None
    return report.size.total_bytes / baseline.size.total_bytes


def to_records(slug: str | None = None, model: str | None = None, task: str | None = None) -> list[dict[str, Any]]:
    """Results as plain numbers for the API; names of times and sizes end in their unit.

    Args:
        slug: the machine (None: all).
        model: the model (None: all).
        task: the task of the scores (None: of each model its headline task).

    Raises:
        ValueError: no results of that machine, model or task; the sentence lists the available ones.
    """
    for name, value, known in (
        ("hardware", slug, {r.hardware.slug for r in reports()}),
        ("model", model, {Recipe.parse(r.recipe).model for r in reports()}),
        ("task", task, set(list_tasks(reports()))),
    ):
        if value is not None and value not in known:
            raise ValueError(f"no results of {name} '{str(value)[:60]}': choose {' or '.join(sorted(known))}")
    wanted = [r for r in reports() if slug in (None, r.hardware.slug)]
    return [_plain(r, task) for r in wanted if model in (None, Recipe.parse(r.recipe).model)]


def _plain(report: Report, task: str | None) -> dict[str, Any]:
    task = task or next(iter(tasks_on(report.hardware.slug, [Recipe.parse(report.recipe).model])), "")
    quality = report.quality.get(task)
    timed = report.latency
    facts: Mapping[str, Any] = {
        "recipe": report.recipe,
        "hardware": report.hardware.slug,
        "date": report.date,
        "error": report.error,
        "task": task or None,
        "metric": quality.metric if quality else None,
        "score": quality.score if quality else None,
        "exact_match": quality.exact_match if quality else None,
        "composite": quality.composite if quality else None,
        "ttft_ms": timed.ttft_ms_median if timed else None,
        "decode_ms_per_token": timed.decode_ms_per_token_median if timed else None,
        "weight_bytes": report.size.total_bytes if report.size else None,
    }
    return dict(facts)
