"""Milliseconds at batch 1 and a fixed answer length, so that a model that says less does not look faster."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vlmcomp.measure import tasks
from vlmcomp.report import Latency

if TYPE_CHECKING:
    from vlmcomp.ask import Answer
    from vlmcomp.vlm import VLM

TASK = "shapes-vqa"
NEW_TOKENS = 32
WARMUP_RUNS = 2
TIMED_RUNS = 10


def measure(
    vlm: VLM,
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
    return interleaved([vlm], new_tokens=new_tokens, warmup=warmup, runs=runs, seed=seed, progress=progress)[0]


def interleaved(
    vlms: Sequence[VLM],
    *,
    new_tokens: int = NEW_TOKENS,
    warmup: int = WARMUP_RUNS,
    runs: int = TIMED_RUNS,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> list[Latency]:
    """Like ``measure`` for several models held together, in turns (A B C A B C): a slow spell hits all alike."""
    import torch

    from vlmcomp.ask import ask

    if runs < 1 or warmup < 0 or new_tokens < 2:
        raise ValueError("latency needs at least one timed run and two new tokens")
    samples = tasks.find(TASK).samples(warmup + runs, seed)
    timed: list[list[Answer]] = [[] for _ in vlms]
    for number, sample in enumerate(samples):
        for vlm, answers in zip(vlms, timed):
            answer = ask(vlm, sample.image, sample.question, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
            if answer.new_tokens != new_tokens:
                raise ValueError(f"the model gave {answer.new_tokens} tokens instead of the {new_tokens} to be timed")
            if number >= warmup:
                answers.append(answer)
        if progress:
            progress("latency", (number + 1) / len(samples))
    return [
        Latency(
            new_tokens=new_tokens,
            prompt_tokens=round(statistics.median(a.prompt_tokens for a in answers)),
            warmup_runs=warmup,
            threads=torch.get_num_threads(),
            ttft_ms=[a.ttft_ms for a in answers],
            decode_ms_per_token=[a.decode_ms_per_token for a in answers],
            end_to_end_ms=[a.total_ms for a in answers],
        )
        for answers in timed
    ]
