"""Recorded results as the app shows them: read once, filtered by what the visitor chose. No Gradio here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from vlmcomp.recipe import Recipe
from vlmcomp.reporting.comparison import Paired
from vlmcomp.reporting.figures import timed_alike
from vlmcomp.reporting.grid import of_model
from vlmcomp.reporting.grouping import MAIN_TASK, baseline_of, order, paired
from vlmcomp.reporting.pareto import Ways, frontier, ways
from vlmcomp.reporting.recommend import needs
from vlmcomp.reporting.statistics import Interval, median_interval, speed_interval
from vlmcomp.results import store
from vlmcomp.results.schema import Quality, Report

AXES = {"speed": "Quality vs speed", "size": "Quality vs size"}


@dataclass(frozen=True)
class View:
    """What the visitor chose to see: one hardware, families and techniques (none: all), an axis, and two bounds.

    ``fits_bytes``: the memory that it must fit in, None for any; ``least``: exact match, a share.
    """

    hardware: str | None = None
    models: tuple[str, ...] = ()
    techniques: tuple[str, ...] = ()
    axis: str = "speed"
    fits_bytes: int | None = None
    least: float = 0.0


@dataclass(frozen=True)
class Selection:
    """The reports of a view: shown, and left out with the reason."""

    shown: tuple[Report, ...]
    left_out: tuple[tuple[Report, str], ...]


@cache
def reports() -> tuple[Report, ...]:
    """Every recorded result."""
    return tuple(store.load_all())


def rows(report: Report) -> dict[str, store.Rows]:
    return store.load_rows(report)


@cache
def told() -> Ways:
    """How two reports are told apart; remembered for all visitors."""
    return ways(rows)


def hardware() -> list[str]:
    """Slugs of the machines that results were recorded on, the one with the most first."""
    counts = Counter(r.hardware.slug for r in reports())
    return sorted(counts, key=lambda slug: (-counts[slug], slug))


def models_on(slug: str | None) -> list[str]:
    return sorted({Recipe.parse(r.recipe).model for r in reports() if r.hardware.slug == slug})


def usual_models(slug: str | None, model: str) -> list[str]:
    """``model``, or the first that was measured there."""
    there = models_on(slug)
    return [model] if model in there else there[:1]


def find(slug: str | None, recipe: str | None) -> Report | None:
    return next((r for r in reports() if r.hardware.slug == slug and r.recipe == recipe), None)


def group(slug: str | None, model: str) -> list[Report]:
    """The comparable reports of a model on a machine: with them its own FP16 report."""
    return of_model(model, [r for r in reports() if r.hardware.slug == slug])


def select(found: Sequence[Report], view: View) -> Selection:
    """Split the reports of the view's hardware, families and techniques into those it shows and the others."""
    kept: list[Report] = []
    left: list[tuple[Report, str]] = []
    for report in order(found):
        recipe = Recipe.parse(report.recipe)
        wanted = (not view.models or recipe.model in view.models) and report.hardware.slug == view.hardware
        if not wanted or (view.techniques and recipe.technique not in view.techniques):
            continue
        if report.error is not None:
            left.append((report, f"failed: {report.error}"))
        elif report.size is None or MAIN_TASK not in report.quality or (view.axis == "speed" and not report.latency):
            left.append((report, "not measured in full"))
        elif view.fits_bytes is not None and needs(report) > view.fits_bytes:
            left.append((report, "does not fit"))
        elif report.quality[MAIN_TASK].exact_match < view.least:
            left.append((report, "below the least quality"))
        else:
            kept.append(report)
    kinds = Counter(_asked(r.quality[MAIN_TASK]) for r in kept)
    common = kinds.most_common(1)[0][0] if kinds else None
    alike = [r for r in kept if _asked(r.quality[MAIN_TASK]) == common]
    if view.axis == "speed":
        alike = timed_alike(alike)
    left += [(r, "was asked or timed otherwise than the others") for r in kept if r not in alike]
    return Selection(tuple(alike), tuple(left))


def _asked(quality: Quality) -> tuple[object, ...]:
    return quality.task_sha256, quality.samples, quality.seed, quality.bertscore_encoder, quality.meteor_data


def comparable(shown: Sequence[Report], axis: str) -> list[list[Report]]:
    """Those that can be told apart on the axis: sizes all, times only where they were taken in turns."""
    if axis == "size":
        return [list(shown)] if shown else []
    sessions = dict.fromkeys(r.latency.session for r in shown if r.latency and r.latency.session)
    return [[r for r in shown if r.latency and r.latency.session == session] for session in sessions]


def best(shown: Sequence[Report], axis: str) -> list[list[Report]]:
    """The frontier of quality and the axis in each comparable set, ties inside the noise being ties."""
    goals = ["quality", "memory" if axis == "size" else "latency"]
    return [frontier(each, rows, goals, told=told()) for each in comparable(shown, axis)]


@cache
def _against_fp16(slug: str, recipe: str) -> tuple[Paired | None, Interval | None]:
    report, dense = find(slug, recipe), baseline_of(group(slug, Recipe.parse(recipe).model))
    if report is None or dense is None or report is dense or report.error is not None:
        return None, None
    both = paired(rows, report, dense) if MAIN_TASK in report.quality and MAIN_TASK in dense.quality else None
    return both, speed_interval(dense.latency, report.latency) if dense.latency and report.latency else None


def against_fp16(report: Report) -> tuple[Paired | None, Interval | None]:
    """What changed against FP16 on the same machine, and the speed gained; None where it is not known."""
    return _against_fp16(report.hardware.slug, report.recipe)


@cache
def _decoding(slug: str, recipe: str) -> Interval | None:
    report = find(slug, recipe)
    return median_interval(report.latency.decode_ms_per_token) if report and report.latency else None


def decoding(report: Report) -> Interval:
    """Milliseconds per token: the median and its interval."""
    found = _decoding(report.hardware.slug, report.recipe)
    assert found is not None
    return found


HEAD = (
    "Recipe",
    "Exact match %",
    "Points to FP16",
    "Composite %",
    "First token ms",
    "ms per token",
    "Speed to FP16",
    "Weights MB",
    "Needs MB",
    "Frontier",
)


def table(view: View) -> list[list[Any]]:
    """The rows of the view as numbers, one a report, under ``HEAD``."""
    shown = select(reports(), view).shown
    on = {r.recipe for each in best(shown, view.axis) for r in each}
    lines = []
    for report in shown:
        quality, size, timed = report.quality[MAIN_TASK], report.size, report.latency
        assert size is not None
        both, speed = against_fp16(report)
        lines.append(
            [
                report.recipe,
                round(100 * quality.exact_match, 1),
                round(100 * both.difference.value, 1) if both else None,
                round(100 * quality.composite, 1),
                round(timed.ttft_ms_median, 1) if timed else None,
                round(timed.decode_ms_per_token_median, 2) if timed else None,
                f"{1 + speed.value:.2f}x" if speed else None,
                round(size.total_bytes / 1e6, 2),
                round(needs(report) / 1e6, 1),
                "yes" if report.recipe in on else "",
            ]
        )
    return lines


def plain(slug: str | None = None, model: str | None = None) -> list[dict[str, Any]]:
    """Results as plain numbers for programs, in the units that their names say.

    Raises:
        ValueError: no results of that machine or model, naming those there are.
    """
    for name, value, known in (
        ("hardware", slug, {r.hardware.slug for r in reports()}),
        ("model", model, {Recipe.parse(r.recipe).model for r in reports()}),
    ):
        if value is not None and value not in known:
            raise ValueError(f"no results of {name} '{str(value)[:60]}': choose {' or '.join(sorted(known))}")
    wanted = [r for r in reports() if slug in (None, r.hardware.slug)]
    return [_plain(r) for r in wanted if model in (None, Recipe.parse(r.recipe).model)]


def _plain(report: Report) -> dict[str, Any]:
    quality, timed = report.quality.get(MAIN_TASK), report.latency
    facts: Mapping[str, Any] = {
        "recipe": report.recipe,
        "hardware": report.hardware.slug,
        "date": report.date,
        "error": report.error,
        "exact_match": quality.exact_match if quality else None,
        "composite": quality.composite if quality else None,
        "ttft_ms": timed.ttft_ms_median if timed else None,
        "decode_ms_per_token": timed.decode_ms_per_token_median if timed else None,
        "weight_bytes": report.size.total_bytes if report.size else None,
    }
    return dict(facts)
