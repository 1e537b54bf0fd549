"""What a device makes of each precision: measured on one decoder layer of a model at its true widths.

The Linears of the layer are what a precision changes. Their weights are random, since speed does not depend on them;
nothing is downloaded. They compute with the kernel that a model of that precision would. What attention scores, norms,
lm_head and the calls between kernels cost is left out: a model's own reports have that.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vlmcomp import hardware as hardware_module
from vlmcomp.compression.quantization.quantize import BACKENDS, available_precisions, quantize_layer_
from vlmcomp.compression.size_estimate import in_memory, skeleton
from vlmcomp.evaluation import roofline
from vlmcomp.hardware import default_device, device_budget
from vlmcomp.models import architecture, registry
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.models.loading import Arrival
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import markdown
from vlmcomp.reporting.statistics import Interval, faster
from vlmcomp.results.schema import Hardware, amount
from vlmcomp.runtime.device import graphed, synchronize, waits_for_host
from vlmcomp.runtime.linear import dispatch
from vlmcomp.runtime.weight_sharing import pieces

ROUNDS = 15  # timed, after
WARMUP = 3
_STEPS = 4  # tokens a round: one alone is near the clock's resolution for a small layer


@dataclass(frozen=True)
class Finding:
    """One precision of the model here.

    ``needs_bytes``: of the weights in memory. ``ms``: of the decoder's Linears for one token, round by round, the
    precisions in turns. ``floor_ms``: of reading the same weights once at the measured bandwidth. ``kernel``: what
    multiplies them, where there was a choice.
    """

    recipe: Recipe
    needs_bytes: int
    fits: bool
    ms: tuple[float, ...]
    floor_ms: float
    kernel: str = ""

    @property
    def median_ms(self) -> float:
        return statistics.median(self.ms)


@dataclass(frozen=True)
class Diagnosis:
    hardware: Hardware
    dtype: str
    threads: int
    bandwidth_bytes_s: float
    flops_s: float
    budget_bytes: int
    findings: tuple[Finding, ...]


def examine(model: str, rounds: int | None = None, say: Callable[[str, float], None] | None = None) -> Diagnosis:
    """Measure this device (a GPU if there is one) for ``model``; takes the memory of a decoder layer in each precision.

    Raises:
        ValueError: an unknown model.
    """
    registry.find(model)
    say = say or (lambda text, share: None)
    device = default_device()
    say("measuring memory and arithmetic", 0.0)
    bandwidth, flops, budget = roofline.bandwidth(device), roofline.flops(device), device_budget()
    say(f"timing a decoder layer of {model}", 0.2)
    count, precisions = len(architecture.layers(skeleton(model))), available_precisions()
    blocks = [_block(model, p, device) for p in precisions]
    layers = [sum(pieces(block).values()) for block in blocks]
    used = [dispatch.fit(block, p, torch.device(device)) for p, block in zip(precisions, blocks)]
    times = _in_turns([_step(block, device) for block in blocks], device, rounds or ROUNDS)
    findings = []
    for precision, layer, kernel, ms in zip(precisions, layers, used, times):
        recipe = Recipe(model, (), precision)
        needs, floor = sum(in_memory(recipe)), 1000 * count * layer / bandwidth
        findings.append(Finding(recipe, needs, needs <= budget, tuple(count * x for x in ms), floor, kernel))
    dtype = str(compute_dtype(device)).removeprefix("torch.")
    return Diagnosis(
        hardware_module.hardware(device), dtype, torch.get_num_threads(), bandwidth, flops, budget, tuple(findings)
    )


def _block(model: str, precision: str, device: str) -> nn.Module:
    """The first decoder layer's Linears with random weights, in ``precision``."""
    whole = skeleton(model)
    layer, arrival = architecture.layers(whole)[0], Arrival(whole, device)
    arrival.layer(layer)
    if precision != "fp16":
        quantize_layer_(layer, precision, arrival.dtype)
    return layer.block


def _step(block: nn.Module, device: str) -> Callable[[], None]:
    """What one token asks of the Linears of ``block``."""
    linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
    widths = {linear.in_features for linear in linears}
    given = {n: torch.randn(1, 1, n, dtype=compute_dtype(device), device=device) for n in widths}

    @torch.inference_mode()
    def step() -> None:
        for linear in linears:  # query, key and value are given the same tensor, as in the model
            linear(given[linear.in_features])

    if torch.device(device).type == "cuda" and not waits_for_host(block):
        with contextlib.suppress(RuntimeError):  # where a library's kernel refuses a graph, decoding goes without one
            return graphed(step)[0]
    return step


def _in_turns(steps: Sequence[Callable[[], None]], device: str, rounds: int) -> list[list[float]]:
    """Milliseconds of each step, one by one in turns."""
    times: list[list[float]] = [[] for _ in steps]
    for number in range(WARMUP + rounds):
        for step, held in zip(steps, times):
            synchronize(device)
            start = time.perf_counter()
            for _ in range(_STEPS):
                step()
            synchronize(device)
            if number >= WARMUP:
                held.append(1000 * (time.perf_counter() - start) / _STEPS)
    return times


def against_fp16(diagnosis: Diagnosis) -> dict[str, Interval]:
    """By precision: how much faster than FP16 it is, minus 1, with its 95 % interval."""
    dense = diagnosis.findings[0]
    return {f.recipe.precision: faster(dense.ms, f.ms) for f in diagnosis.findings[1:]}


def advice(diagnosis: Diagnosis) -> list[str]:
    """What to take here, and why; a difference inside the noise is none."""
    there = [f for f in diagnosis.findings if f.fits]
    if not there:
        least = min(diagnosis.findings, key=lambda f: f.needs_bytes)
        return [f"Nothing fits: {least.recipe.precision} alone needs {amount(least.needs_bytes)}."]
    speeds, said = against_fp16(diagnosis), []
    fast = min(there, key=lambda f: f.median_ms)
    dense = diagnosis.findings[0]
    if fast is not dense and dense.fits and speeds[fast.recipe.precision].low <= 0:
        fast = dense
    small = min(there, key=lambda f: f.needs_bytes)
    used = ", ".join(filter(None, (BACKENDS[fast.recipe.precision], fast.kernel)))
    said.append(f"For speed: {fast.recipe} ({used}).")
    said.append(f"For memory: {small.recipe}, {amount(small.needs_bytes)}.")
    for found in diagnosis.findings[1:]:
        speed, name = speeds[found.recipe.precision], found.recipe.precision
        if speed.high < 0:
            name += f", {found.kernel}," if found.kernel else ""
            said.append(
                f"{name} saves memory here, not time: its Linears take {1 / (1 + speed.value):.1f} times as long."
            )
    return said


def render(diagnosis: Diagnosis) -> str:
    """The diagnosis as plain text."""
    d = diagnosis
    head = [
        f"device     {d.hardware.name} ({d.hardware.device}, {d.hardware.cores} CPU cores, {d.threads} threads)",
        f"memory     {amount(d.hardware.memory_bytes)}, of which models may take {amount(d.budget_bytes)} now",
        f"bandwidth  {d.bandwidth_bytes_s / 1e9:.1f} GB/s, copying",
        f"arithmetic {d.flops_s / 1e12:.3g} TFLOP/s in {d.dtype}",
    ]
    rows = [("RECIPE", "MEMORY", "FITS", "LINEARS ms/token", "AGAINST FP16 (95 %)", "FLOOR ms/token", "% OF FLOOR")]
    speeds = against_fp16(d)
    for f in d.findings:
        speed = speeds.get(f.recipe.precision)
        told = "1.00x" if speed is None else speed.factor if speed.seen else "no difference seen"
        reached = f"{100 * f.floor_ms / f.median_ms:.0f}"
        fits = "yes" if f.fits else "no"
        row = (str(f.recipe), amount(f.needs_bytes), fits, f"{f.median_ms:.2f}", told, f"{f.floor_ms:.2f}", reached)
        rows.append(row)
    return "\n".join([*head, "", markdown.aligned(rows), "", *advice(d)])
