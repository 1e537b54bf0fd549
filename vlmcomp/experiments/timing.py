"""Is our clock right? The same answers timed by ``ask`` and by PyTorch's benchmark of plain ``generate``, in turns."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.benchmark import Timer

from vlmcomp.compression.pipeline import build
from vlmcomp.data import task_registry, tasks
from vlmcomp.evaluation import latency
from vlmcomp.experiments.ledger import Cell
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import BITS, Recipe
from vlmcomp.runtime.config import GENERATE, RuntimeConfig
from vlmcomp.runtime.engine import Engine

PART = "timing"
MODEL = "llava-shapes"
PEER = "torch.utils.benchmark"
ROUNDS = 15
CELLS = [Cell(PART, precision, PEER) for precision in BITS]


class Study:
    """Decoding of a recipe at batch 1, in ms/token."""

    def __init__(self, samples: int | None = None) -> None:
        self.rounds = samples or ROUNDS

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Raw times of both clocks, a round each in turns."""
        vlm = build(Recipe(MODEL, (), cell.step), device="cpu")
        engine = Engine(vlm, RuntimeConfig(decode=GENERATE))  # the clock alone is compared
        pool = task_registry.find(latency.TASK).samples(latency.WARMUP_RUNS + self.rounds, 0)
        ours, peers = [], []
        for sample in map(tasks.drawn, pool):
            tokens = latency.NEW_TOKENS
            ours.append(engine.generate(sample.image, sample.question, tokens, tokens).decode_ms_per_token)
            peers.append(_plain(vlm, sample))
        ours, peers = ours[latency.WARMUP_RUNS :], peers[latency.WARMUP_RUNS :]
        return {"ours_ms": ours, "peer_ms": peers}


def _plain(vlm: VLM, sample: tasks.Sample) -> float:
    """Milliseconds a token of plain ``generate``: a whole answer less one of a single token."""
    inputs, times = vlm.encode([sample.image], [sample.question]), {}
    for tokens in (1, latency.NEW_TOKENS):
        timer = Timer(
            "with mode(): model.generate(**inputs, do_sample=False, num_beams=1, min_new_tokens=n, max_new_tokens=n)",
            globals={"mode": torch.inference_mode, "model": vlm.model, "inputs": inputs, "n": tokens},
            num_threads=torch.get_num_threads(),
        )
        times[tokens] = timer.timeit(1).median
    return 1000 * (times[latency.NEW_TOKENS] - times[1]) / (latency.NEW_TOKENS - 1)
