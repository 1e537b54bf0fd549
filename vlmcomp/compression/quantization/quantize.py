"""Linears -> INT8 or INT4 of bitsandbytes or torchao, in place, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig
from transformers.quantizers import AutoHfQuantizer

from vlmcomp.compression.quantization import bitsandbytes as bnb_linears
from vlmcomp.compression.quantization import pack_quantized, rounding
from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.models import architecture
from vlmcomp.recipe import LLM_INT8_THRESHOLD, PRECISIONS, W4A16, W8A16

BACKENDS = {
    "fp16": "torch",
    "int8": f"bitsandbytes LLM.int8(), outlier threshold {LLM_INT8_THRESHOLD:g}",
    "int4": "bitsandbytes NF4, blocks of 64, double quantization",
    "int8-torchao": "torchao INT8 weights alone, symmetric, a scale a row",
    "int4-torchao": f"torchao INT4 weights alone, affine, groups of {torchao_tensors.GROUP_SIZE}",
    W8A16: "INT8 weights alone, symmetric, a scale a row, stored as compressed-tensors",
    W4A16: "INT4 weights alone, symmetric, rounded by GPTQ, stored as compressed-tensors",
}
_TORCHAO_PACKERS: dict[str, Callable[[nn.Linear], torch.Tensor]] = {  # by precision: of its weight
    "int8-torchao": lambda linear: torchao_tensors.to_int8(linear.weight.detach()),
    "int4-torchao": lambda linear: torchao_tensors.to_int4(linear.weight.detach()),
    W8A16: lambda linear: pack_quantized.to_int8(linear.weight.detach()),
    W4A16: lambda linear: pack_quantized.to_int4(rounding.rounded_weight(linear)),
}


def available_precisions() -> list[str]:
    """The precisions whose library is installed."""
    return [p for p in PRECISIONS if torchao_tensors.is_installed() or p not in _TORCHAO_PACKERS]


def require_backend(precision: str) -> None:
    """Check that the library of ``precision`` is installed.

    Raises:
        ValueError: it is not.
    """
    if precision not in available_precisions():
        raise ValueError(f"{precision} packs the weights with torchao, which is not installed: pip install torchao")


def quantization_config(
    model: PreTrainedModel, precision: str, dtype: torch.dtype
) -> BitsAndBytesConfig | TorchAoConfig:
    """The transformers configuration that loads a model whose decoder Linears alone are quantized."""
    skipped = architecture.get_architecture(
        model
    ).skipped_modules()  # full paths: a bare "vision_tower" would skip nothing
    if precision in _TORCHAO_PACKERS:
        return torchao_tensors.quantization_config(precision, skipped)
    return bnb_linears.quantization_config(precision, skipped, dtype)


def quantize_layer_(layer: architecture.DecoderLayer, precision: str, dtype: torch.dtype) -> None:
    """Replace every Linear of a decoder layer by its quantized form.

    Args:
        layer: on the device where it is to run.
        precision: any but "fp16".
        dtype: compute dtype.
    """
    bnb_linears.silence_bitsandbytes()
    linears = [(name, module) for name, module in layer.block.named_modules() if isinstance(module, nn.Linear)]
    for name, linear in linears:
        layer.block.set_submodule(name, quantize_linear(name, linear, precision, dtype))


def quantize_linear(name: str, linear: nn.Linear, precision: str, dtype: torch.dtype) -> nn.Linear:
    """The quantized form of ``linear``, which must not be used any more.

    Args:
        name: module path, for error messages.
        linear: on the device where it is to run.
        precision: any but "fp16".
        dtype: compute dtype.
    """
    if precision not in _TORCHAO_PACKERS:
        return bnb_linears.quantize_linear(name, linear, precision, dtype)
    packed = _TORCHAO_PACKERS[precision](linear)
    linear.weight = nn.Parameter(packed, requires_grad=False)
    return linear


@torch.no_grad()
def fake_quantize_int4_(layer: architecture.DecoderLayer, precision: str = "int4") -> None:
    """Round the Linears of a decoder layer in place to the INT4 values that ``quantize_layer_`` stores later.

    For ``LayerCallbacks.after_edits``: later layers, solved on the outputs of the rounded one, make up for the rounding
    as well. The weights keep their dtype, since packed weights could not be sliced or saved.
    """
    round_weight = bnb_linears.fake_quantize_nf4 if precision == "int4" else _fake_quantize_torchao
    for linear in (module for module in layer.block.modules() if isinstance(module, nn.Linear)):
        linear.weight.data = round_weight(linear.weight.data).to(linear.weight.dtype).view_as(linear.weight)


def _fake_quantize_torchao(weight: torch.Tensor) -> torch.Tensor:
    return torchao_tensors.dequantize(torchao_tensors.to_int4(weight))


def set_quantization_config(model: PreTrainedModel, precision: str, dtype: torch.dtype) -> None:
    """Mark ``model`` as quantized for transformers, so that ``save_pretrained`` writes a checkpoint it can load."""
    quantized: Any = model
    config: Any
    if precision in pack_quantized.PRECISIONS:
        config = pack_quantized.quantization_config(model)
        quantized.hf_quantizer = pack_quantized.PackQuantizer(config)
    else:
        config = quantization_config(model, precision, dtype)
        quantized.hf_quantizer = AutoHfQuantizer.from_config(config, pre_quantized=True)
    quantized.config.quantization_config = config
    quantized.is_quantized = True
    quantized.quantization_method = config.quant_method
    quantized.is_loaded_in_8bit = precision == "int8"
    quantized.is_loaded_in_4bit = precision == "int4"
