"""Which dtype a device computes in, and rounding to the dtype that is stored."""

from __future__ import annotations

import torch
from torch import nn

from vlmcomp.hardware import native_bfloat16
from vlmcomp.models.registry import ModelSpec


def compute_dtype(device: str | torch.device, entry: ModelSpec | None = None) -> torch.dtype:
    """On a GPU float16, for a model that needs its range bfloat16 where the GPU has that (from Ampere on); on a CPU
    bfloat16 where it has instructions for it, else float32.

    Emulated 16-bit arithmetic is tens of times slower than float32 (measured on a CPU with AVX2 alone: 45 times).
    """
    if torch.device(device).type == "cuda":
        ranged = entry is not None and entry.bfloat16 and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if ranged else torch.float16
    return torch.bfloat16 if native_bfloat16() else torch.float32


@torch.no_grad()
def round_to_float16(module: nn.Module) -> None:
    """Round float32 weights in place to values that float16 holds: what is computed in 32 bits is stored in 16."""
    for parameter in module.parameters():
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.half().float()
