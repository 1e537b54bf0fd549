"""The loaded thing: a model, its processor, and the recipe that made it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from vlmcomp.models.registry import ModelSpec
from vlmcomp.recipe import Recipe
from vlmcomp.results.schema import Pruned

TOKEN_PRUNER = "vlmcomp_sight"  # attribute of a model that leaves image tokens out


class TokenPruner(Protocol):
    """Leaves image tokens out of what the decoder is given (``compression.visual_tokens``)."""

    def cut(self, inputs: dict[str, torch.Tensor], pad: int, left: bool) -> None:
        """Shorten a batch of whole sequences in place, padded on the left or the right with the token ``pad``."""


@dataclass
class VLM:
    """A built recipe, ready to be asked."""

    model: PreTrainedModel
    processor: ProcessorMixin
    recipe: Recipe
    spec: ModelSpec
    dtype_stored: str
    dtype_computed: str
    backend: str
    pruned: list[Pruned] = field(default_factory=list)
    build_seconds: float = 0.0
    revision: str | None = None  # of the dense weights on the Hub

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in; some families keep single parts of the model wider."""
        return getattr(torch, self.dtype_computed)

    def encode(
        self, images: list[Image.Image], questions: list[str], answers: list[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """What the model is given for a batch, on its device: prompts padded on the left, or, with ``answers``, whole
        sequences padded on the right. Special tokens written in a question are taken out of it."""
        tokens = self.processor.tokenizer.all_special_tokens
        prompts = [self.spec.prompt.format(question=_without(q, tokens)) for q in questions]
        settings = {"return_tensors": "pt", "padding": len(prompts) > 1}
        if answers is not None:
            settings |= {"padding": True, "padding_side": "right"}
            if self.spec.suffix:
                settings["suffix"] = list(answers)
            else:
                prompts = [f"{p}{self.spec.joint}{a}" for p, a in zip(prompts, answers)]
        inputs = self.processor(images=images, text=prompts, **settings)
        inputs.pop("labels", None)
        if (seeing := getattr(self.model, TOKEN_PRUNER, None)) is not None:
            seeing.cut(inputs, self.processor.tokenizer.pad_token_id, left=answers is None)
        return inputs.to(self.device, self.dtype)


def _without(text: str, tokens: list[str]) -> str:
    for token in tokens:
        text = text.replace(token, " ")
    return text
