"""A loaded vision-language model: weights, processor, and the recipe that produced it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from vlmcomp.data.images import IMAGE_PLACEHOLDER
from vlmcomp.data.unicode_text import clean
from vlmcomp.feedback import format_count
from vlmcomp.models.processor import special_tokens
from vlmcomp.models.registry import ModelSpec
from vlmcomp.recipe import Recipe
from vlmcomp.results.schema import PruningResult

TOKEN_PRUNER = "vlmcomp_sight"  # attribute of a model whose image tokens are pruned
# Arguments of a processor for prompts; those left out would be read from tokenizer_config.json.
_TEXT_SETTINGS: dict[str, Any] = {
    "return_tensors": "pt",
    "padding_side": "left",
    "pad_to_multiple_of": None,
    "truncation": False,
    "max_length": None,
    "stride": 0,
    "add_special_tokens": True,
}


class TokenPruner(Protocol):
    """Removes image tokens from the decoder's inputs (``compression.visual_tokens``)."""

    def shorten_inputs(self, inputs: dict[str, torch.Tensor], pad: int, left: bool) -> None:
        """Shorten a batch of token ids and masks in place, padded with the token ``pad`` on the left or the right."""


@dataclass
class VLM:
    """A model compressed by a recipe, with its processor.

    Attributes:
        storage_dtype: how weights are stored, such as ``float16`` or ``int8 decoder, rest float16``.
        compute_dtype: dtype of the activations, such as ``bfloat16``; some families keep single modules wider.
        quantization_backend: library that quantized the decoder, as stated in reports.
        pruned: the result of each pruning step.
        build_seconds: duration of compression or loading.
        revision: commit of the dense weights on the Hub; None for local weights.
        source: Hub id of the dense weights, or the name of their folder; None for the registry's own.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    recipe: Recipe
    spec: ModelSpec
    storage_dtype: str
    compute_dtype: str
    quantization_backend: str
    pruned: list[PruningResult] = field(default_factory=list)
    build_seconds: float = 0.0
    revision: str | None = None
    source: str | None = None

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """``compute_dtype`` as a torch dtype."""
        return getattr(torch, self.compute_dtype)

    def clean_texts(self, texts: Sequence[str]) -> list[str]:
        """The texts as the model is given them (``unicode_text.clean``), its special tokens replaced by spaces."""
        tokens = [*special_tokens(self.processor), IMAGE_PLACEHOLDER]
        return [clean(text, tokens) for text in texts]

    def encode(
        self, images: list[Image.Image], questions: list[str], answers: list[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """Model inputs for a batch, on the model's device.

        Args:
            images: one a question.
            questions: inserted into the model's prompt template, as ``clean_texts`` returns them.
            answers: appended to the prompts, also cleaned. Prompts alone are padded on the left, whole sequences on the
                right.
        """
        prompts = [self.spec.prompt.replace("{question}", question) for question in self.clean_texts(questions)]
        settings = _TEXT_SETTINGS | {"padding": len(prompts) > 1}
        if answers is not None:
            answers = self.clean_texts(answers)
            settings |= {"padding": True, "padding_side": "right"}
            if self.spec.is_prefix_lm:
                settings["suffix"] = answers
            else:
                prompts = [f"{p}{self.spec.answer_separator}{a}" for p, a in zip(prompts, answers)]
        inputs = self.processor(images=images, text=prompts, **settings)
        inputs.pop("labels", None)
        token_pruner: TokenPruner | None = getattr(self.model, TOKEN_PRUNER, None)
        if token_pruner is not None:
            token_pruner.shorten_inputs(inputs, self.processor.tokenizer.pad_token_id, left=answers is None)
        check_length(self.model, inputs)
        return inputs.to(self.device, self.dtype)


def check_length(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], new_tokens: int = 0) -> None:
    """Check that a model has positions for every token.

    Args:
        model: whose text config has ``max_position_embeddings``.
        inputs: of the model.
        new_tokens: maximum length of the answer.

    Raises:
        ValueError: prompt and answer are longer.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    prompt = inputs["input_ids"].shape[1]
    if "position_ids" in inputs:  # of image tokens that are not removed yet
        prompt = max(prompt, int(inputs["position_ids"].max()) + 1)
    if limit is not None and prompt + new_tokens > limit:
        answer = f" and the answer up to {new_tokens}" if new_tokens else ""
        raise ValueError(
            f"the prompt has {format_count(prompt, 'token')}{answer}, and the model takes {limit:,} in all: ask a "
            f"shorter question{', allow fewer new tokens' if new_tokens else ''} or use a smaller image"
        )
