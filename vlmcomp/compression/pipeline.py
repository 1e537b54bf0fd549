"""Recipe -> VLM: load, remove image tokens, heads and MLP neurons, quantize. The only module that knows the order."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from vlmcomp.compression.calibration import calibration_batches, summarize
from vlmcomp.compression.calibration_checks import check_calibration
from vlmcomp.compression.calibration_choice import CalibrationData, choose_calibration
from vlmcomp.compression.layerwise import LayerCallbacks
from vlmcomp.compression.pruning.pruner import PruningMethod, prune_decoder_
from vlmcomp.compression.quantization.quantize import (
    BACKENDS,
    fake_quantize_int4_,
    quantize_layer_,
    require_backend,
    set_quantization_config,
)
from vlmcomp.compression.quantization.rounding import gptq_rounding
from vlmcomp.compression.shape_checks import check_shapes, gptq_group_size
from vlmcomp.compression.visual_tokens.pruner import attach_
from vlmcomp.data.calibration_set import CalibrationSet
from vlmcomp.feedback import Progress
from vlmcomp.hardware import usable_device
from vlmcomp.models import architecture, registry
from vlmcomp.models.dtypes import round_to_float16
from vlmcomp.models.loading import DenseModel, SequentialLoader, load
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import W4A16, Recipe, base_precision, precision_title


def compress(
    recipe: Recipe,
    *,
    device: str | None = None,
    source: str | None = None,
    prompt_template: str | None = None,
    dense: DenseModel | None = None,
    calibration_data: CalibrationData | None = None,
    method: PruningMethod | None = None,
    progress: Progress | None = None,
) -> VLM:
    """Build ``recipe`` in memory, layer by layer: the device holds one dense layer at a time beside the result.

    Args:
        recipe: its steps are applied in the order written, quantization last.
        device: "cuda", "cpu", ...; a GPU if there is one, by default.
        source: folder or Hub id of the dense weights; the registry's by default.
        prompt_template: prompt that the dense weights were trained with; the registry's by default.
        dense: replaces loading; its model is modified.
        calibration_data: what to prune and round by, as for ``choose_calibration``.
        method: how pruned units are selected and made up for.
        progress: called with a text and the fraction done.

    Raises:
        ValueError: unknown model or device, a step that its architecture does not allow, a library that is not
            installed, weights that cannot be loaded, or invalid calibration samples.
    """
    device = usable_device(device)
    require_backend(recipe.precision)
    report = progress or _no_progress
    spec = registry.with_prompt_template(registry.validate_recipe(recipe), prompt_template)
    start = time.perf_counter()
    calibration = None
    if recipe.needs_calibration:  # read before any weight is loaded
        calibration = choose_calibration(recipe, calibration_data, progress=report)
    dense = dense or load(spec, source, report)
    check_shapes(dense.model, recipe.steps, recipe.precision, device)
    loader = SequentialLoader(dense.model, device, spec, float16_decoder=recipe.precision == "int8")
    loader.load_non_decoder()
    vlm = _uncompressed_vlm(dense, recipe, spec, loader.dtype)
    vlm.source = Path(source).name if source and Path(source).is_dir() else source
    if calibration is not None:
        _prune(vlm, loader, calibration, method, report)
    else:
        _load_and_quantize_layers(vlm, loader, report)
    if recipe.precision != "fp16":
        set_quantization_config(vlm.model, recipe.precision, loader.dtype)
    vlm.build_seconds = time.perf_counter() - start
    report("ready", 1.0)
    return vlm


def _no_progress(text: str, fraction: float) -> None:
    pass


def _uncompressed_vlm(dense: DenseModel, recipe: Recipe, spec: registry.ModelSpec, dtype: torch.dtype) -> VLM:
    """The dense model as a VLM that already carries the facts of ``recipe``."""
    half = "bfloat16" if dtype == torch.bfloat16 else "float16"
    return VLM(
        model=dense.model,
        processor=dense.processor,
        recipe=recipe,
        spec=spec,
        storage_dtype=half if recipe.precision == "fp16" else f"{recipe.precision} decoder, rest {half}",
        compute_dtype=str(dtype).removeprefix("torch."),
        quantization_backend=BACKENDS[recipe.precision],
        revision=dense.revision,
    )


def _prune(
    vlm: VLM,
    loader: SequentialLoader,
    calibration: CalibrationSet,
    method: PruningMethod | None,
    report: Progress,
) -> None:
    """Prune and round the model of ``vlm`` as its recipe says, quantize it layer by layer, and record what was done."""
    if vlm.recipe.visual_tokens_pruned:
        attach_(vlm.model, vlm.recipe.visual_tokens_pruned)
    report("calibrating", 0.1)
    batches = calibration_batches(vlm, calibration.samples, weights=calibration.weights)
    method = method or PruningMethod()
    note = "".join(
        f", {part}" for part in check_calibration(vlm.model, calibration.samples, batches, method.token_weights)
    )
    callbacks = _layer_callbacks(loader, vlm.recipe.precision)
    progress = _layer_progress(report, vlm.recipe)
    group_size = gptq_group_size(vlm.model, vlm.recipe.steps) if vlm.recipe.precision == W4A16 else None
    rounding = gptq_rounding(group_size) if group_size else None
    pruned = prune_decoder_(vlm.model, vlm.recipe.steps, batches, method, progress, callbacks, rounding)
    note += f", {calibration.description}"
    vlm.pruned = [replace(result, calibration=f"{result.calibration}{note}") for result in pruned]
    if group_size:
        vlm.quantization_backend += f", groups of {group_size}, calibrated on {summarize(batches)}{note}"


def _load_and_quantize_layers(vlm: VLM, loader: SequentialLoader, report: Progress) -> None:
    """What a recipe without calibration needs of ``run_layerwise``."""
    callbacks = _layer_callbacks(loader, vlm.recipe.precision)
    report_layers = _layer_progress(report, vlm.recipe)
    layers = architecture.decoder_layers(vlm.model)
    for index, layer in enumerate(layers):
        callbacks.on_enter(layer)
        callbacks.on_exit(layer)
        report_layers((index + 1) / len(layers))


def _layer_callbacks(loader: SequentialLoader, precision: str) -> LayerCallbacks:
    """Load a layer before it runs, round it to what will be stored, and quantize it after it has run.

    Least squares in later layers makes up for rounding to INT4; INT8 rounds too little for that. W4A16 has been rounded
    by the edits.
    """

    def after_edits(layer: architecture.DecoderLayer) -> None:
        round_to_float16(layer.block)
        if base_precision(precision) == "int4" and precision != W4A16:
            fake_quantize_int4_(layer, precision)

    def on_exit(layer: architecture.DecoderLayer) -> None:
        if precision != "fp16":
            quantize_layer_(layer, precision, loader.dtype)

    return LayerCallbacks(loader.load_layer, after_edits, on_exit)


def _layer_progress(report: Progress, recipe: Recipe) -> Callable[[float], None]:
    """Progress over the layers, reported as the last 90 % of the whole."""
    work = [f"pruning {step}" for step in recipe.steps]
    if recipe.precision != "fp16":
        work.append(f"quantizing to {precision_title(recipe.precision)}")
    text = " and ".join(work) or "reading the weights"
    return lambda fraction: report(text, 0.1 + 0.9 * fraction)
