"""Calibration data that the dense model writes itself, so that it has no domain of its own.

A model that is pruned on one kind of text loses much more on every other kind. What the dense model generates covers
everything that it learned (Williams, Chrysostomou and Aletras, "Self-calibration for Language Model Quantization and
Pruning", arXiv 2410.17170; for quantization already LLM-QAT, arXiv 2305.17888).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

BATCH_SIZE = 32  # sequences


@torch.no_grad()
def sample_text(
    model: PreTrainedModel,
    num_sequences: int,
    length: int,
    *,
    start_token: int,
    draws_first_word: bool = False,
    seed: int = 0,
) -> torch.Tensor:
    """Token ids (N, T) of text sampled at temperature 1 from the model's own distribution, nothing cut off.

    Args:
        model: a dense causal language model.
        num_sequences: N.
        length: T, in tokens with the first.
        start_token: id of the first token of every sequence, such as the one that separates documents.
        draws_first_word: the second token is any of the vocabulary with equal probability, as in LLM-QAT: rare words
            are read more often. Sequences may then be short.
        seed: the same seed gives the same text.
    """
    devices = [model.device] if model.device.type == "cuda" else []
    parts: list[torch.Tensor] = []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for begin in range(0, num_sequences, BATCH_SIZE):
            start = torch.full((min(BATCH_SIZE, num_sequences - begin), 1), start_token)
            if draws_first_word:
                words = torch.randint(model.config.get_text_config().vocab_size, start.shape)
                start = torch.cat([start, words], 1)
            start = start.to(model.device)
            generate: Any = model.generate  # of GenerationMixin, which PreTrainedModel does not name
            ids = generate(
                start,
                attention_mask=torch.ones_like(start),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                min_new_tokens=length - start.shape[1],
                max_new_tokens=length - start.shape[1],
            )
            parts.append(ids.cpu())
    return torch.cat(parts)
