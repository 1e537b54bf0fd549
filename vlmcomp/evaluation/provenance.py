"""Provenance of a report: its weights, code, libraries and hardware, and whether two reports share them."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from vlmcomp import files
from vlmcomp.compression.calibration_choice import choose_calibration
from vlmcomp.data import tasks
from vlmcomp.data.calibration_set import DEFAULT_NAMES, SELF_NOTE, CalibrationSet, default_source
from vlmcomp.data.calibration_source import GIVEN, SELF, SHAPES, parse_sources
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.feedback import Progress
from vlmcomp.hardware import get_hardware
from vlmcomp.models import download, random_init, registry, source_digest
from vlmcomp.recipe import Recipe
from vlmcomp.results import provenance, store
from vlmcomp.results.journal import PredictionLog
from vlmcomp.results.schema import GIVEN_WEIGHTS, RANDOM_WEIGHTS, Hardware, Report

REPO = Path(__file__).resolve().parents[2]
PredictionLogFactory = Callable[[tasks.Task], PredictionLog | None]


class WeightsProvenance(NamedTuple):
    """Where dense weights come from, as the fields of a ``Report`` that have these names.

    Attributes:
        source: folder or Hub id, with a prompt template that is not the registry's.
        revision: commit on the Hub, or a digest of local weights; None if it is not known.
        settings: digest of the files beside local weights that change answers, None where a commit covers them.
    """

    source: str
    revision: str | None
    settings: str | None


def benchmark_hardware(config: BenchmarkConfig) -> Hardware:
    """The machine. With random weights its slug has a suffix, so that their results share no folder and no axis."""
    hardware = get_hardware(config.device)
    return replace(hardware, slug=f"{hardware.slug}-random") if config.random_weights else hardware


def collect_provenance(recipe: Recipe, config: BenchmarkConfig) -> dict[str, Any]:
    """The fields of a ``Report`` that say how it was made."""
    return {
        "recipe": str(recipe),
        "hardware": benchmark_hardware(config),
        "date": provenance.utc_timestamp(),
        "commit": provenance.git_commit(REPO),
        "versions": provenance.package_versions(),
        **weights_provenance(recipe, config)._asdict(),
        "weights": _weights_origin(recipe, config),
        "seeds": {"samples": config.seed, "latency": config.seed},
    }


def _weights_origin(recipe: Recipe, config: BenchmarkConfig) -> str:
    if config.random_weights:
        return RANDOM_WEIGHTS
    return GIVEN_WEIGHTS if config.source else registry.get_model_spec(recipe.model).weights_origin


def weights_provenance(recipe: Recipe, config: BenchmarkConfig) -> WeightsProvenance:
    """Provenance of the dense weights that ``recipe`` would be built from now."""
    spec = registry.get_model_spec(recipe.model)
    if config.random_weights:
        found = WeightsProvenance(random_init.weights_description(spec, config.num_layers), None, None)
    else:
        found = _source_provenance(spec, config.source)
    prompt = f", prompted by {config.prompt_template!r}" if config.prompt_template else ""
    return found._replace(source=found.source + prompt)


def _source_provenance(spec: registry.ModelSpec, source: str | None) -> WeightsProvenance:
    name = source or spec.source
    folder = Path(source or spec.name_or_path)
    if folder.is_dir():
        return WeightsProvenance(name, source_digest.weights_digest(folder), source_digest.settings_digest(folder))
    try:
        return WeightsProvenance(name, download.resolve_revision(spec, source), None)
    except ValueError:  # no network, or no such weights, which the build will say
        return WeightsProvenance(name, None, None)


def same_weights(report: Report, found: WeightsProvenance) -> bool:
    """Whether ``report`` is of the weights and settings ``found``; what is not known of ``found`` is not compared.

    Reports from before settings were recorded count as the same for the weights of this package alone.
    """
    if report.source != found.source or found.revision not in (None, report.revision):
        return False
    return found.settings in (None, report.settings) or (report.settings is None and report.weights != GIVEN_WEIGHTS)


def calibration_set(
    recipe: Recipe, config: BenchmarkConfig, progress: Progress = lambda text, fraction: None
) -> CalibrationSet | None:
    """What ``recipe`` is calibrated on; None if it needs nothing.

    Raises:
        ValueError: as ``choose_calibration``.
    """
    if not recipe.needs_calibration or config.random_weights:
        return None
    return choose_calibration(
        recipe, config.calibration_data, answers=config.answers, bad_rows=config.bad_rows, progress=progress
    )


def calibration_description(recipe: Recipe, config: BenchmarkConfig) -> str:
    """What the record of ``recipe`` says about its calibration data: of the default its name, and else all of it."""
    if not recipe.needs_calibration or config.random_weights:
        return ""
    if config.calibration_data is None and config.answers == GIVEN:
        return DEFAULT_NAMES[default_source(registry.get_model_spec(recipe.model).bundled)]
    sources = parse_sources(config.calibration_data or "") if config.calibration_data else []
    local = [source.place for source in sources if isinstance(source.place, Path)]
    return _described(recipe, replace(config, tasks=()), tuple(map(files.stamp, local)))


@lru_cache(maxsize=8)
def _described(recipe: Recipe, config: BenchmarkConfig, stamps: tuple[files.Stamp | None, ...]) -> str:
    """Read once a process, while the local files have these ``stamps``."""
    found = calibration_set(recipe, config)
    return found.description if found else ""


def is_calibrated_alike(report: Report, config: BenchmarkConfig) -> bool:
    """Whether the model of ``report`` was calibrated on the data of ``config``, or on none."""
    recipe = Recipe.parse(report.recipe)
    if not recipe.needs_calibration or config.random_weights:
        return True
    recorded = "; ".join([*(result.calibration for result in report.pruned), report.backend])
    if "sha256:" not in recorded:  # earlier reports do not name the only data that there was
        recorded += f", {DEFAULT_NAMES[SHAPES]}"
    same_answers = (SELF_NOTE in recorded) == (config.answers == SELF)
    return same_answers and calibration_description(recipe, config) in recorded


def prediction_logs(recipe: Recipe, config: BenchmarkConfig, root: Path) -> PredictionLogFactory:
    """Factory of the logs, one a task, that store answers beside the report while ``recipe`` is being measured."""
    report_path = store.report_path(benchmark_hardware(config).slug, recipe, root)
    facts = collect_provenance(recipe, config)
    header = {name: facts[name] for name in ("recipe", "commit", "versions", *WeightsProvenance._fields)} | {
        "samples": config.num_samples,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "max_new_tokens": config.max_new_tokens,
        "calibration": calibration_description(recipe, config),
    }

    def open_log(task: tasks.Task) -> PredictionLog:
        path = report_path.with_name(f".{recipe.name}.{task.sha256[:12]}.partial")
        return PredictionLog(path, {**header, "task": task.sha256, "version": task.version})

    return open_log


def delete_prediction_logs(report_path: Path) -> None:
    """Delete the logs of ``prediction_logs`` beside a report that is stored, or is measured from the beginning."""
    for log in report_path.parent.glob(f".{glob.escape(report_path.stem)}.*.partial"):
        log.unlink(missing_ok=True)


def same_provenance(report: Report, facts: Mapping[str, Any]) -> bool:
    """Whether the weights, settings, code and libraries of ``facts`` would reproduce the answers of ``report``."""
    same_code = all(getattr(report, name) == facts[name] for name in ("commit", "versions"))
    return same_code and same_weights(report, WeightsProvenance(*(facts[n] for n in WeightsProvenance._fields)))


def merge_tasks(
    report: Report, predictions: dict[str, store.Predictions], root: Path
) -> tuple[Report, dict[str, store.Predictions]]:
    """Add scores and predictions of the stored report's other tasks, if it has the same provenance.

    Args:
        report: a new report.
        predictions: its rows by task.
        root: folder of the stored reports.
    """
    try:
        stored = store.load(store.report_path(report.hardware.slug, Recipe.parse(report.recipe), root))
    except (OSError, ValueError):
        return report, predictions
    same_data = [r.calibration for r in stored.pruned] == [r.calibration for r in report.pruned]
    if stored.error is not None or not same_data or not same_provenance(stored, report.to_dict()):
        return report, predictions
    merged = replace(report, quality=stored.quality | report.quality)
    return merged, store.load_predictions(stored, root) | predictions
