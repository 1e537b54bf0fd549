"""Linears -> INT8 or INT4 of bitsandbytes or torchao, in place, on the CPU or a GPU."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig
from transformers.quantizers import AutoHfQuantizer

from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.models import architecture
from vlmcomp.recipe import INT8_THRESHOLD, PRECISIONS

BACKENDS = {
    "fp16": "torch",
    "int8": f"bitsandbytes LLM.int8(), outlier threshold {INT8_THRESHOLD:g}",
    "int4": "bitsandbytes NF4, blocks of 64, double quantization",
    "int8-torchao": "torchao INT8 weights alone, symmetric, a scale a row",
    "int4-torchao": f"torchao INT4 weights alone, affine, groups of {torchao_tensors.GROUP}",
}


def hush() -> None:
    """bitsandbytes says on every INT8 call that it casts bfloat16 inputs; once is known."""
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast.*")
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def int8(linear: nn.Linear) -> nn.Linear:
    """``linear`` as bitsandbytes' INT8 Linear, which quantizes on its way from the CPU to a device; what is on a GPU is
    quantized there."""
    import bitsandbytes as bnb

    small = bnb.nn.Linear8bitLt(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        has_fp16_weights=False,
        threshold=INT8_THRESHOLD,
        device="meta",
    )
    dense = linear.weight.detach()
    if dense.is_cuda:
        codes, scale, _ = bnb.functional.int8_vectorwise_quant(dense.half().contiguous())
        settings = {"data": codes, "CB": codes, "SCB": scale}
    else:
        settings = {"data": dense.cpu()}  # ZeroGPU's stand-ins for CUDA tensors too: bitsandbytes takes the CPU's alone
    small.weight = bnb.nn.Int8Params(requires_grad=False, has_fp16_weights=False, **settings)
    return small


def _int4(linear: nn.Linear, dtype: torch.dtype) -> nn.Linear:
    import bitsandbytes as bnb

    small = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    small.weight = bnb.nn.Params4bit(
        linear.weight.detach(), requires_grad=False, compress_statistics=True, quant_type="nf4", module=small
    )
    return small


_MAKERS: dict[str, Callable[[nn.Linear, torch.dtype], nn.Linear]] = {
    "int8": lambda linear, dtype: int8(linear),
    "int4": _int4,
}
_PACKERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "int8-torchao": torchao_tensors.int8,
    "int4-torchao": torchao_tensors.int4,
}


def available() -> list[str]:
    """The precisions whose library is installed."""
    return [p for p in PRECISIONS if torchao_tensors.installed() or p not in _PACKERS]


def require(precision: str) -> None:
    """Raises ``ValueError`` where the library of ``precision`` is not installed."""
    if precision not in available():
        raise ValueError(f"{precision} packs the weights with torchao, which is not installed: pip install torchao")


def config(model: PreTrainedModel, precision: str, dtype: torch.dtype) -> BitsAndBytesConfig | TorchAoConfig:
    """The stock configuration that loads what ``quantize`` makes: the decoder's Linears and nothing else."""
    skip = architecture.of(model).untouched()  # full paths: a bare "vision_tower" would skip nothing
    if precision in _PACKERS:
        return torchao_tensors.config(precision, skip)
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=INT8_THRESHOLD, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skip,
    )


def quantize(layer: architecture.Layer, precision: str, dtype: torch.dtype) -> None:
    """Replace every Linear of a decoder layer by its quantized form, which computes in ``dtype``."""
    hush()
    for name, linear in [(n, m) for n, m in layer.block.named_modules() if isinstance(m, nn.Linear)]:
        if precision in _PACKERS:
            linear.weight = nn.Parameter(_PACKERS[precision](linear.weight.detach()), requires_grad=False)
        else:
            layer.block.set_submodule(name, _bitsandbytes(name, linear, precision, dtype))


def _bitsandbytes(name: str, linear: nn.Linear, precision: str, dtype: torch.dtype) -> nn.Linear:
    device, small = linear.weight.device, _MAKERS[precision](linear, dtype)
    if linear.bias is not None:
        small.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
    linear.weight = None  # the new one alone holds it, and lets it go once it is packed
    small.to(device)  # bitsandbytes quantizes when the weight arrives on its device
    if small.weight.dtype not in (torch.int8, torch.uint8):
        raise RuntimeError(f"bitsandbytes left {name} in {small.weight.dtype} on {device}")
    return small.eval()


@torch.no_grad()
def round_to_int4(layer: architecture.Layer, precision: str = "int4") -> None:
    """Round the Linears of a decoder layer in place to the INT4 values that ``quantize`` stores later.

    For ``walk.Care.finish``: the layers after this one, solved on what it gives then, make up for its
    rounding as well. The weights keep their dtype; packed ones could not be cut or saved any more.
    """
    rounded = (
        _rounded_nf4 if precision == "int4" else lambda weight: torchao_tensors.dense(torchao_tensors.int4(weight))
    )
    for linear in (module for module in layer.block.modules() if isinstance(module, nn.Linear)):
        linear.weight.data = rounded(linear.weight.data).to(linear.weight.dtype).view_as(linear.weight)


def _rounded_nf4(weight: torch.Tensor) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    small, state = quantize_4bit(weight.contiguous(), quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(small, state)


def mark(model: PreTrainedModel, precision: str, dtype: torch.dtype) -> None:
    """Tell transformers that the model is quantized, so that ``save_pretrained`` writes a stock checkpoint."""
    told: Any = model
    settings = config(model, precision, dtype)
    told.config.quantization_config = settings
    told.hf_quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=True)
    told.is_quantized = True
    told.quantization_method = settings.quant_method
    told.is_loaded_in_8bit = precision == "int8"
    told.is_loaded_in_4bit = precision == "int4"


def repacked(model: nn.Module) -> bool:
    """Whether an INT4 model has answered on a CPU with AVX512-BF16.

    The first forward there repacks the weights in place; unpacking them again loses precision, so such a model
    must not be saved.
    """
    return any(getattr(getattr(p, "quant_state", None), "packing_format_for_cpu", False) for p in model.parameters())
