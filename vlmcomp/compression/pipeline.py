"""Recipe -> VLM: load, leave image tokens out, remove heads and MLP neurons, quantize. The only place that knows the
order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from PIL import Image

from vlmcomp.compression.calibration import sequences
from vlmcomp.compression.layerwise import Care
from vlmcomp.compression.pruning.pruner import Method, prune
from vlmcomp.compression.quantization.quantize import (
    BACKENDS,
    fake_quantize_int4_,
    quantize_layer_,
    require_backend,
    set_quantization_config,
)
from vlmcomp.compression.shape_checks import refuse
from vlmcomp.compression.visual_tokens import pruner as token_pruner
from vlmcomp.data.calibration_data import calibration_samples
from vlmcomp.feedback import Progress
from vlmcomp.hardware import default_device
from vlmcomp.models import architecture, registry
from vlmcomp.models.dtypes import round_to_float16
from vlmcomp.models.loading import Arrival, Dense, load
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe, bits, precision_title


def _care(arrival: Arrival, precision: str) -> Care:
    """A layer arrives dense, is rounded to what will be stored, and is packed once nothing asks it any more.

    Least squares makes up for rounding to INT4 in the layers after it; INT8 rounds too little for that.
    """

    def finish(layer: architecture.Layer) -> None:
        round_to_float16(layer.block)
        if bits(precision) == "int4":
            fake_quantize_int4_(layer, precision)

    def leave(layer: architecture.Layer) -> None:
        if precision != "fp16":
            quantize_layer_(layer, precision, arrival.dtype)

    return Care(arrival.layer, finish, leave)


def _within(say: Progress, text: str, start: float, part: float) -> Callable[[float], None]:
    """Progress of one stage, as progress of the whole."""
    return lambda share: say(text, start + part * share)


def build(
    recipe: Recipe,
    *,
    device: str | None = None,
    source: str | None = None,
    dense: Dense | None = None,
    calibration: Iterable[tuple[Image.Image, str, str]] | None = None,
    method: Method | None = None,
    progress: Progress | None = None,
) -> VLM:
    """Make ``recipe`` in memory: load, prune in the order written, quantize; layer by layer, so that no more than one
    dense layer is on the device beside the result.

    Args:
        device: "cuda", "cpu", ...; a GPU if there is one.
        source: folder or Hub id to load the dense weights from instead of the zoo's.
        dense: the dense model instead of one that is loaded; it is used up.
        calibration: (image, question, answer) samples to prune by; scenes of shapes if none are given.
        method: how units are chosen and made up for.
        progress: called with a text and the share done.

    Raises:
        ValueError: unknown model, a step its anatomy cannot do, a library that is not installed, weights that cannot be
            had, or calibration samples of another shape.
    """
    require_backend(recipe.precision)
    say = progress or (lambda text, share: None)
    entry, device, start = registry.check(recipe), device or default_device(), time.perf_counter()
    dense = dense or load(entry, source, say)
    model, precision = dense.model, recipe.precision
    refuse(model, recipe, device)
    arrival = Arrival(model, device, entry)
    arrival.rest()
    dtype = str(arrival.dtype).removeprefix("torch.")
    half = "bfloat16" if arrival.dtype == torch.bfloat16 else "float16"
    stored = half if precision == "fp16" else f"{precision} decoder, rest {half}"
    vlm = VLM(model, dense.processor, recipe, entry, stored, dtype, BACKENDS[precision], revision=dense.revision)
    if recipe.unseen:
        token_pruner.attach(model, recipe.unseen)
    care = _care(arrival, precision)
    work = [f"pruning {step}" for step in recipe.steps]
    work += [f"quantizing to {precision_title(precision)}"] * (precision != "fp16")
    told = _within(say, " and ".join(work) or "reading the weights", 0.1, 0.9)
    if recipe.steps:
        say("calibrating", 0.1)
        samples = calibration_samples(entry.calibration) if calibration is None else calibration
        vlm.pruned = prune(model, recipe.steps, sequences(vlm, samples), method, told, care)
    else:
        for index, layer in enumerate(layers := architecture.layers(model)):
            care.arrive(layer)
            care.leave(layer)
            told((index + 1) / len(layers))
    if precision != "fp16":
        set_quantization_config(model, precision, arrival.dtype)
    vlm.build_seconds = time.perf_counter() - start
    say("ready", 1.0)
    return vlm
