"""Prunes and quantizes a loaded transformers model of a known family in place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from vlmcomp.compression.calibration import CalibrationBatch, TokenWeights, calibration_batches, text_batches
from vlmcomp.compression.calibration_checks import check_calibration
from vlmcomp.compression.layerwise import LayerCallbacks
from vlmcomp.compression.pruning.pruner import PruningMethod, prune_decoder_
from vlmcomp.compression.quantization.quantize import (
    BACKENDS,
    quantize_layer_,
    require_backend,
    set_quantization_config,
)
from vlmcomp.compression.quantization.rounding import gptq_rounding
from vlmcomp.compression.shape_checks import check_shapes, gptq_group_size
from vlmcomp.data.calibration_data import short_digest
from vlmcomp.data.calibration_set import OWN_NAME
from vlmcomp.feedback import ShownProgress, refuse_empty, shown_progress
from vlmcomp.models import architecture, registry
from vlmcomp.models.registry import ModelSpec
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import PRECISIONS, W4A16, PruningStep, Recipe
from vlmcomp.results.schema import PruningResult


def prune_(
    model: PreTrainedModel,
    steps: str,
    calibration_data: Iterable[tuple[Image.Image, str, str]] | torch.Tensor,
    *,
    processor: ProcessorMixin | None = None,
    prompt_of: str | None = None,
    method: PruningMethod | None = None,
    progress: ShownProgress = "terminal",
) -> list[PruningResult]:
    """Remove attention heads and MLP neurons of a loaded model in place, and re-solve what reads them.

    ``save_pretrained`` then writes the narrow model. transformers can load it wherever the family's text config has an
    explicit head width, or no heads were removed. New weights do not require gradients.

    Args:
        model: with its weights on one device, not quantized.
        steps: "glu30", "ffn30", "heads25" or "heads25+glu30": percentages to remove.
        calibration_data: (image, question, answer) samples, or (N, T) token ids of plain text without padding.
        processor: of the model; needed for samples.
        prompt_of: registered model whose prompt format the samples get; by default the model itself if it is
            registered, otherwise the first model of its family on the Hub.
        method: how units are selected and made up for.
        progress: called with a text and the fraction done; None shows nothing. Default: a bar on stderr with the time
            left, if that is a terminal.

    Returns:
        For every step, the widths before and after.

    Raises:
        ValueError: unknown family or decoder, a step that the architecture or its shapes do not allow, a quantized
            model, invalid calibration data, or samples without a processor. No weight has been changed then.

    Example:
        >>> prune_(model, "heads25+glu30", samples, processor=processor)
    """
    _require_transformers_model(model)
    parsed = _parse_steps(model, steps)
    _require_compressible(model)
    check_shapes(model, parsed, "fp16", str(model.device))
    samples = _read_samples(calibration_data)
    batches = _calibration_batches(model, samples, processor, prompt_of)
    method = method or PruningMethod()
    rows = [] if isinstance(samples, torch.Tensor) else samples
    notes = check_calibration(model, rows, batches, method.token_weights)
    if rows:
        notes += [OWN_NAME, short_digest(rows)]
    with shown_progress(progress) as show:
        pruned = prune_decoder_(model, parsed, batches, method, partial(show, f"pruning {steps}"))
    return [replace(result, calibration=", ".join([result.calibration, *notes])) for result in pruned]


def quantize_(
    model: PreTrainedModel,
    precision: str,
    calibration_data: Iterable[tuple[Image.Image, str, str]] | torch.Tensor | None = None,
    *,
    processor: ProcessorMixin | None = None,
    prompt_of: str | None = None,
    progress: ShownProgress = "terminal",
) -> None:
    """Quantize the decoder's Linears of a loaded model in place.

    ``save_pretrained`` then writes a quantized checkpoint that transformers can load.

    Args:
        model: with its weights on one device, not quantized.
        precision: "int8" or "int4" (bitsandbytes), "int8-torchao" or "int4-torchao", "w8a16", or "w4a16", which needs
            calibration data.
        calibration_data: (image, question, answer) samples, or (N, T) token ids of plain text without padding.
        processor: of the model; needed for samples.
        prompt_of: registered model whose prompt format the samples get, as for ``prune_``.
        progress: as for ``prune_``.

    Raises:
        ValueError: unknown family, decoder or precision, a library that is not installed, a width that the precision
            does not support, a quantized model, or calibration data that is missing, not needed or invalid. No weight
            has been changed then.

    Example:
        >>> quantize_(model, "int4")
    """
    _require_transformers_model(model)
    architecture.get_architecture(model)
    if precision not in PRECISIONS[1:]:
        raise ValueError(f"unknown precision '{precision}': use one of {', '.join(PRECISIONS[1:])}")
    require_backend(precision)
    _require_compressible(model)
    check_shapes(model, (), precision, str(model.device))
    if precision == W4A16 and calibration_data is None:
        raise ValueError("w4a16 is rounded by calibration data: give calibration_data")
    if precision != W4A16 and calibration_data is not None:
        raise ValueError(f"{precision} needs no calibration data: leave it out")

    def quantize(layer: architecture.DecoderLayer) -> None:
        quantize_layer_(layer, precision, model.dtype)

    with shown_progress(progress) as show:
        report = partial(show, f"quantizing to {precision}")
        if calibration_data is None:
            layers = architecture.decoder_layers(model)
            for number, layer in enumerate(layers, 1):
                quantize(layer)
                report(number / len(layers))
        else:
            samples = _read_samples(calibration_data)
            batches = _calibration_batches(model, samples, processor, prompt_of)
            check_calibration(model, [] if isinstance(samples, torch.Tensor) else samples, batches, TokenWeights())
            callbacks = LayerCallbacks(on_exit=quantize)
            prune_decoder_(model, (), batches, None, report, callbacks, gptq_rounding(gptq_group_size(model, ())))
    set_quantization_config(model, precision, model.dtype)


def _require_transformers_model(model: object) -> None:
    if not isinstance(model, PreTrainedModel):
        hint = ": give its vlm.model" if hasattr(model, "vlm") else ""
        raise ValueError(f"the model must be a transformers model, not {type(model).__name__}{hint}")


def _parse_steps(model: PreTrainedModel, text: str) -> tuple[PruningStep, ...]:
    names = architecture.get_architecture(model)
    if not isinstance(text, str):
        raise ValueError(f"steps must be a text such as 'heads25+glu30', not {type(text).__name__}")
    steps = tuple(PruningStep.parse(word) for word in text.split("+"))
    Recipe("model", steps)  # checks their order
    mlp = "glu" if names.has_gated_mlp else "ffn"
    for step in steps:
        if step.target == "vis":
            raise ValueError(f"{step} also shortens prompts, which a model alone cannot: use vlmcomp.compress")
        if step.target in ("glu", "ffn") and step.target != mlp:
            reason = "is gated" if names.has_gated_mlp else "has no gate"
            raise ValueError(
                f"{step} does not fit the family '{model.config.model_type}', whose MLP {reason}: "
                f"use {mlp}{step.percent}"
            )
    return steps


def _require_compressible(model: PreTrainedModel) -> None:
    if reason := architecture.unsupported_reason(model):
        raise ValueError(f"this {type(model).__name__} cannot be compressed: {reason}")
    if getattr(model, "is_quantized", False):
        raise ValueError("the model is already quantized: prune it first, and quantize it once")


def _read_samples(
    calibration_data: Iterable[tuple[Image.Image, str, str]] | torch.Tensor,
) -> list[tuple[Image.Image, str, str]] | torch.Tensor:
    """Samples as a list, and token ids as they are; raises ``ValueError`` if they are neither."""
    if isinstance(calibration_data, torch.Tensor):
        return calibration_data
    if isinstance(calibration_data, str | bytes | dict) or not isinstance(calibration_data, Iterable):
        kind = type(calibration_data).__name__
        raise ValueError(f"calibration_data must be (image, question, answer) samples or token ids, not {kind}")
    return list(calibration_data)


def _calibration_batches(
    model: PreTrainedModel,
    calibration_data: Iterable[tuple[Image.Image, str, str]] | torch.Tensor,
    processor: ProcessorMixin | None,
    prompt_of: str | None,
) -> list[CalibrationBatch]:
    refuse_empty(prompt_of=prompt_of)
    if isinstance(calibration_data, torch.Tensor):
        return text_batches(model, calibration_data)
    if processor is None:
        raise ValueError("samples of image, question and answer need the model's processor: give processor=...")
    spec = registry.get_model_spec(prompt_of) if prompt_of else _find_spec(model)
    vlm = VLM(
        model=model,
        processor=processor,
        recipe=Recipe(spec.name),
        spec=spec,
        storage_dtype=str(model.dtype).removeprefix("torch."),
        compute_dtype=str(model.dtype).removeprefix("torch."),
        quantization_backend=BACKENDS["fp16"],
    )
    return calibration_batches(vlm, calibration_data)


def _find_spec(model: PreTrainedModel) -> ModelSpec:
    """The registered model with the prompt format of ``model``."""
    family = [spec for spec in registry.MODELS.values() if spec.family == model.config.model_type]
    if not family:
        raise ValueError(
            f"the family '{model.config.model_type}' takes no images: give token ids (N, T) as calibration data"
        )
    same = [spec for spec in family if spec.name_or_path == model.name_or_path]
    on_hub = [spec for spec in family if not spec.bundled]
    return [*same, *on_hub, *family][0]
