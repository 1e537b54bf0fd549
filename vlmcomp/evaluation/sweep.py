"""Sweeps: a fresh process a recipe, finished reports reused, failures recorded, one folder shared by several sweeps."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from vlmcomp import files
from vlmcomp.compression import size_estimate
from vlmcomp.data.tasks import Task
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.evaluation.provenance import (
    benchmark_hardware,
    collect_provenance,
    delete_prediction_logs,
    is_calibrated_alike,
    same_provenance,
    same_weights,
    weights_provenance,
)
from vlmcomp.evaluation.worker import EXIT_CANNOT_WRITE, PROGRESS_PREFIX
from vlmcomp.feedback import package_environment
from vlmcomp.models import random_init, registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.summary import summary
from vlmcomp.results import store
from vlmcomp.results.schema import Latency, Report

LineCallback = Callable[[str], None]
_DEFAULT_CONFIG = BenchmarkConfig()
_SECONDS_TO_CLEAN_UP = 20.0


def run(
    recipes: Sequence[Recipe],
    config: BenchmarkConfig = _DEFAULT_CONFIG,
    *,
    root: Path = store.PRECOMPUTED,
    force: bool = False,
    log: LineCallback | None = None,
) -> list[Report]:
    """Measure each recipe in a fresh process, one after another, and store its report below ``root``.

    A report that answers the same config on this hardware is reused. A recipe that fails becomes a report with
    ``error``. On Ctrl-C everything finished stays. A recipe that another sweep on the same folder is measuring is
    waited for at the end.

    Args:
        recipes: what is measured.
        config: how it is measured.
        root: folder of the reports.
        force: measure again what has a report.
        log: called with one line a recipe; prints it by default.

    Raises:
        ValueError: an unknown model or task, or a step that a model does not support; nothing has run then.
        OSError: ``root`` cannot be written; finished reports stay.
    """
    _validate(recipes, config)
    files.check_writable(root)
    log = log or tqdm.write
    slug = benchmark_hardware(config).slug
    reports: dict[Recipe, Report] = {}
    with tqdm(total=len(recipes), unit="recipe", disable=None) as bar:
        for wait in (False, True):
            for recipe in [r for r in recipes if r not in reports]:
                if wait:
                    bar.set_postfix_str(f"{recipe.name}: another sweep is measuring it")
                try:
                    with report_lock(store.report_path(slug, recipe, root), wait):
                        reports[recipe] = _load_or_measure(recipe, config, root, force, bar.set_postfix_str, log)
                except Timeout:
                    continue
                bar.update()
    return [reports[recipe] for recipe in recipes]


def _validate(recipes: Sequence[Recipe], config: BenchmarkConfig) -> None:
    for recipe in recipes:
        spec = registry.with_prompt_template(registry.validate_recipe(recipe), config.prompt_template)
        if config.random_weights:
            random_init.check_supported(spec, config.num_layers)
    config.validate()


def report_lock(path: Path, wait: bool) -> FileLock:
    """Lock of one report, which ends with its process. Raises ``Timeout`` on entry if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.stem}.lock"), timeout=-1 if wait else 0)


def _load_or_measure(
    recipe: Recipe,
    config: BenchmarkConfig,
    root: Path,
    force: bool,
    show_status: LineCallback,
    log: LineCallback,
) -> Report:
    """The stored report of ``recipe``, or a new one."""
    path = store.report_path(benchmark_hardware(config).slug, recipe, root)
    if force:
        delete_prediction_logs(path)
    else:
        report = load_if_complete(path, config)
        if report is not None and report.latency is not None and report.latency.floor is not None:
            delete_prediction_logs(path)  # of a sweep that ended just after its worker had saved
            log(f"{summary(report)} (reused)")
            return report
        _check_no_task_is_lost(path, recipe, config)
    files.check_file_writable(path)
    _check_scratch_space(recipe, config)
    report = _run_worker(recipe, config, root, path, show_status)
    delete_prediction_logs(path)
    log(summary(report))
    return report


def _check_scratch_space(recipe: Recipe, config: BenchmarkConfig) -> None:
    """Raises ``OSError`` if the worker clearly cannot save ``recipe``, which it does to measure its size."""
    if config.random_weights or config.source is not None:
        return
    with contextlib.suppress(ValueError):  # what cannot be built is a failure that the worker records
        folder = Path(tempfile.gettempdir())
        size_estimate.check_free_space(recipe, folder, "let TMPDIR name another folder")


def _check_no_task_is_lost(path: Path, recipe: Recipe, config: BenchmarkConfig) -> None:
    """Raises ``ValueError`` if a new report would drop the scores of tasks that ``config`` does not contain."""
    try:
        stored = store.load(path)
    except (OSError, ValueError):
        return
    others = set(stored.quality) - {task.name for task in config.load_tasks()}
    same = same_provenance(stored, collect_provenance(recipe, config)) and is_calibrated_alike(stored, config)
    if others and not same:
        raise ValueError(
            f"{path} also contains {', '.join(sorted(others))}, measured by another version, or on other weights, "
            "settings or calibration data: name those tasks too, give another folder with --results, or drop them with "
            "--force"
        )


def load_if_complete(path: Path, config: BenchmarkConfig) -> Report | None:
    """The report in ``path`` if it succeeded and measured what ``config`` requires, on the same weights and settings.

    A quick config accepts a report of more samples.
    """
    try:
        report = store.load(path)
    except (OSError, ValueError):
        return None
    if report.error is not None or report.latency is None:
        return None
    weights = weights_provenance(Recipe.parse(report.recipe), config)
    same_timing = _timing_settings(report.latency) == (config.new_tokens, config.warmup, config.runs)
    has_scores = all(_has_scores(report, task, config) for task in config.load_tasks())
    is_same = same_weights(report, weights) and same_timing and is_calibrated_alike(report, config)
    return report if is_same and has_scores else None


def _timing_settings(timings: Latency) -> tuple[int, int, int]:
    return timings.new_tokens, timings.warmup_runs, len(timings.ttft_ms)


def _has_scores(report: Report, task: Task, config: BenchmarkConfig) -> bool:
    quality = report.quality.get(task.name)
    if quality is None or (quality.version, quality.seed, quality.metric) != (task.version, config.seed, task.metric):
        return False
    required = task.num_samples(config.num_samples) - task.num_unreadable
    return quality.samples == required or (config.quick and quality.samples > required)


def _run_worker(recipe: Recipe, config: BenchmarkConfig, root: Path, path: Path, show_status: LineCallback) -> Report:
    """Measure ``recipe`` in a fresh process; returns the report it saved in ``path``, or one of its failure."""
    job = json.dumps({"recipe": str(recipe), "root": str(root.resolve()), "config": asdict(config)})
    code, errors = _run_process(job, lambda text: show_status(f"{recipe.name}: {text}"))
    if code == 0:
        return store.load(path)
    if code == EXIT_CANNOT_WRITE:
        raise OSError(f"{errors[-1]}; finished results are stored: free some space and run the sweep again to continue")
    report = Report(**collect_provenance(recipe, config), error=_exit_reason(code, errors))
    store.save(report, root=root)
    return report


def _run_process(job: str, on_progress: LineCallback) -> tuple[int, list[str]]:
    """Exit code of the worker, and the lines of its stderr."""
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "vlmcomp.evaluation.worker", job],
            stdout=subprocess.PIPE,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            text=True,
            env=package_environment(),
        )
        try:
            for line in process.stdout or ():
                if line.startswith(PROGRESS_PREFIX):
                    on_progress(line.removeprefix(PROGRESS_PREFIX).strip())
            code = process.wait()
        finally:
            _end(process)
        stderr.seek(0)
        return code, [line.strip() for line in stderr if line.strip()]


def _end(process: subprocess.Popen[str]) -> None:
    """End the worker, which deletes its temporary files first; no effect on one that has ended."""
    process.terminate()
    try:
        process.wait(_SECONDS_TO_CLEAN_UP)
    except subprocess.TimeoutExpired:  # it is inside a library
        process.kill()
        process.wait()


def _exit_reason(code: int, errors: list[str]) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"the process was ended by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
    return f"the process ended with code {code}: {errors[-1] if errors else 'without an error message'}"
