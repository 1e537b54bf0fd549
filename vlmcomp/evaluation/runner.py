"""Recipe -> Report, in this process. A sweep runs it in a fresh process (``worker``)."""

from __future__ import annotations

import importlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmcomp import files
from vlmcomp.compression import checkpoint, pipeline, size
from vlmcomp.data import calibration_data, task_registry
from vlmcomp.data.tasks import Sample
from vlmcomp.evaluation import latency, provenance, quality
from vlmcomp.evaluation.checkpoint_memory import measure_memory
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.evaluation.memory_tracker import MemoryTracker
from vlmcomp.evaluation.provenance import PredictionLogFactory, collect_provenance
from vlmcomp.feedback import Progress
from vlmcomp.models import random_init, registry
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.results.schema import Latency, Memory, Quality, Report
from vlmcomp.results.store import Predictions
from vlmcomp.runtime import self_answers
from vlmcomp.runtime.engine import Engine

_RANDOM_CALIBRATION_SAMPLES = 32


def benchmark(
    recipe: Recipe,
    config: BenchmarkConfig,
    progress: Progress = lambda text, fraction: None,
    prediction_log: PredictionLogFactory = lambda task: None,
) -> tuple[Report, dict[str, Predictions]]:
    """Build ``recipe`` in this process and measure it.

    Args:
        recipe: what is built.
        config: what is measured.
        progress: called with what is being done and the fraction done.
        prediction_log: the log of a task; questions with a logged answer are not answered again.

    Returns:
        The report, and the predictions of each task.

    Raises:
        ValueError: a recipe or a setting that cannot be measured.
    """
    config.load_tasks()  # before the model is built: what is wrong with them must not show after it
    importlib.import_module("bitsandbytes")  # before memory is tracked: a library is no part of the model
    tracker = MemoryTracker(config.device)
    vlm = build_for_benchmark(recipe, config, progress)
    peak_build_bytes = tracker.peak()
    loaded_bytes = tracker.current()
    # Before the first answer, which may repack INT4 weights.
    disk_bytes, saved_memory = (0, None) if config.random_weights else measure_saved(vlm, config, progress)
    model_size = size.measure(vlm, disk_bytes)
    tracker.reset()
    engine = Engine(vlm)
    _answer_once(engine, config)
    answering = saved_memory or (loaded_bytes, tracker.peak())
    memory = Memory(answering[0], peak_build_bytes, answering[1], tracker.measure)
    timings = _measure_latency(engine, config, progress)
    scores, predictions = _measure_quality(engine, config, progress, prediction_log)
    facts = collect_provenance(recipe, config)
    facts["revision"] = vlm.revision or facts["revision"]
    report = Report(
        **facts,
        **_build_facts(engine),
        size=model_size,
        memory=memory,
        latency=timings,
        quality=scores,
    )
    return report, predictions


def build_for_benchmark(
    recipe: Recipe, config: BenchmarkConfig, progress: Progress = lambda text, fraction: None
) -> VLM:
    """The VLM of ``recipe`` with the weights of ``config``. Random weights are pruned with few calibration samples:
    they contain nothing worth preserving."""
    if not config.random_weights:
        return self_answers.compress(
            recipe,
            provenance.calibration_set(recipe, config, progress),
            device=config.device,
            source=config.source,
            prompt_template=config.prompt_template,
            progress=progress,
        )
    return pipeline.compress(
        recipe,
        device=config.device,
        dense=random_init.random_weights_model(registry.get_model_spec(recipe.model), config.num_layers),
        calibration_data=calibration_data.synthetic_calibration_data(_RANDOM_CALIBRATION_SAMPLES),
        progress=progress,
    )


def measure_saved(vlm: VLM, config: BenchmarkConfig, progress: Progress) -> tuple[int, tuple[int, int] | None]:
    """Bytes of the weights of a checkpoint of ``vlm``; and of the memory, loaded and at the peak of an answer, of a
    fresh process that loads it. None on a GPU, whose allocations are counted exactly in this process."""
    progress("saving", 0.0)
    with files.temporary_folder(Path(tempfile.gettempdir())) as scratch:
        folder = scratch / "checkpoint"
        checkpoint.save(vlm, folder)
        disk_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
        if vlm.device.type != "cpu":
            return disk_bytes, None
        progress("measuring memory", 0.0)
        sample = _first_sample(config)
        return disk_bytes, measure_memory(folder, sample.image, sample.question, config.new_tokens)


def _answer_once(engine: Engine, config: BenchmarkConfig) -> None:
    sample = _first_sample(config)
    engine.generate(sample.image, sample.question, config.new_tokens, config.new_tokens)


def _first_sample(config: BenchmarkConfig) -> Sample:
    return task_registry.get_task(latency.TASK).sample(1, config.seed)[0]


def _measure_latency(engine: Engine, config: BenchmarkConfig, progress: Progress) -> Latency:
    timings = latency.measure(
        engine,
        new_tokens=config.new_tokens,
        warmup=config.warmup,
        runs=config.runs,
        seed=config.seed,
        progress=progress,
    )
    return replace(timings, floor=latency.compute_roofline(engine.vlm, timings.prompt_tokens))


def _measure_quality(
    engine: Engine, config: BenchmarkConfig, progress: Progress, prediction_log: PredictionLogFactory
) -> tuple[dict[str, Quality], dict[str, Predictions]]:
    """Scores and predictions by task."""
    scores: dict[str, Quality] = {}
    predictions: dict[str, Predictions] = {}
    for task in config.load_tasks():
        scores[task.name], predictions[task.name] = quality.measure(
            engine,
            task,
            config.num_samples,
            seed=config.seed,
            batch_size=config.batch_size,
            max_new_tokens=config.max_new_tokens,
            encoder=config.encoder,
            progress=progress,
            prediction_log=prediction_log(task),
        )
    return scores, predictions


def _build_facts(engine: Engine) -> dict[str, Any]:
    """The fields of a ``Report`` that describe the built model."""
    vlm = engine.vlm
    libraries = ", ".join(filter(None, (vlm.quantization_backend, engine.summary.kernel, vlm.image_note)))
    return {
        "dtype_stored": vlm.storage_dtype,
        "dtype_computed": vlm.compute_dtype,
        "backend": f"{libraries} ({vlm.device.type})",
        "build_seconds": vlm.build_seconds,
        "pruned": vlm.pruned,
    }
