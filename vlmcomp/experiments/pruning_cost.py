"""Experiment: seconds and peak memory of pruning by model size, and an estimate for 7B by counting operations."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vlmcomp.compression.activation_stats import NUM_PANELS, solver_memory_bytes
from vlmcomp.compression.calibration import TokenWeights, text_batches
from vlmcomp.compression.pruning.pruner import prune_decoder_
from vlmcomp.evaluation import memory_tracker
from vlmcomp.experiments.trial_log import Trial
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.recipe import PruningStep

PART = "cost"
NUM_TOKENS = 8192
SEQUENCE_LENGTH = 128


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder; its weights do not affect the cost."""

    num_layers: int
    hidden_size: int
    intermediate_size: int

    @property
    def num_parameters(self) -> int:
        """Parameters of the layers' Linears, with as many KV heads as query heads."""
        return self.num_layers * (4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size)


DECODER_SHAPES = {
    "2M": DecoderShape(4, 192, 512),
    "8M": DecoderShape(6, 320, 896),
    "32M": DecoderShape(8, 576, 1536),
    "135M": DecoderShape(30, 576, 1536),
}
LLAMA_7B = DecoderShape(32, 4096, 11008)


@dataclass(frozen=True)
class GPUSpec:
    """A GPU: bytes of memory, and operations per second that dense matrix products reach."""

    name: str
    memory_bytes: float
    fp16_flops: float
    fp32_flops: float
    fp64_flops: float


# NVIDIA's GA102 whitepaper: 71 / 35.6 / 0.556 TFLOPS at the peak; half of the peak is assumed for FP16 and FP32.
RTX_3090 = GPUSpec("RTX 3090", 24e9, 35e12, 17e12, 0.5e12)


def measure_cost(name: str, percent: int = 30) -> dict[str, Any]:
    """Prune a random decoder of shape ``name`` in a fresh process, whose peak memory is that of pruning alone."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (DECODER_SHAPES[name], percent))


def _measure(shape: DecoderShape, percent: int) -> dict[str, Any]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.hidden_size // 64,
    )
    model = LlamaForCausalLM(config).to(compute_dtype("cpu")).eval()
    ids = torch.randint(
        0, 512, (NUM_TOKENS // SEQUENCE_LENGTH, SEQUENCE_LENGTH), generator=torch.Generator().manual_seed(0)
    )
    prune_tokens = text_batches(model, ids[:8])  # libraries are initialized before the timer starts
    tracker = memory_tracker.MemoryTracker("cpu")
    start = time.perf_counter()
    before = tracker.current()
    prune_decoder_(model, (PruningStep("glu", percent),), prune_tokens + text_batches(model, ids[8:]))
    return {
        "parameters": shape.num_parameters,
        "prune_seconds": time.perf_counter() - start,
        "peak_bytes": max(0, tracker.peak() - before),
        "moments_bytes": solver_memory_bytes(shape.intermediate_size, shape.hidden_size),
        "calibration_tokens": NUM_TOKENS,
    }


def project_cost(
    shape: DecoderShape = LLAMA_7B,
    gpu: GPUSpec = RTX_3090,
    text_tokens: int = 256 * 64,
    image_tokens: int = 256 * 576,
    percent: int = 30,
) -> dict[str, float]:
    """Estimate seconds and bytes of pruning by counting operations.

    Forward: each layer runs over the tokens dense, then its attention and its pruned MLP, 2 operations a weight, and
    up to the down projection over the recorded tokens (all text, one image token of ``TokenWeights.image_stride``).
    Statistics of the recorded tokens: half of x x^T in panels and t x^T, in float32. In float64, with n neurons of
    which k remain: selection inverts the Gram matrix (n^3 by Cholesky), multiplies by it, and updates both for each
    removed neuron; reconstruction multiplies, factors (2/3 k^3 by LU) and solves.
    Memory: FP16 weights, statistics and solver of one Linear, one batch inside a layer.

    Args:
        shape: the decoder.
        gpu: the device.
        text_tokens: of the calibration data.
        image_tokens: of the calibration data.
        percent: of the MLP neurons to remove.

    Returns:
        Seconds and bytes, in total and by cause.
    """
    n = shape.intermediate_size
    out = shape.hidden_size
    removed = n * percent / 100
    remaining = n - removed
    selection = n**3 + 2 * out * n**2 + 2 * removed * n * (n + out)
    reconstruction = 2 / 3 * remaining**3 + 4 * out * remaining**2
    attention, mlp = 4 * out**2, 3 * out * n
    tokens = text_tokens + image_tokens
    recorded = text_tokens + image_tokens / TokenWeights().image_stride
    products = tokens * (2 * attention + mlp + remaining / n * mlp) + recorded * 2 / 3 * mlp
    forward = shape.num_layers * 2 * products / gpu.fp16_flops
    moments = n * (n * (NUM_PANELS + 1) / (2 * NUM_PANELS) + out)
    statistics = shape.num_layers * 2 * moments * recorded / gpu.fp32_flops
    solving = shape.num_layers * (selection + reconstruction) / gpu.fp64_flops
    return {
        "parameters": shape.num_parameters,
        "calibration_tokens": tokens,
        "forward_seconds": forward,
        "statistics_seconds": statistics,
        "solving_seconds": solving,
        "prune_seconds": forward + statistics + solving,
        "weights_bytes": 2.0 * shape.num_parameters,
        "moments_bytes": solver_memory_bytes(n, out),
        "peak_bytes": 2.0 * shape.num_parameters + solver_memory_bytes(n, out) + 8 * 1024 * 2 * (2 * n + 4 * out),
        "stream_bytes": tokens * out * (2 + 2) + recorded * out * 4.0,
    }


class PruningCostExperiment:
    """Measures the cost of pruning; the ``step`` of its trials is a key of ``DECODER_SHAPES``."""

    def __init__(self, num_samples: int | None = None) -> None:
        pass

    def measure(self, trial: Trial) -> dict[str, Any]:
        return measure_cost(trial.step)
