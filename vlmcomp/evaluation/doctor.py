"""Speed of each precision on this device, measured on one decoder layer of a model at its true widths.

Only the Linears of the layer are timed, since a precision changes nothing else. Their weights are random, which does
not affect speed, so nothing is downloaded; their kernels are those of a model of that precision. The cost of attention
scores, norms, lm_head and kernel launches is not included: reports of whole models contain it.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from vlmcomp.compression.quantization.quantize import BACKENDS, available_precisions, quantize_layer_
from vlmcomp.compression.size_estimate import estimate_memory, meta_model
from vlmcomp.evaluation.roofline import measure_bandwidth, measure_flops
from vlmcomp.evaluation.steady_timing import SESSIONS, is_steady, speedups, time_sessions
from vlmcomp.feedback import Progress, format_bytes, format_count
from vlmcomp.hardware import get_hardware, memory_budget, usable_device
from vlmcomp.models import architecture, registry
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.models.loading import SequentialLoader
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import markdown
from vlmcomp.reporting.statistics import Interval, speedup_interval
from vlmcomp.results.schema import Hardware
from vlmcomp.runtime.autotune import time_in_turns
from vlmcomp.runtime.device import capture_cuda_graph, has_host_sync
from vlmcomp.runtime.linear import dispatch
from vlmcomp.runtime.weight_sharing import storage_bytes

ROUNDS = 5  # timed rounds of a session, after
WARMUP = 3  # untimed ones
_BUSY = 0.1  # share of the processors that is worth a word
_TOKENS_PER_ROUND = 4  # one token of a small layer is near the resolution of the clock


@dataclass(frozen=True)
class PrecisionProfile:
    """Memory and speed of one precision of the model on this device.

    Attributes:
        recipe: the model in that precision, not pruned.
        required_bytes: of the weights in memory.
        fits: whether these are within the memory budget.
        ms_per_token: of the decoder's Linears, one value a round; the precisions are timed in turns.
        roofline_ms: of reading the same weights once at the measured bandwidth.
        kernel: what multiplies them, where several kernels are available.
        speedups: over FP16, one value a session; empty for FP16 itself.
    """

    recipe: Recipe
    required_bytes: int
    fits: bool
    ms_per_token: tuple[float, ...]
    roofline_ms: float
    kernel: str = ""
    speedups: tuple[float, ...] = ()

    @property
    def median_ms(self) -> float:
        return statistics.median(self.ms_per_token)

    @property
    def is_steady(self) -> bool:
        """Whether the sessions agree about the speed against FP16."""
        return is_steady(self.speedups)


@dataclass(frozen=True)
class DeviceProfile:
    """Limits of this device, and what each precision of a model achieves on it; FP16 comes first.

    ``busy_share`` is the share of all processors that other programs took while the precisions were timed.
    """

    hardware: Hardware
    dtype: str
    threads: int
    bandwidth_bytes_s: float
    flops_s: float
    budget_bytes: int
    precisions: tuple[PrecisionProfile, ...]
    busy_share: float = 0.0


def profile_device(
    model: str,
    rounds: int | None = None,
    progress: Progress = lambda text, fraction: None,
    device: str | None = None,
) -> DeviceProfile:
    """Measure a device for ``model``; needs the memory of a decoder layer in each precision.

    Args:
        model: a name of the registry.
        rounds: timed rounds of each session; ``ROUNDS`` by default.
        progress: called with what is being done and the fraction done.
        device: a GPU if there is one, by default.

    Raises:
        ValueError: an unknown model or device.
    """
    registry.get_model_spec(model)
    device = usable_device(device)
    progress("measuring memory and arithmetic", 0.0)
    bandwidth = measure_bandwidth(device)
    flops = measure_flops(device)
    budget = memory_budget(device)
    precisions, busy_share = _profile_precisions(model, device, rounds or ROUNDS, bandwidth, budget, progress)
    return DeviceProfile(
        hardware=get_hardware(device),
        dtype=str(compute_dtype(device)).removeprefix("torch."),
        threads=torch.get_num_threads(),
        bandwidth_bytes_s=bandwidth,
        flops_s=flops,
        budget_bytes=budget,
        precisions=precisions,
        busy_share=busy_share,
    )


def _profile_precisions(
    model: str, device: str, rounds: int, bandwidth: float, budget: int, progress: Progress
) -> tuple[tuple[PrecisionProfile, ...], float]:
    """Every precision, and the share of the processors that other programs took."""
    num_layers = len(architecture.decoder_layers(meta_model(model)))
    precisions = [p for p in available_precisions() if dispatch.supports_precision(p, torch.device(device))]
    layers = {}
    for i, precision in enumerate(precisions):
        progress(f"preparing a decoder layer of {model} in {precision}", 0.2 + 0.4 * i / len(precisions))
        layers[precision] = _decoder_linears(model, precision, device)
    layer_bytes = {precision: sum(storage_bytes(layer).values()) for precision, layer in layers.items()}
    progress("choosing kernels", 0.6)
    kernels = {p: dispatch.optimize_linears_(layer, p, torch.device(device)) for p, layer in layers.items()}
    steps = {precision: _decode_step(layer, device) for precision, layer in layers.items()}
    progress(f"timing them in turns, {format_count(SESSIONS, 'session')}, more if they disagree", 0.7)
    sessions, busy_share = time_sessions(lambda: _time_tokens(steps, device, rounds), precisions[0])
    profiles = []
    for precision in precisions:
        recipe = Recipe(model, (), precision)
        required_bytes = sum(estimate_memory(recipe))
        profile = PrecisionProfile(
            recipe=recipe,
            required_bytes=required_bytes,
            fits=required_bytes <= budget,
            ms_per_token=tuple(num_layers * ms for times in sessions for ms in times[precision]),
            roofline_ms=1000 * num_layers * layer_bytes[precision] / bandwidth,
            kernel=kernels[precision],
            speedups=() if precision == "fp16" else tuple(speedups(sessions, precision, "fp16")),
        )
        profiles.append(profile)
    return tuple(profiles), busy_share


def _decoder_linears(model: str, precision: str, device: str) -> nn.Module:
    """The Linears of the first decoder layer with random weights, in ``precision``."""
    whole = meta_model(model)
    layer = architecture.decoder_layers(whole)[0]
    loader = SequentialLoader(whole, device)
    loader.load_layer(layer)
    if precision != "fp16":
        quantize_layer_(layer, precision, loader.dtype)
    return layer.block


def _decode_step(block: nn.Module, device: str) -> Callable[[], None]:
    """A call that runs the Linears of ``block`` on one token, as a CUDA graph where decoding uses one."""
    linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
    widths = {linear.in_features for linear in linears}
    inputs = {n: torch.randn(1, 1, n, dtype=compute_dtype(device), device=device) for n in widths}

    @torch.inference_mode()
    def step() -> None:
        for linear in linears:  # query, key and value receive the same tensor, as in the model
            linear(inputs[linear.in_features])

    if torch.device(device).type == "cuda" and not has_host_sync(block):
        with contextlib.suppress(RuntimeError):  # a kernel that cannot be captured is launched without a graph
            return capture_cuda_graph(step)[0]
    return step


def _time_tokens(steps: dict[str, Callable[[], None]], device: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds per token of each step, round by round and in turns, without the warm-up rounds."""

    def repeat(step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(_TOKENS_PER_ROUND):
                step()

        return run

    times = time_in_turns({name: repeat(step) for name, step in steps.items()}, WARMUP + rounds, device)
    return {name: [ms / _TOKENS_PER_ROUND for ms in values[WARMUP:]] for name, values in times.items()}


def speedup_over_fp16(profile: DeviceProfile) -> dict[str, Interval]:
    """By precision: its speed over that of FP16, minus 1, with a 95 % interval."""
    fp16, *others = profile.precisions
    return {p.recipe.precision: speedup_interval(fp16.ms_per_token, p.ms_per_token) for p in others}


def recommendations(profile: DeviceProfile) -> list[str]:
    """Sentences about the best precisions for speed and for memory; insignificant differences do not count."""
    fitting = [p for p in profile.precisions if p.fits]
    unsteady = [p for p in profile.precisions if not p.is_steady]
    if not fitting:
        smallest = min(profile.precisions, key=lambda p: p.required_bytes)
        return [f"Nothing fits: {smallest.recipe.precision} alone needs {format_bytes(smallest.required_bytes)}."]
    intervals = speedup_over_fp16(profile)
    fp16 = profile.precisions[0]
    fastest = min([p for p in fitting if p.is_steady] or fitting, key=lambda p: p.median_ms)
    if fastest is not fp16 and fp16.fits and intervals[fastest.recipe.precision].low <= 0:
        fastest = fp16
    smallest = min(fitting, key=lambda p: p.required_bytes)
    backend = ", ".join(filter(None, (BACKENDS[fastest.recipe.precision], fastest.kernel)))
    lines = [
        f"For speed: {fastest.recipe} ({backend}).",
        f"For memory: {smallest.recipe}, {format_bytes(smallest.required_bytes)}.",
    ]
    if unsteady:
        lines.insert(0, _unsteady_sentence(unsteady, profile.busy_share))
    for p in profile.precisions[1:]:
        speedup = intervals[p.recipe.precision]
        if speedup.high < 0 and p.is_steady:
            name = p.recipe.precision + (f", {p.kernel}," if p.kernel else "")
            slowdown = 1 / (1 + speedup.value)
            lines.append(f"{name} saves memory here, not time: its Linears take {slowdown:.1f} times as long.")
    return lines


def _unsteady_sentence(unsteady: list[PrecisionProfile], busy_share: float) -> str:
    names = ", ".join(p.recipe.precision for p in unsteady)
    others = f": other programs took {busy_share:.0%} of the processors" if busy_share >= _BUSY else ""
    return (
        f"Unsteady: the speed of {names} changes from session to session{others}. Run doctor again on an idle machine."
    )


def to_text(profile: DeviceProfile) -> str:
    """The profile as plain text: the device, a table of the precisions, and recommendations."""
    hardware = profile.hardware
    memory = format_bytes(hardware.memory_bytes)
    processors = f"{format_count(hardware.cores, 'CPU core')}, {format_count(profile.threads, 'thread')}"
    device = [
        f"device     {hardware.name} ({hardware.device}, {processors})",
        f"memory     {memory}, of which models may take {format_bytes(profile.budget_bytes)} now",
        f"bandwidth  {profile.bandwidth_bytes_s / 1e9:.1f} GB/s, copying",
        f"arithmetic {profile.flops_s / 1e12:.3g} TFLOP/s in {profile.dtype}",
    ]
    columns = ("RECIPE", "MEMORY", "FITS", "LINEARS ms/token", "AGAINST FP16 (95 %)", "FLOOR ms/token", "% OF FLOOR")
    intervals = speedup_over_fp16(profile)
    rows = [_row(p, intervals.get(p.recipe.precision)) for p in profile.precisions]
    return "\n".join([*device, "", markdown.text_table([columns, *rows]), "", *recommendations(profile)])


def _row(p: PrecisionProfile, speedup: Interval | None) -> tuple[str, ...]:
    if speedup is None:
        factor = "1.00x"
    elif not p.is_steady:
        factor = f"unsteady, {min(p.speedups):.2f}x to {max(p.speedups):.2f}x"
    else:
        factor = speedup.speedup_text if speedup.significant else "no difference seen"
    return (
        str(p.recipe),
        format_bytes(p.required_bytes),
        "yes" if p.fits else "no",
        f"{p.median_ms:.2f}",
        factor,
        f"{p.roofline_ms:.2f}",
        f"{100 * p.roofline_ms / p.median_ms:.0f}",
    )
