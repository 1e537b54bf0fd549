"""Stored and fresh benchmark results: comparing two of them, and choosing a recipe for a device. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from vlmcomp.api.argument_types import check_number, check_paths, check_texts
from vlmcomp.feedback import refuse_empty
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import comparison
from vlmcomp.reporting import recommend as recommendation
from vlmcomp.reporting.comparison import PairedComparison
from vlmcomp.reporting.recommend import Constraints, Recommendation
from vlmcomp.reporting.statistics import Interval, speed_interval
from vlmcomp.reporting.summary import summary
from vlmcomp.results import store
from vlmcomp.results.schema import Report


@dataclass(frozen=True)
class BenchmarkResult:
    """What ``benchmark`` measured.

    Attributes:
        report: quality by task, latency, memory and size, with the circumstances they were measured in.
        predictions: by task, one row a question: id, type, question, reference, answer.
    """

    report: Report
    predictions: Mapping[str, store.Predictions]

    def __str__(self) -> str:
        return summary(self.report)


Measured: TypeAlias = "BenchmarkResult | Report | Recipe | str"


@dataclass(frozen=True)
class Comparison:
    """A recipe against a baseline on the same questions.

    Attributes:
        quality: the paired difference by task.
        speedup: relative change of the decode speed with a 95 % interval (0 is the same speed); None unless both were
            timed in turns in one session (``vlmcomp bench --latency-only``).
        verdict: all of it in one paragraph.
    """

    report: Report
    baseline: Report
    quality: Mapping[str, PairedComparison]
    speedup: Interval | None
    verdict: str

    def __str__(self) -> str:
        return self.verdict


def list_models() -> list[str]:
    """Names of the supported models, for the first part of a recipe.

    Example:
        >>> import vlmcomp
        >>> "llava-1.5-7b" in vlmcomp.list_models()
        True
    """
    return list(registry.MODELS)


def compare(
    report: Measured,
    baseline: Measured,
    *,
    results_dir: str | Path = store.PRECOMPUTED,
    hardware: str | None = None,
    task: str | None = None,
) -> Comparison:
    """Compare two measured recipes question by question.

    Args:
        report: result of ``benchmark``, a report, or a recipe whose report is in ``results_dir``.
        baseline: what it is compared to, in any of these forms.
        results_dir: folder with stored reports and predictions. Default: the results published with vlmcomp.
        hardware: name of the machine whose stored reports to use, if several machines measured both recipes.
        task: the only task to compare. Default: every task of both.

    Returns:
        The paired difference of every such task, the speedup, and a verdict in words.

    Raises:
        ValueError: a recipe was not measured, its predictions are not stored, or the two were not asked the same
            questions.

    Example:
        >>> import vlmcomp
        >>> int8 = vlmcomp.compare("llava-shapes/int8", "llava-shapes/fp16", hardware="cpu-amd-epyc-2c")
        >>> int8.quality["shapes-vqa"].num_samples
        2000
        >>> int8.quality["shapes-vqa"].verdict
        'no difference seen'
    """
    refuse_empty(results_dir=results_dir, hardware=hardware, task=task)
    check_paths(results_dir=results_dir)
    check_texts(hardware=hardware, task=task)
    after, before = _find_pair(report, baseline, Path(results_dir), hardware)
    after_rows = after.predictions
    before_rows = before.predictions
    common = [name for name in after.report.quality if name in before.report.quality and task in (None, name)]
    quality = {name: comparison.compare(before_rows.get(name, []), after_rows.get(name, [])) for name in common}
    if not quality:
        which = f"the task {task}" if task else "a task"
        raise ValueError(f"{after.report.recipe} and {before.report.recipe} do not have {which} in common")
    verdict = comparison.verdict(after.report, before.report, after_rows, before_rows, task)
    speedup = None
    if after.report.latency is not None and before.report.latency is not None:
        speedup = speed_interval(before.report.latency, after.report.latency)
    return Comparison(after.report, before.report, quality, speedup, verdict)


def recommend(
    *,
    model: str = registry.DEFAULT_MODEL,
    memory: str,
    max_accuracy_drop: float = 1.0,
    optimize_for: str = "memory",
    hardware: str | None = None,
    task: str | None = None,
    results_dir: str | Path = store.PRECOMPUTED,
) -> Recommendation:
    """Choose a recipe for a device from measured results, or from size estimates where a model was not measured.

    Args:
        model: one of ``list_models()``.
        memory: what the device has, such as ``"8GB"``.
        max_accuracy_drop: percentage points of the task's score that may be lost.
        optimize_for: ``"memory"`` or ``"speed"``.
        hardware: use only this machine's results.
        task: task of the accuracy drop. Default: the one that most results of the model have.
        results_dir: folder with stored reports. Default: the results published with vlmcomp.

    Returns:
        The best recipe, why it was chosen, what it costs, and every candidate; ``best`` is None if none fits.

    Raises:
        ValueError: an unknown model, machine or goal, or an amount of memory that cannot be read.

    Example:
        >>> import vlmcomp
        >>> vlmcomp.recommend(model="llava-1.5-7b", memory="24GB").best.recipe.model
        'llava-1.5-7b'
        >>> vlmcomp.recommend(memory="plenty")
        Traceback (most recent call last):
        ...
        ValueError: 'plenty' is not an amount of memory: write for example 8GB or 500MB
    """
    refuse_empty(hardware=hardware, task=task, results_dir=results_dir)
    check_paths(results_dir=results_dir)
    check_texts(hardware=hardware, task=task)
    check_number("max_accuracy_drop", max_accuracy_drop)
    wish = Constraints(model, recommendation.parse_bytes(memory), max_accuracy_drop, optimize_for)
    root = Path(results_dir)
    reports = store.load_all(root)
    machines = sorted({report.hardware.slug for report in reports})
    if hardware is not None and hardware not in machines:
        known = f"choose {' or '.join(machines)}" if machines else f"{root} has no reports"
        raise ValueError(f"no reports of the hardware {hardware}: {known}")
    selected = [report for report in reports if hardware in (None, report.hardware.slug)]
    return recommendation.recommend(
        wish, selected, lambda report: store.load_predictions(report, root), _estimate_sizes, task
    )


def _estimate_sizes(model: str) -> tuple[dict[str, int], dict[str, int]]:
    from vlmcomp.compression import size_estimate  # imports torch, which stored results do not need

    return size_estimate.estimate_by_recipe(model)


def _find_pair(
    report: Measured, baseline: Measured, root: Path, hardware: str | None
) -> tuple[BenchmarkResult, BenchmarkResult]:
    """Both as results; a recipe stands for its stored report on the machine of the other one.

    Raises:
        ValueError: no machine measured both, or several did.
    """
    candidates = [_reports_of(one, root, hardware) for one in (report, baseline)]
    looked_up = isinstance(report, Recipe | str) or isinstance(baseline, Recipe | str)
    pairs = [
        (after, before)
        for after in candidates[0]
        for before in candidates[1]
        if not looked_up or after.hardware.slug == before.hardware.slug
    ]
    if not pairs:
        recipes = " ".join(_recipe_of(one) for one in (report, baseline))
        raise ValueError(f"{root} has no machine that measured both: run 'vlmcomp bench {recipes}'")
    if len(pairs) > 1:
        machines = " or ".join(sorted(after.hardware.slug for after, _ in pairs))
        raise ValueError(f"several machines measured both: pass hardware={machines}")
    after, before = pairs[0]
    return _with_predictions(report, after, root), _with_predictions(baseline, before, root)


def _reports_of(one: Measured, root: Path, hardware: str | None) -> list[Report]:
    if isinstance(one, BenchmarkResult):
        return [one.report]
    if isinstance(one, Report):
        return [one]
    wanted = _recipe_of(one)
    stored = [r for r in store.load_all(root) if r.recipe == wanted and r.error is None]
    return [r for r in stored if hardware in (None, r.hardware.slug)]


def _recipe_of(one: Measured) -> str:
    if isinstance(one, BenchmarkResult):
        return one.report.recipe
    if isinstance(one, Report):
        return one.recipe
    return str(one if isinstance(one, Recipe) else registry.parse_recipe(one))


def _with_predictions(one: Measured, report: Report, root: Path) -> BenchmarkResult:
    return one if isinstance(one, BenchmarkResult) else BenchmarkResult(report, store.load_predictions(report, root))
