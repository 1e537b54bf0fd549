"""Latency at a fixed answer length, so that a model with shorter answers does not look faster."""

from __future__ import annotations

import inspect
import statistics
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from vlmcomp.compression.size import decode_bytes_and_params
from vlmcomp.data import task_registry, tasks
from vlmcomp.evaluation.config import NEW_TOKENS, TIMED_RUNS, WARMUP_RUNS
from vlmcomp.evaluation.roofline import measure_bandwidth, measure_flops
from vlmcomp.feedback import Progress, format_count
from vlmcomp.models.vlm import VLM
from vlmcomp.results.answer import Answer
from vlmcomp.results.schema import Latency, Roofline
from vlmcomp.runtime.device import synchronize
from vlmcomp.runtime.engine import Engine

TASK = "shapes-vqa"
BATCH_SIZES = (4, 8)  # besides 1
_BATCH_RUNS = 3


def measure(
    engine: Engine,
    *,
    new_tokens: int = NEW_TOKENS,
    warmup: int = WARMUP_RUNS,
    runs: int = TIMED_RUNS,
    seed: int = 0,
    progress: Progress = lambda text, fraction: None,
) -> Latency:
    """Latency of answers to fixed samples of ``TASK``.

    Args:
        engine: what answers.
        new_tokens: tokens of every answer, exactly.
        warmup: untimed answers before the timed ones.
        runs: timed answers.
        seed: selects the samples.
        progress: called with the fraction done.

    Raises:
        ValueError: fewer than one timed run or two new tokens, or an answer shorter than ``new_tokens``.
    """
    return time_interleaved([engine], new_tokens=new_tokens, warmup=warmup, runs=runs, seed=seed, progress=progress)[0]


@dataclass
class _Timings:
    """The times of one model."""

    engine: Engine
    answers: list[Answer] = field(default_factory=list)
    vision_ms: list[float] = field(default_factory=list)
    batch_decode_ms: dict[str, list[float]] = field(default_factory=dict)

    def time_answer(self, sample: tasks.Sample, new_tokens: int, timed: bool) -> None:
        answer = self.engine.generate(
            sample.image, sample.question, max_new_tokens=new_tokens, min_new_tokens=new_tokens
        )
        if answer.new_tokens != new_tokens:
            raise ValueError(
                f"the model gave {format_count(answer.new_tokens, 'token')} instead of the {new_tokens} to be timed"
            )
        vision_ms = _time_vision_ms(self.engine.vlm, sample)
        if timed:
            self.answers.append(answer)
            self.vision_ms.append(vision_ms)

    def time_batch(self, samples: Sequence[tasks.Sample], new_tokens: int) -> None:
        """Time one decoding step: a whole answer less its first token, over the remaining tokens."""
        images = [s.image for s in samples]
        questions = [s.question for s in samples]
        first_seconds = self.engine.time_generate(images, questions, 1)
        total_seconds = self.engine.time_generate(images, questions, new_tokens)
        step_ms = 1000 * (total_seconds - first_seconds) / (new_tokens - 1)
        self.batch_decode_ms.setdefault(str(len(samples)), []).append(step_ms)

    def to_latency(self, new_tokens: int, warmup: int, session: str) -> Latency:
        return Latency(
            new_tokens=new_tokens,
            prompt_tokens=round(statistics.median(a.prompt_tokens for a in self.answers)),
            warmup_runs=warmup,
            threads=torch.get_num_threads(),
            ttft_ms=[a.ttft_ms for a in self.answers],
            decode_ms_per_token=[a.decode_ms_per_token for a in self.answers],
            end_to_end_ms=[a.total_ms for a in self.answers],
            preprocess_ms=[a.preprocess_ms for a in self.answers],
            vision_ms=self.vision_ms,
            batch_decode_ms=self.batch_decode_ms,
            session=session,
            decoder=self.engine.summary.decode,
            capture_seconds=round(self.engine.summary.capture_seconds, 3),
        )


def time_interleaved(
    engines: Sequence[Engine],
    *,
    new_tokens: int = NEW_TOKENS,
    warmup: int = WARMUP_RUNS,
    runs: int = TIMED_RUNS,
    seed: int = 0,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    progress: Progress = lambda text, fraction: None,
) -> list[Latency]:
    """Latency of several models in memory, interleaved (A B C A B C), so that a slow phase of the machine hits all.

    Args:
        engines: what answers.
        new_tokens: tokens of every answer, exactly.
        warmup: untimed answers of each model before the timed ones.
        runs: timed answers of each model.
        seed: selects the samples.
        batch_sizes: sizes of the batches that are timed after the single questions.
        progress: called with the fraction done.

    Raises:
        ValueError: as ``measure``.
    """
    if runs < 1 or warmup < 0 or new_tokens < 2:
        raise ValueError("latency needs at least one timed run and two new tokens")
    task = task_registry.get_task(TASK)
    samples = task.sample(warmup + runs, seed)
    batch_samples = [tasks.with_image(sample) for sample in task.sample(max(batch_sizes, default=1), seed)]
    batch_rounds = [size for size in batch_sizes for _ in range(min(runs, _BATCH_RUNS))]
    num_rounds = len(samples) + len(batch_rounds)
    models = [_Timings(engine) for engine in engines]
    for number, sample in enumerate(map(tasks.with_image, samples)):
        for model in models:
            model.time_answer(sample, new_tokens, timed=number >= warmup)
        progress("latency", (number + 1) / num_rounds)
    for number, size in enumerate(batch_rounds, len(samples)):
        for model in models:
            model.time_batch(batch_samples[:size], new_tokens)
        progress("latency", (number + 1) / num_rounds)
    session = uuid.uuid4().hex[:12]
    return [model.to_latency(new_tokens, warmup, session) for model in models]


def _time_vision_ms(vlm: VLM, sample: tasks.Sample) -> float:
    """Milliseconds of turning preprocessed pixels into image tokens, without the rest of the model."""
    image_features = vlm.model.get_image_features
    names = set(inspect.signature(image_features).parameters) - {"input_ids", "attention_mask"}
    inputs = {k: v for k, v in vlm.encode([sample.image], [sample.question]).items() if k in names}
    synchronize(vlm.device)
    start = time.perf_counter()
    with torch.inference_mode():
        image_features(**inputs)
    synchronize(vlm.device)
    return 1000 * (time.perf_counter() - start)


def compute_roofline(vlm: VLM, prompt_tokens: int) -> Roofline:
    """The best that this device allows ``vlm``. Measuring the device takes half a gigabyte of memory."""
    decode_bytes, num_params = decode_bytes_and_params(vlm.model)
    device = str(vlm.device)
    prefill_flops = 2 * num_params * prompt_tokens
    return Roofline(measure_bandwidth(device), measure_flops(device), decode_bytes, prefill_flops)
