"""The peer: optipfair (Martra), which prunes GLU neurons of a causal language model by static weight scores."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from vlmcomp.compression.calibration import PAD, Tokens
from vlmcomp.models import architecture

NAME = "optipfair"
METHODS = ("MAW", "VOW", "PON", "L2", "MAW hybrid")  # the default first; "hybrid" looks at data
PEERS = tuple(f"{NAME} {method}" for method in METHODS)


def available() -> bool:
    """Whether the peer is installed (``requirements-dev.txt``)."""
    return importlib.util.find_spec("optipfair") is not None


class _View(LlamaForCausalLM):
    """A VLM's own decoder as the causal language model that the peer expects; the modules are shared.

    The peer calls its calibration model with token ids alone. These ids are indices of ``calibration``, whose
    hidden states already hold the image features, so that it sees what our scores see.
    """

    def __init__(self, model: PreTrainedModel, calibration: Sequence[Tokens]) -> None:
        text = model.config.get_text_config()
        with torch.device("meta"):
            super().__init__(text)
        self.model = model.get_submodule(architecture.of(model).layers.rpartition(".")[0])
        self.lm_head = model.lm_head
        self.calibration = calibration

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        tokens = self.calibration[int(input_ids[0, 0])]
        hidden = tokens.hidden.to(self.lm_head.weight.device)
        mask = (tokens.kinds != PAD).long().to(hidden.device)
        return self.model(inputs_embeds=hidden, attention_mask=mask, use_cache=False).last_hidden_state


class _Indices:
    """The batches of a calibration set by number, as the peer's data loader."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return ({"input_ids": torch.tensor([[i]])} for i in range(self.count))


def prune(model: PreTrainedModel, method: str, percent: int, calibration: Sequence[Tokens]) -> float:
    """Let the peer remove ``percent`` of the decoder's GLU neurons in place, rounded to multiples of 64 like ours.

    Returns:
        The real percentage removed.

    Raises:
        ValueError: the peer is not installed, or removed nothing.
    """
    if not available():
        raise ValueError("the peer is not installed: pip install -r requirements-dev.txt")
    import optipfair

    logging.getLogger("optipfair").setLevel(logging.ERROR)
    text, hybrid = model.config.get_text_config(), method.endswith("hybrid")
    before = text.intermediate_size
    optipfair.prune_model(
        _View(model, calibration),
        pruning_type="MLP_GLU",
        neuron_selection_method=method.split()[0],
        pruning_percentage=percent,
        expansion_divisor=64,
        dataloader=_Indices(len(calibration)) if hybrid else None,
        show_progress=False,
    )
    after = architecture.layers(model)[0].down.in_features
    if after == before:
        raise ValueError(f"{NAME} {method} removed nothing at {percent} %")
    text.intermediate_size = after
    return round(100 * (1 - after / before), 2)
