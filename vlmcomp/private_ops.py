"""Private operations of PyTorch and torchao that this package calls: no release has to keep them.

Each has a contract test in tests/runtime/test_private_ops.py. Tried with PyTorch 2.8 to 2.13 and torchao 0.17 and 0.18,
the range of requirements.txt. Not listed are ``torch.fx.experimental`` (tracing, runtime.decode_step) and the
``_attn_implementation`` of transformers' configs (runtime.attention), for which there is no public counterpart.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch


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
