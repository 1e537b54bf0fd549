"""Baseline: optipfair (Martra), which prunes GLU neurons of a causal language model by static weight scores."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from vlmcomp.compression.calibration import PAD, CalibrationBatch
from vlmcomp.models import architecture

NAME = "optipfair"
METHODS = ("MAW", "VOW", "PON", "L2", "MAW hybrid")  # its default first; "hybrid" uses calibration data
BASELINES = tuple(f"{NAME} {method}" for method in METHODS)


def is_installed() -> bool:
    """Whether optipfair is installed (``requirements-dev.txt``)."""
    return importlib.util.find_spec("optipfair") is not None


class _DecoderView(LlamaForCausalLM):
    """The decoder of a VLM as the causal language model that optipfair expects; the modules are shared.

    optipfair calls its calibration model with token ids alone. These ids are indices into ``calibration``, whose
    hidden states already contain the image features, so that it gets the same data as our scores.
    """

    def __init__(self, model: PreTrainedModel, calibration: Sequence[CalibrationBatch]) -> None:
        text = model.config.get_text_config()
        with torch.device("meta"):
            super().__init__(text)
        self.model = model.get_submodule(architecture.get_architecture(model).layers.rpartition(".")[0])
        self.lm_head = model.lm_head
        self.calibration = calibration

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        tokens = self.calibration[int(input_ids[0, 0])]
        hidden = tokens.hidden.to(self.lm_head.weight.device)
        mask = (tokens.token_types != PAD).long().to(hidden.device)
        return self.model(inputs_embeds=hidden, attention_mask=mask, use_cache=False).last_hidden_state


class _BatchIndices:
    """Data loader of optipfair: the indices of the calibration batches."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return ({"input_ids": torch.tensor([[i]])} for i in range(self.count))


def prune(model: PreTrainedModel, method: str, percent: int, calibration: Sequence[CalibrationBatch]) -> float:
    """Remove ``percent`` of the decoder's GLU neurons in place by optipfair, rounded to multiples of 64 like ours.

    Args:
        model: a VLM or causal language model.
        method: one of ``METHODS``.
        percent: of the neurons.
        calibration: batches for the hybrid methods.

    Returns:
        The real percentage removed.

    Raises:
        ValueError: optipfair is not installed, or removed nothing.
    """
    if not is_installed():
        raise ValueError("optipfair is not installed: pip install -r requirements-dev.txt")
    import optipfair

    logging.getLogger("optipfair").setLevel(logging.ERROR)
    text = model.config.get_text_config()
    is_hybrid = method.endswith("hybrid")
    before = text.intermediate_size
    optipfair.prune_model(
        _DecoderView(model, calibration),
        pruning_type="MLP_GLU",
        neuron_selection_method=method.split()[0],
        pruning_percentage=percent,
        expansion_divisor=64,
        dataloader=_BatchIndices(len(calibration)) if is_hybrid else None,
        show_progress=False,
    )
    after = architecture.decoder_layers(model)[0].down_proj.in_features
    if after == before:
        raise ValueError(f"{NAME} {method} removed nothing at {percent} %")
    text.intermediate_size = after
    return round(100 * (1 - after / before), 2)
