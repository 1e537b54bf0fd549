"""The engine's clock agrees with PyTorch's benchmark timer of plain ``generate``, measured in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
import torch
from torch.utils.benchmark import Timer

from vlmcomp.data import task_registry, tasks
from vlmcomp.evaluation import latency
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import BASE_PRECISIONS
from vlmcomp.runtime.config import GENERATE, RuntimeConfig
from vlmcomp.runtime.engine import Engine

ROUNDS = 15
TOLERANCE = 0.1  # of the ratio of the two clocks; 0.02 is usual on a machine with nothing else to do


def _ms_per_token_of_generate(vlm: VLM, sample: tasks.Sample) -> float:
    """An answer of ``latency.NEW_TOKENS`` tokens less one of a single token."""
    inputs = vlm.encode([sample.image], [sample.question])
    seconds = {}
    for tokens in (1, latency.NEW_TOKENS):
        timer = Timer(
            "with mode(): model.generate(**inputs, do_sample=False, num_beams=1, min_new_tokens=n, max_new_tokens=n)",
            globals={"mode": torch.inference_mode, "model": vlm.model, "inputs": inputs, "n": tokens},
            num_threads=torch.get_num_threads(),
        )
        seconds[tokens] = timer.timeit(1).median
    return 1000 * (seconds[latency.NEW_TOKENS] - seconds[1]) / (latency.NEW_TOKENS - 1)


@pytest.mark.slow
@pytest.mark.parametrize("precision", BASE_PRECISIONS)
def test_the_clock_agrees_with_pytorchs(precision: str, built: Callable) -> None:
    vlm = built(f"llava-shapes/{precision}")
    engine = Engine(vlm, RuntimeConfig(decode=GENERATE))
    samples = task_registry.get_task(latency.TASK).sample(latency.WARMUP_RUNS + ROUNDS, 0)
    ratios = []
    for sample in map(tasks.with_image, samples):
        tokens = latency.NEW_TOKENS
        ours = engine.generate(sample.image, sample.question, tokens, tokens).decode_ms_per_token
        ratios.append(ours / _ms_per_token_of_generate(vlm, sample))
    assert statistics.median(ratios[latency.WARMUP_RUNS :]) == pytest.approx(1, abs=TOLERANCE)
