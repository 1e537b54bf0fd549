"""Recipe -> Report, in this process. A sweep runs it in a fresh process (``worker``)."""

from __future__ import annotations

import importlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmcomp.data import task_registry
from vlmcomp.evaluation import latency, memory_tracker
from vlmcomp.evaluation.config import Plan
from vlmcomp.evaluation.provenance import JournalOf, circumstances
from vlmcomp.feedback import Progress
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.results.schema import Memory, Report

if TYPE_CHECKING:
    from vlmcomp.models.vlm import VLM

_RANDOM_CALIBRATION = 32


def measure(
    recipe: Recipe, plan: Plan, progress: Progress = lambda text, share: None, journal: JournalOf = lambda task: None
) -> tuple[Report, dict[str, Any]]:
    """Build ``recipe`` in this process and measure it. What the journal of a task holds is not asked again.

    Returns:
        The report, and the rows of each task.

    Raises:
        ValueError: what ``build`` refuses, or a plan that asks for what is not there.
    """
    from vlmcomp.compression import size
    from vlmcomp.evaluation import quality
    from vlmcomp.runtime.engine import Engine

    importlib.import_module("bitsandbytes")  # libraries are loaded before memory is counted: they are not the model
    gauge = memory_tracker.Gauge(plan.device)
    vlm = built(recipe, plan, progress)
    peak_build, loaded = gauge.peak(), gauge.held()
    counted = size.measure(vlm, 0 if plan.random else _on_disk(vlm, progress))  # before any answer may repack INT4
    gauge.restart()
    sample = task_registry.find(latency.TASK).samples(1, plan.seed)[0]
    engine = Engine(vlm)
    engine.generate(sample.image, sample.question, plan.new_tokens, plan.new_tokens)
    peak_answer = gauge.peak()
    timed = latency.measure(
        engine, new_tokens=plan.new_tokens, warmup=plan.warmup, runs=plan.runs, seed=plan.seed, progress=progress
    )
    timed = replace(timed, floor=latency.floor(vlm, timed.prompt_tokens))
    memory = Memory(loaded, peak_build, peak_answer, gauge.measure)
    scores, rows = {}, {}
    for task in map(task_registry.find, plan.tasks):
        scores[task.name], rows[task.name] = quality.measure(
            engine,
            task,
            plan.samples,
            seed=plan.seed,
            batch_size=plan.batch_size,
            max_new_tokens=plan.max_new_tokens,
            encoder=plan.encoder,
            progress=progress,
            journal=journal(task),
        )
    facts = circumstances(recipe, plan)
    facts["revision"] = facts["revision"] or vlm.revision
    report = Report(
        **facts,
        dtype_stored=vlm.dtype_stored,
        dtype_computed=vlm.dtype_computed,
        backend=f"{', '.join(filter(None, (vlm.backend, engine.summary.kernel)))} ({vlm.device.type})",
        build_seconds=vlm.build_seconds,
        pruned=vlm.pruned,
        size=counted,
        memory=memory,
        latency=timed,
        quality=scores,
    )
    return report, rows


def built(recipe: Recipe, plan: Plan, progress: Progress = lambda text, share: None) -> VLM:
    """The recipe as ``plan`` wants it. Random weights are pruned by few samples: they have nothing to keep."""
    from vlmcomp.compression import pipeline
    from vlmcomp.data import calibration_data

    if not plan.random:
        return pipeline.build(recipe, device=plan.device, source=plan.source, progress=progress)
    from vlmcomp.models import random_init

    dense = random_init.dense(registry.find(recipe.model), plan.layers)
    few = calibration_data.calibration_samples(_RANDOM_CALIBRATION)
    return pipeline.build(recipe, device=plan.device, dense=dense, calibration=few, progress=progress)


def _on_disk(vlm: VLM, progress: Progress) -> int:
    """Bytes of the weights of a checkpoint of ``vlm``."""
    from vlmcomp.compression import checkpoint

    progress("saving", 0.0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "checkpoint"
        checkpoint.save(vlm, folder)
        return sum(f.stat().st_size for f in folder.iterdir() if f.suffix in (".safetensors", ".bin"))
