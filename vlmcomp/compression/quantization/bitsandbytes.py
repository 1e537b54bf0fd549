"""bitsandbytes' INT8 (LLM.int8()) and NF4 Linears."""

from __future__ import annotations

import logging
import warnings

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from vlmcomp.recipe import LLM_INT8_THRESHOLD


def silence_bitsandbytes() -> None:
    """Silence the warning of every INT8 call that bfloat16 inputs are cast to float16."""
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast.*")
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def to_bnb_int8(linear: nn.Linear) -> nn.Linear:
    """``linear`` as bitsandbytes' INT8 Linear, without the bias.

    A weight on a GPU is quantized here; any other is quantized when it moves from the CPU to a device.
    """
    import bitsandbytes as bnb

    quantized = bnb.nn.Linear8bitLt(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        has_fp16_weights=False,
        threshold=LLM_INT8_THRESHOLD,
        device="meta",
    )
    dense = linear.weight.detach()
    if dense.is_cuda:
        qweight, scale, _ = bnb.functional.int8_vectorwise_quant(dense.half().contiguous())
        settings = {"data": qweight, "CB": qweight, "SCB": scale}
    else:
        settings = {"data": dense.cpu()}  # ZeroGPU's emulated CUDA tensors too: Int8Params requires a CPU tensor
    quantized.weight = bnb.nn.Int8Params(requires_grad=False, has_fp16_weights=False, **settings)
    return quantized


def _to_nf4(linear: nn.Linear, dtype: torch.dtype) -> nn.Linear:
    import bitsandbytes as bnb

    quantized = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    quantized.weight = bnb.nn.Params4bit(
        linear.weight.detach(), requires_grad=False, compress_statistics=True, quant_type="nf4", module=quantized
    )
    return quantized


def quantize_linear(name: str, linear: nn.Linear, precision: str, dtype: torch.dtype) -> nn.Linear:
    """The quantized replacement of ``linear``, which loses its weight.

    Args:
        name: module path, for the error message.
        linear: on the device where the replacement belongs.
        precision: "int8" or "int4".
        dtype: compute dtype of NF4.

    Raises:
        RuntimeError: bitsandbytes did not quantize on this device.
    """
    device = linear.weight.device
    quantized = to_bnb_int8(linear) if precision == "int8" else _to_nf4(linear, dtype)
    if linear.bias is not None:
        quantized.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
    linear.register_parameter(
        "weight", None
    )  # the replacement holds the only reference and frees the dense weight once it is quantized
    quantized.to(device)  # bitsandbytes quantizes when the weight arrives on its device
    if quantized.weight.dtype not in (torch.int8, torch.uint8):
        raise RuntimeError(f"bitsandbytes left {name} in {quantized.weight.dtype} on {device}")
    return quantized.eval()


def fake_quantize_nf4(weight: torch.Tensor) -> torch.Tensor:
    """The values that NF4 with double quantization stores of ``weight``, in its dtype."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight.contiguous(), quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(packed, state)


def quantization_config(precision: str, skipped_modules: list[str], dtype: torch.dtype) -> BitsAndBytesConfig:
    """The transformers configuration that loads what ``quantize_linear`` makes.

    Args:
        precision: "int8" or "int4".
        skipped_modules: full paths of the modules that stay in 16 bits.
        dtype: compute dtype of NF4.
    """
    if precision == "int8":
        return BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=LLM_INT8_THRESHOLD, llm_int8_skip_modules=skipped_modules
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped_modules,
    )


def is_cpu_repacked(model: nn.Module) -> bool:
    """Whether an INT4 model has run on a CPU with AVX512-BF16.

    The first forward pass there repacks the weights in place; unpacking them loses precision, so such a model must not
    be saved.
    """
    return any(getattr(getattr(p, "quant_state", None), "packing_format_for_cpu", False) for p in model.parameters())
