"""Provenance of a report: its weights, code, libraries and hardware, and whether two reports share them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlmcomp import files
from vlmcomp.data import tasks
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.hardware import get_hardware
from vlmcomp.models import random_init, registry
from vlmcomp.recipe import Recipe
from vlmcomp.results import provenance, store
from vlmcomp.results.journal import PredictionLog
from vlmcomp.results.schema import RANDOM_WEIGHTS, Hardware, Report

REPO = Path(__file__).resolve().parents[2]
PredictionLogFactory = Callable[[tasks.Task], PredictionLog | None]


def benchmark_hardware(config: BenchmarkConfig) -> Hardware:
    """The machine. With random weights its slug has a suffix, so that their results share no folder and no axis."""
    hardware = get_hardware(config.device)
    return replace(hardware, slug=f"{hardware.slug}-random") if config.random_weights else hardware


def collect_provenance(recipe: Recipe, config: BenchmarkConfig) -> dict[str, Any]:
    """The fields of a ``Report`` that say how it was made."""
    source, revision = weights_provenance(recipe, config)
    return {
        "recipe": str(recipe),
        "hardware": benchmark_hardware(config),
        "date": provenance.utc_timestamp(),
        "commit": provenance.git_commit(REPO),
        "versions": provenance.package_versions(),
        "source": source,
        "revision": revision,
        "weights": _weights_origin(recipe, config),
        "seeds": {"samples": config.seed, "latency": config.seed},
    }


def _weights_origin(recipe: Recipe, config: BenchmarkConfig) -> str:
    if config.random_weights:
        return RANDOM_WEIGHTS
    return "given" if config.source else registry.get_model_spec(recipe.model).weights_origin


def weights_provenance(recipe: Recipe, config: BenchmarkConfig) -> tuple[str, str | None]:
    """Source of the dense weights with a prompt template that is not the registry's, and their version: a Hub revision,
    or a digest of local files."""
    source, version = _weights_version(recipe, config)
    return source + (f", prompted by {config.prompt_template!r}" if config.prompt_template else ""), version


def _weights_version(recipe: Recipe, config: BenchmarkConfig) -> tuple[str, str | None]:
    spec = registry.get_model_spec(recipe.model)
    if config.random_weights:
        return random_init.weights_description(spec, config.num_layers), None
    if config.source is None and not spec.bundled:
        return spec.source, spec.revision
    folder = Path(config.source or spec.name_or_path)
    return config.source or spec.source, _weights_digest(folder) if folder.is_dir() else None


def _weights_digest(folder: Path) -> str:
    """Digest of the weight files in ``folder``; those that have not changed are read once a process."""
    weights = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
    return _digest_of_unchanged(tuple((file, files.stamp(file)) for file in weights))


@lru_cache(maxsize=8)
def _digest_of_unchanged(stamped: tuple[tuple[Path, files.Stamp | None], ...]) -> str:
    return files.short_digest(file for file, _ in stamped)


def prediction_logs(recipe: Recipe, config: BenchmarkConfig, root: Path) -> PredictionLogFactory:
    """Factory of the logs, one a task, that store answers beside the report while ``recipe`` is being measured."""
    report_path = store.report_path(benchmark_hardware(config).slug, recipe, root)
    facts = collect_provenance(recipe, config)
    header = {name: facts[name] for name in ("recipe", "commit", "versions", "source", "revision")} | {
        "samples": config.num_samples,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "max_new_tokens": config.max_new_tokens,
    }

    def open_log(task: tasks.Task) -> PredictionLog:
        path = report_path.with_name(f".{recipe.name}.{task.sha256[:12]}.partial")
        return PredictionLog(path, {**header, "task": task.sha256, "version": task.version})

    return open_log


def same_provenance(report: Report, facts: Mapping[str, Any]) -> bool:
    """Whether the weights, code and libraries of ``facts`` would reproduce the answers of ``report``."""
    same_code = all(getattr(report, name) == facts[name] for name in ("source", "commit", "versions"))
    return same_code and facts["revision"] in (None, report.revision)  # None: a Hub's newest, known after loading only


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
    if stored.error is not None or not same_provenance(stored, report.to_dict()):
        return report, predictions
    merged = replace(report, quality=stored.quality | report.quality)
    return merged, store.load_predictions(stored, root) | predictions
