"""Private operations of PyTorch and torchao that this package calls: no release has to keep them.

Each has a contract test in tests/runtime/test_private_ops.py. Last tried with PyTorch 2.13.0 and torchao 0.18.0;
requirements.txt bounds the versions of both. Not listed are ``torch.fx.experimental`` (tracing, in runtime) and
``_attn_implementation`` of transformers' configs (runtime.attention), which have no public counterpart.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

_INT4_RANGE = {"quant_min": 0, "quant_max": 15}


def cpu_supports(feature: str) -> bool:
    """Whether this CPU has an instruction set extension, such as ``avx512_vnni`` or ``amx_tile``; False if unknown."""
    check = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return check is not None and bool(check())


def onednn_pack(weight: torch.Tensor) -> torch.Tensor:
    """A dense weight (out, in) in oneDNN's layout: an opaque tensor without storage, whose ``to_dense`` is exact.

    Raises:
        RuntimeError: oneDNN does not multiply this dtype on this CPU.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def onednn_linear(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x`` (..., in) times a packed dense weight: (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def onednn_pack_int8(qweight: torch.Tensor) -> torch.Tensor:
    """An INT8 weight (out, in) in oneDNN's layout."""
    return torch.ops.onednn.qlinear_prepack(qweight.contiguous(), None)


def onednn_int8_linear(
    x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, zero_points: torch.Tensor
) -> torch.Tensor:
    """Product of quantized activations and a packed INT8 weight, in float32 (N, out).

    Args:
        x: (N, in) uint8, with 128 as zero point and a scale of 1.
        packed: result of ``onednn_pack_int8``.
        scale: (out) scales of the weight.
        zero_points: (out) zeros.
    """
    return torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 128, packed, scale, zero_points, None, 1.0, 0, torch.float32, "none", [], ""
    )


def fbgemm_pack_int8(qweight: torch.Tensor, scale: torch.Tensor) -> Any:
    """An INT8 weight (out, in) with scales (out) in FBGEMM's layout: a script object, not a tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch announces the end of quantized tensors
        zero_points = torch.zeros(len(qweight), dtype=torch.long)
        quantized = torch._make_per_channel_quantized_tensor(qweight.contiguous(), scale.double(), zero_points, 0)
        return torch.ops.quantized.linear_prepack(quantized, None)


def fbgemm_unpack_int8(packed: Any) -> torch.Tensor:
    """The INT8 weight (out, in), exactly."""
    return torch.ops.quantized.linear_unpack(packed)[0].int_repr()


def fbgemm_int8_linear(x: torch.Tensor, packed: Any) -> torch.Tensor:
    """``x`` (N, in) float32, quantized to 7 bits with one range for the call, times a packed weight: (N, out)."""
    return torch.ops.quantized.linear_dynamic(x, packed, True)


def tinygemm_pack_int4(qweight: torch.Tensor) -> torch.Tensor:
    """An INT4 weight (out, in), int32 from 0 to 15, in the layout of PyTorch's CPU kernel: bytes (out, in / 2)."""
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(qweight, 1)


def tinygemm_int4_linear(
    x: torch.Tensor, packed: torch.Tensor, group_size: int, scale_and_zero: torch.Tensor
) -> torch.Tensor:
    """Product (N, out) with the INT4 weight (qweight - 8) scale + zero.

    Args:
        x: (N, in); the kernel is slow for any dtype but bfloat16.
        packed: result of ``tinygemm_pack_int4``.
        group_size: inputs that share a scale and a zero point.
        scale_and_zero: (groups, out, 2) in the dtype of x.
    """
    return torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, group_size, scale_and_zero)


def choose_int4_scales(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points (out, groups), in bfloat16, of a float32 weight (out, in) by torchao's tinygemm rule."""
    from torchao.quantization import MappingType, quant_primitives

    return quant_primitives._choose_qparams_affine_tinygemm(
        weight,
        MappingType.ASYMMETRIC,
        (1, group_size),
        torch.int32,
        eps=1e-6,
        scale_dtype=torch.bfloat16,
        zero_point_dtype=torch.bfloat16,
        **_INT4_RANGE,
    )


def quantize_int4(weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, group_size: int) -> torch.Tensor:
    """A weight (out, in) as int32 from 0 to 15.

    Args:
        weight: (out, in) float32.
        scale: (out, groups) float32.
        zero: (out, groups) float32, the value of level 8.
        group_size: inputs that share a scale and a zero point.
    """
    from torchao.quantization import quant_primitives

    block = (1, group_size)
    return quant_primitives._quantize_affine_tinygemm(weight, block, scale, zero, torch.int32, **_INT4_RANGE)
