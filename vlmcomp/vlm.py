"""The loaded thing: a model, its processor, and the recipe that made it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, ProcessorMixin

from vlmcomp.recipe import Recipe
from vlmcomp.report import Pruned
from vlmcomp.zoo import Model


@dataclass
class VLM:
    """A built recipe, ready to be asked."""

    model: PreTrainedModel
    processor: ProcessorMixin
    recipe: Recipe
    entry: Model
    dtype_stored: str
    dtype_computed: str
    backend: str
    pruned: list[Pruned] = field(default_factory=list)
    build_seconds: float = 0.0

    @property
    def device(self) -> torch.device:
        return self.model.device


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def compute_dtype(device: str | torch.device) -> torch.dtype:
    """float16 on a GPU; bfloat16 on a CPU, whose float16 arithmetic is emulated and several times slower."""
    return torch.float16 if torch.device(device).type == "cuda" else torch.bfloat16
