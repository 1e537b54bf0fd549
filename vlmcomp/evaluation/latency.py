"""Milliseconds at a fixed answer length, so that a model that says less does not look faster."""

from __future__ import annotations

import inspect
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vlmcomp.data import task_registry, tasks
from vlmcomp.evaluation import roofline
from vlmcomp.results.schema import Floor, Latency
from vlmcomp.runtime.device import synchronize

if TYPE_CHECKING:
    from vlmcomp.models.vlm import VLM
    from vlmcomp.results.answer import Answer
    from vlmcomp.runtime.engine import Engine

TASK = "shapes-vqa"
NEW_TOKENS = 32
WARMUP_RUNS = 2
TIMED_RUNS = 10
BATCHES = (4, 8)  # beside 1
_BATCH_RUNS = 3


def measure(
    engine: Engine,
    *,
    new_tokens: int = NEW_TOKENS,
    warmup: int = WARMUP_RUNS,
    runs: int = TIMED_RUNS,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> Latency:
    """Time ``runs`` answers of exactly ``new_tokens`` tokens to fixed samples; warm-up runs are not among them.

    Raises:
        ValueError: fewer than one timed run or two new tokens, or an answer that came out shorter than asked.
    """
    return interleaved([engine], new_tokens=new_tokens, warmup=warmup, runs=runs, seed=seed, progress=progress)[0]


@dataclass
class _Times:
    """What was timed of one model."""

    engine: Engine
    answers: list[Answer] = field(default_factory=list)
    vision: list[float] = field(default_factory=list)
    batches: dict[str, list[float]] = field(default_factory=dict)

    def ask(self, sample: tasks.Sample, new_tokens: int, timed: bool) -> None:
        image = sample.image
        answer = self.engine.generate(image, sample.question, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
        if answer.new_tokens != new_tokens:
            raise ValueError(f"the model gave {answer.new_tokens} tokens instead of the {new_tokens} to be timed")
        seconds = _see(self.engine.vlm, sample)
        if timed:
            self.answers.append(answer)
            self.vision.append(1000 * seconds)

    def ask_batch(self, samples: Sequence[tasks.Sample], new_tokens: int) -> None:
        """One more time of a decoding step: that of a whole answer less that of its first token."""
        images, questions = [s.image for s in samples], [s.question for s in samples]
        first, whole = (self.engine.time_batch(images, questions, tokens) for tokens in (1, new_tokens))
        step = 1000 * (whole - first) / (new_tokens - 1)
        self.batches.setdefault(str(len(samples)), []).append(step)

    def latency(self, new_tokens: int, warmup: int, session: str) -> Latency:
        import torch

        return Latency(
            new_tokens=new_tokens,
            prompt_tokens=round(statistics.median(a.prompt_tokens for a in self.answers)),
            warmup_runs=warmup,
            threads=torch.get_num_threads(),
            ttft_ms=[a.ttft_ms for a in self.answers],
            decode_ms_per_token=[a.decode_ms_per_token for a in self.answers],
            end_to_end_ms=[a.total_ms for a in self.answers],
            preprocess_ms=[a.preprocess_ms for a in self.answers],
            vision_ms=self.vision,
            batch_decode_ms=self.batches,
            session=session,
            decoder=self.engine.summary.decode,
            capture_seconds=round(self.engine.summary.capture_seconds, 3),
        )


def interleaved(
    engines: Sequence[Engine],
    *,
    new_tokens: int = NEW_TOKENS,
    warmup: int = WARMUP_RUNS,
    runs: int = TIMED_RUNS,
    seed: int = 0,
    batches: Sequence[int] = BATCHES,
    progress: Callable[[str, float], None] | None = None,
) -> list[Latency]:
    """Like ``measure`` for several models held together, in turns (A B C A B C): a slow spell hits all alike.
    ``batches``: the sizes that are timed beside single questions."""
    if runs < 1 or warmup < 0 or new_tokens < 2:
        raise ValueError("latency needs at least one timed run and two new tokens")
    samples = task_registry.find(TASK).samples(warmup + runs, seed)
    pool = [tasks.drawn(sample) for sample in task_registry.find(TASK).samples(max(batches, default=1), seed)]
    times = [_Times(engine) for engine in engines]
    rounds = [(size, turn) for size in batches for turn in range(min(runs, _BATCH_RUNS))]
    for number, sample in enumerate(map(tasks.drawn, samples)):
        for one in times:
            one.ask(sample, new_tokens, timed=number >= warmup)
        if progress:
            progress("latency", (number + 1) / (len(samples) + len(rounds)))
    for number, (size, _) in enumerate(rounds):
        for one in times:
            one.ask_batch(pool[:size], new_tokens)
        if progress:
            progress("latency", (len(samples) + number + 1) / (len(samples) + len(rounds)))
    session = uuid.uuid4().hex[:12]
    return [one.latency(new_tokens, warmup, session) for one in times]


def _see(vlm: VLM, sample: tasks.Sample) -> float:
    """Seconds of turning the prepared pixels into image tokens, once more and alone."""
    import torch

    look = vlm.model.get_image_features
    wanted = set(inspect.signature(look).parameters) - {"input_ids", "attention_mask"}
    given = {k: v for k, v in vlm.encode([sample.image], [sample.question]).items() if k in wanted}
    synchronize(vlm.device)
    start = time.perf_counter()
    with torch.inference_mode():
        look(**given)
    synchronize(vlm.device)
    return time.perf_counter() - start


def floor(vlm: VLM, prompt_tokens: int) -> Floor:
    """What this device allows ``vlm`` at best; the tests behind it take half a gigabyte of memory."""
    from vlmcomp.compression.size import read_per_token

    held, logical = read_per_token(vlm.model)
    device = str(vlm.device)
    return Floor(roofline.bandwidth(device), roofline.flops(device), held, 2 * logical * prompt_tokens)
