"""The compute dtype of a device, and rounding to the storage dtype."""

from __future__ import annotations

import torch
from torch import nn

from vlmcomp.hardware import has_native_bfloat16
from vlmcomp.models.registry import ModelSpec


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


@torch.no_grad()
def round_to_float16(module: nn.Module) -> None:
    """Round float32 weights in place to values that float16 can represent: float32 models are stored in float16."""
    for parameter in module.parameters():
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.half().float()
