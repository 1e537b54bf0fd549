"""What pruning costs: seconds and peak memory against model size, and the arithmetic that carries it to 7B."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vlmcomp.compression.activation_stats import moments_bytes
from vlmcomp.compression.calibration import texts
from vlmcomp.compression.pruning.pruner import prune
from vlmcomp.evaluation import memory_tracker
from vlmcomp.experiments.ledger import Cell
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.recipe import Step

PART = "cost"
TOKENS, LENGTH = 8192, 128


@dataclass(frozen=True)
class Shape:
    """A decoder: ``layers`` of ``hidden``, MLPs of ``width`` neurons; the weights do not matter to the cost."""

    layers: int
    hidden: int
    width: int

    @property
    def parameters(self) -> int:
        """Of the layers' Linears, with as many KV heads as heads."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.width)


SHAPES = {
    "2M": Shape(4, 192, 512),
    "8M": Shape(6, 320, 896),
    "32M": Shape(8, 576, 1536),
    "135M": Shape(30, 576, 1536),
}
LLAMA_7B = Shape(32, 4096, 11008)


@dataclass(frozen=True)
class Gpu:
    """What a GPU holds and does: bytes of memory, and operations a second that dense matrix products reach."""

    name: str
    memory: float
    half: float
    single: float
    double: float


# NVIDIA's GA102 whitepaper: 71 / 35.6 / 0.556 TFLOPS at the peak; half of the peak is assumed for FP16 and FP32.
RTX_3090 = Gpu("RTX 3090", 24e9, 35e12, 17e12, 0.5e12)


def measure(name: str, percent: int = 30) -> dict[str, Any]:
    """Prune a random decoder of shape ``name`` in a fresh process, whose peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (SHAPES[name], percent))


def _measure(shape: Shape, percent: int) -> dict[str, Any]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=shape.hidden,
        intermediate_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 64,
    )
    model = LlamaForCausalLM(config).to(compute_dtype("cpu")).eval()
    ids = torch.randint(0, 512, (TOKENS // LENGTH, LENGTH), generator=torch.Generator().manual_seed(0))
    prune_tokens = texts(model, ids[:8])  # libraries warm up outside the clock
    gauge, start = memory_tracker.Gauge("cpu"), time.perf_counter()
    before = gauge.held()
    prune(model, (Step("glu", percent),), prune_tokens + texts(model, ids[8:]))
    return {
        "parameters": shape.parameters,
        "prune_seconds": time.perf_counter() - start,
        "peak_bytes": max(0, gauge.peak() - before),
        "moments_bytes": moments_bytes(shape.width, shape.hidden),
        "calibration_tokens": TOKENS,
    }


def projection(
    shape: Shape = LLAMA_7B, gpu: Gpu = RTX_3090, tokens: int = 256 * 640, percent: int = 30
) -> dict[str, float]:
    """Seconds and bytes to prune ``percent`` of the neurons of ``shape`` on ``gpu``, by counting operations.

    Forward: the walk runs each layer three times over the tokens (dense; up to the reader; the pruned layer),
    2 operations a weight. Statistics: x x^T and t x^T in float32. In float64, with n neurons of which k stay:
    choosing inverts the Gram matrix (n^3 by Cholesky), multiplies by it, and updates both for each neuron that
    goes; reconstructing multiplies, factors (2/3 k^3 by LU) and solves.
    Memory: FP16 weights, one reader's moments and their solving, one batch inside a layer.
    """
    n, out = shape.width, shape.hidden
    gone = n * percent / 100
    kept = n - gone
    choosing = n**3 + 2 * out * n**2 + 2 * gone * n * (n + out)
    reconstructing = 2 / 3 * kept**3 + 4 * out * kept**2
    forward = 3 * 2 * shape.parameters * tokens / gpu.half
    statistics = shape.layers * 2 * n * (n + out) * tokens / gpu.single
    solving = shape.layers * (choosing + reconstructing) / gpu.double
    return {
        "parameters": shape.parameters,
        "calibration_tokens": tokens,
        "forward_seconds": forward,
        "statistics_seconds": statistics,
        "solving_seconds": solving,
        "prune_seconds": forward + statistics + solving,
        "weights_bytes": 2.0 * shape.parameters,
        "moments_bytes": moments_bytes(n, out),
        "peak_bytes": 2.0 * shape.parameters + moments_bytes(n, out) + 8 * 1024 * 2 * (2 * n + 4 * out),
        "stream_bytes": tokens * out * (2 + 2 + 4.0),
    }


class Study:
    """Cells of this part name a shape as their ``step``."""

    def __init__(self, samples: int | None = None, device: str = "cpu") -> None:
        pass

    def measure(self, cell: Cell) -> dict[str, Any]:
        return measure(cell.step)
