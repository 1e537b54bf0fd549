"""Measuring the latency or the memory of measured recipes again; the rest of their reports stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vlmcomp import files
from vlmcomp.evaluation import latency
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.evaluation.provenance import benchmark_hardware
from vlmcomp.evaluation.runner import build_for_benchmark, measure_saved
from vlmcomp.evaluation.sweep import load_if_complete, report_lock
from vlmcomp.feedback import Progress
from vlmcomp.recipe import Recipe
from vlmcomp.results import provenance, store
from vlmcomp.results.schema import Report
from vlmcomp.runtime.engine import Engine

_DEFAULT_CONFIG = BenchmarkConfig()


def rerun_latency(
    recipes: Sequence[Recipe],
    config: BenchmarkConfig = _DEFAULT_CONFIG,
    *,
    root: Path = store.PRECOMPUTED,
    progress: Progress = lambda text, fraction: None,
) -> list[Report]:
    """Measure the latency of measured recipes again, interleaved and with all models in memory, and store it.

    Recipes without a complete report on this hardware are left out.

    Args:
        recipes: what is timed.
        config: what the reports must have measured.
        root: folder of the reports.
        progress: called with what is being done and the fraction done.

    Raises:
        ValueError: none of the recipes has a report here.
    """
    reports = _measured(recipes, config, root)
    engines = []
    for report in reports:
        progress(f"building {report.recipe}", 0.0)
        engines.append(Engine(build_for_benchmark(Recipe.parse(report.recipe), config)))
    timings = latency.time_interleaved(
        engines,
        new_tokens=config.new_tokens,
        warmup=config.warmup,
        runs=config.runs,
        seed=config.seed,
        progress=progress,
    )
    rooflines = [latency.compute_roofline(e.vlm, t.prompt_tokens) for e, t in zip(engines, timings)]
    timings = [replace(t, floor=roofline) for t, roofline in zip(timings, rooflines)]
    return [
        _update(report, config, root, lambda stored, timed=timed: replace(stored, latency=timed))
        for report, timed in zip(reports, timings)
    ]


def rerun_memory(
    recipes: Sequence[Recipe],
    config: BenchmarkConfig = _DEFAULT_CONFIG,
    *,
    root: Path = store.PRECOMPUTED,
    progress: Progress = lambda text, fraction: None,
) -> list[Report]:
    """Measure the memory that answering takes again, in a fresh process a recipe on a CPU, and store it.

    Recipes without a complete report on this hardware are left out.

    Args:
        recipes: what is measured.
        config: what the reports must have measured.
        root: folder of the reports.
        progress: called with what is being done and the fraction done.

    Raises:
        ValueError: none of the recipes has a report here, or a GPU, where memory was never measured otherwise.
    """
    if benchmark_hardware(config).device != "cpu":  # before anything is built
        raise ValueError("memory is measured again on a CPU alone: a GPU's allocations were counted exactly")
    updated = []
    for report in _measured(recipes, config, root):
        progress(f"building {report.recipe}", 0.0)
        _, measured = measure_saved(build_for_benchmark(Recipe.parse(report.recipe), config), config, progress)
        if measured is None or report.memory is None:
            raise ValueError(f"the report of {report.recipe} has no memory to measure again: measure the recipe again")
        memory = replace(report.memory, loaded_bytes=measured[0], peak_answer_bytes=measured[1])
        updated.append(_update(report, config, root, lambda stored, memory=memory: replace(stored, memory=memory)))
    return updated


def _measured(recipes: Sequence[Recipe], config: BenchmarkConfig, root: Path) -> list[Report]:
    """The complete reports of ``recipes`` on this hardware."""
    slug = benchmark_hardware(config).slug
    loaded = [load_if_complete(store.report_path(slug, recipe, root), config) for recipe in recipes]
    reports = [report for report in loaded if report is not None]
    if not reports:
        raise ValueError(f"there is nothing to measure again on {slug}: measure the recipes first")
    files.check_writable(root)
    return reports


def _update(report: Report, config: BenchmarkConfig, root: Path, change: Callable[[Report], Report]) -> Report:
    """Store what ``change`` makes of the report, which another sweep may have measured again meanwhile."""
    path = store.report_path(report.hardware.slug, Recipe.parse(report.recipe), root)
    with report_lock(path, wait=True):
        stored = load_if_complete(path, config) or report
        updated = replace(change(stored), date=provenance.utc_timestamp())
        store.save(updated, store.load_predictions(stored, root), root)
    return updated
