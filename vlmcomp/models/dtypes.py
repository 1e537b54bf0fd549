"""The compute dtype of a device, and rounding to the storage dtype."""

from __future__ import annotations

import torch
from torch import nn

from vlmcomp.hardware import has_native_bfloat16
from vlmcomp.models.registry import ModelSpec

_FLOAT16_MAX = torch.finfo(torch.float16).max


def compute_dtype(device: str | torch.device, spec: ModelSpec | None = None) -> torch.dtype:
    """The dtype that ``device`` computes in.

    GPU: float16, or bfloat16 if the model needs its range and the GPU supports it (Ampere and later). CPU: bfloat16 if
    it has the instructions, else float32, because emulated 16-bit arithmetic is tens of times slower (measured on a
    CPU with AVX2 alone: 45 times).
    """
    if torch.device(device).type != "cuda":
        return torch.bfloat16 if has_native_bfloat16() else torch.float32
    needs_bfloat16 = spec is not None and spec.needs_bfloat16
    if needs_bfloat16 and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16


def check_range(name: str, weight: torch.Tensor, dtype: torch.dtype) -> None:
    """Check that a weight can be stored in ``dtype``.

    Args:
        name: of the weight, for the message.
        weight: any floating-point tensor.
        dtype: float16 or wider.

    Raises:
        ValueError: it contains NaN or infinity, or becomes infinite in ``dtype``.
    """
    if not weight.numel():
        return
    extremes = torch.stack(weight.detach().aminmax())
    if not extremes.isfinite().all():
        raise ValueError(
            f"{name} contains NaN or infinity as {str(weight.dtype).removeprefix('torch.')}: the file is damaged, or "
            "the dtype in config.json is narrower than that of the weights"
        )
    if not extremes.to(dtype).isfinite().all():
        raise ValueError(
            f"{name} reaches {extremes.abs().max().item():.4g}, and float16 ends at {_FLOAT16_MAX:.0f}: run it where "
            "the model computes in bfloat16, in fp16 or int4, or take weights that were trained or scaled for float16"
        )


@torch.no_grad()
def round_to_float16(module: nn.Module) -> None:
    """Round float32 weights in place to values that float16 can represent: float32 models are stored in float16.

    Raises:
        ValueError: a weight exceeds the range of float16.
    """
    for name, parameter in module.named_parameters():
        if parameter.dtype == torch.float32:
            check_range(name, parameter, torch.float16)
            parameter.data = parameter.data.half().float()
