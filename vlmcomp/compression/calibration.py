"""Calibration data as the decoder layers receive it: image + question + answer sequences, or plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel

from vlmcomp.compression.visual_tokens import pruner as visual_tokens
from vlmcomp.data.images import open_image
from vlmcomp.data.unicode_text import is_blank
from vlmcomp.feedback import format_count
from vlmcomp.models import architecture
from vlmcomp.models.forward_override import override_forward
from vlmcomp.models.vlm import VLM

BATCH_SIZE = 8  # sequences
MIN_SAMPLES = 2  # one sample shows no variance
PAD, IMAGE, QUESTION, ANSWER = range(4)  # token types


@dataclass(frozen=True)
class TokenWeights:
    """Weight of an image, a question and an answer token in the activation statistics.

    The default was chosen on scenes that no test asks about: image tokens are many, and each carries little.

    Attributes:
        image: of an image token.
        question: of a question token.
        answer: of an answer token.
        image_stride: one of so many image tokens is recorded, with the weight of all of them: neighbours are alike.
    """

    image: float = 0.03
    question: float = 1.0
    answer: float = 1.0
    image_stride: int = 4

    def for_batches(self, batches: Sequence[CalibrationBatch]) -> list[torch.Tensor]:
        """The weight of every token of every batch, each (B, T); 0 for padding and for image tokens not recorded."""
        starts = accumulate((len(batch.token_types) for batch in batches), initial=0)
        by_type = (self._for_types(batch.token_types, start) for batch, start in zip(batches, starts))
        return [
            weight if batch.sample_weights is None else weight * batch.sample_weights[:, None]
            for weight, batch in zip(by_type, batches)
        ]

    def _for_types(self, token_types: torch.Tensor, first_row: int) -> torch.Tensor:
        """Each row starts at another image token: together they cover all positions, however they are batched."""
        weight = torch.tensor([0.0, self.image, self.question, self.answer])[token_types]
        is_image = token_types == IMAGE
        number = is_image.cumsum(1) - 1 + torch.arange(first_row, first_row + len(token_types))[:, None]
        return torch.where(is_image, weight * self.image_stride * (number % self.image_stride == 0), weight)


@dataclass
class CalibrationBatch:
    """Inputs of the decoder layers for one batch of sequences, in RAM.

    Attributes:
        hidden: (B, T, hidden) hidden states before the first layer.
        token_types: (B, T).
        layer_kwargs: the other arguments of every layer.
        deepstack_residuals: by layer, what the decoder adds to the hidden states after it (image features, in some
            families).
        unpruned: the same batch with all image tokens, where some were pruned.
        kept_positions: (B, T) position of each token in ``unpruned``.
        sample_weights: (B,) of each sequence in the statistics; all 1 by default.
    """

    hidden: torch.Tensor
    token_types: torch.Tensor
    layer_kwargs: tuple[dict[str, Any], ...]
    deepstack_residuals: tuple[torch.Tensor | None, ...] = ()
    unpruned: CalibrationBatch | None = None
    kept_positions: torch.Tensor | None = None
    sample_weights: torch.Tensor | None = None

    @property
    def dense(self) -> CalibrationBatch:
        """The batch as the dense model receives it."""
        return self.unpruned or self

    def select_kept(self, hidden: torch.Tensor) -> torch.Tensor:
        """The tokens of this batch out of the hidden states of the ``dense`` batch."""
        if self.kept_positions is None:
            return hidden
        positions = self.kept_positions.clamp_max(hidden.shape[1] - 1)  # those of padding may be out of range
        return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[2]))

    def add_deepstack(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """The next layer's hidden states from the output of ``layer``."""
        residual = self.deepstack_residuals[layer] if layer < len(self.deepstack_residuals) else None
        return hidden if residual is None else hidden + residual.to(hidden.device)

    def layer_inputs(self, layer: int, device: torch.device) -> dict[str, Any]:
        """The keyword arguments of ``layer`` on ``device``."""
        return to_device(self.layer_kwargs[layer], device)

    @property
    def num_tokens(self) -> int:
        return int((self.token_types != PAD).sum())


def summarize(batches: Sequence[CalibrationBatch]) -> str:
    """``512 samples, 48,113 tokens``."""
    samples = sum(len(batch.token_types) for batch in batches)
    num_tokens = sum(batch.num_tokens for batch in batches)
    return f"{samples} sample{'s' * (samples != 1)}, {format_count(num_tokens, 'token')}"


# id of a tensor -> the tensor, referenced so that the id stays unique, and its copy
_Copies = dict[int, tuple[torch.Tensor, torch.Tensor]]


def to_device(value: Any, device: torch.device | str, copies: _Copies | None = None) -> Any:
    """``value`` with every tensor in it on ``device``; tensors in ``copies`` are not copied again."""
    copies = {} if copies is None else copies
    if isinstance(value, torch.Tensor):
        if id(value) not in copies:
            copies[id(value)] = value, value.to(device)
        return copies[id(value)][1]
    if isinstance(value, dict):
        return {key: to_device(part, device, copies) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(to_device(part, device, copies) for part in value)
    return value


class StopForward(Exception):
    """Ends a forward pass whose remainder is not needed."""


def capture_layer_inputs(model: PreTrainedModel, inputs: dict[str, Any], token_types: torch.Tensor) -> CalibrationBatch:
    """Record the arguments of every decoder layer for one batch.

    Placeholders that return zeros replace the layers, so that only what lies between them is computed.

    Args:
        model: the whole model; weights of the decoder layers are not used.
        inputs: keyword arguments of the model.
        token_types: (B, T) of the batch.
    """
    blocks = [layer.block for layer in architecture.decoder_layers(model)]
    first_hidden: list[torch.Tensor] = []
    residuals: list[torch.Tensor | None] = []
    layer_kwargs: list[dict[str, Any]] = []
    copies: _Copies = {}  # most arguments are the same in every layer and are stored once

    def record(*args: Any, **kwargs: Any) -> torch.Tensor:
        kwargs = {k: v for k, v in kwargs.items() if k not in ("past_key_values", "cache", "use_cache")}
        hidden = args[0] if args else kwargs.pop("hidden_states")
        if first_hidden:
            residuals.append(hidden.cpu() if hidden.any() else None)
        else:
            first_hidden.append(hidden.cpu())
        layer_kwargs.append(to_device(kwargs, "cpu", copies))
        if len(layer_kwargs) == len(blocks):
            raise StopForward
        return torch.zeros_like(hidden)

    with ExitStack() as overrides, suppress(StopForward):
        for block in blocks:
            overrides.enter_context(override_forward(block, record))
        model(**inputs, use_cache=False)
    return CalibrationBatch(first_hidden[0], token_types, tuple(layer_kwargs), tuple(residuals))


@torch.no_grad()
def calibration_batches(
    vlm: VLM,
    samples: Iterable[tuple[Image.Image, str, str]],
    batch_size: int = BATCH_SIZE,
    weights: Sequence[float] | None = None,
) -> list[CalibrationBatch]:
    """Decoder inputs of (image, question, answer) samples, in batches of like length.

    Args:
        vlm: encodes the samples and computes everything before the decoder.
        samples: the answers are part of the sequences, so the statistics cover generated tokens too.
        batch_size: sequences in a batch.
        weights: of each sample in the statistics; equal ones by default.

    Raises:
        ValueError: fewer than ``MIN_SAMPLES`` samples, or one that is not an image, a question and an answer.
    """
    rows = [_checked_sample(vlm, index, sample) for index, sample in enumerate(samples)]
    if len(rows) < MIN_SAMPLES:
        raise ValueError(
            f"calibration needs at least {MIN_SAMPLES} samples of image, question and answer, not {len(rows)}"
        )
    lengths = _num_tokens(vlm, [f"{question} {answer}" for _, question, answer in rows])
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    batches = []
    for start in range(0, len(rows), batch_size):
        numbers = order[start : start + batch_size]
        images, questions, answers = map(list, zip(*(rows[number] for number in numbers)))
        batch, ids = _capture(vlm, images, questions, answers)
        token_pruner = visual_tokens.get_token_pruner(vlm.model)
        if token_pruner is not None:
            batch.kept_positions = token_pruner.kept_positions(ids)
            with token_pruner.disabled():
                batch.unpruned, _ = _capture(vlm, images, questions, answers)
        if weights is not None:
            batch.sample_weights = torch.tensor([weights[number] for number in numbers])
        batches.append(batch)
    return batches


def _capture(
    vlm: VLM, images: list[Image.Image], questions: list[str], answers: list[str]
) -> tuple[CalibrationBatch, torch.Tensor]:
    """The batch and its token ids (B, T)."""
    inputs = vlm.encode(images, questions, answers)
    return capture_layer_inputs(vlm.model, inputs, _token_types(vlm, inputs, answers)), inputs["input_ids"]


def _token_types(vlm: VLM, inputs: dict[str, torch.Tensor], answers: Sequence[str]) -> torch.Tensor:
    """(B, T) on the CPU: the type of every token of sequences that are padded on the right."""
    ids = inputs["input_ids"].cpu()
    lengths = inputs["attention_mask"].cpu().sum(1).tolist()
    token_types = torch.full(ids.shape, QUESTION)
    token_types[ids == vlm.model.config.image_token_id] = IMAGE
    answer_lengths = _num_tokens(vlm, [f"{vlm.spec.answer_separator}{answer}" for answer in answers])
    for row, length, answer_length in zip(token_types, lengths, answer_lengths):
        row[length - answer_length - vlm.spec.is_prefix_lm : length] = ANSWER
        row[length:] = PAD
    return token_types


def _num_tokens(vlm: VLM, texts: list[str]) -> list[int]:
    """The number of tokens of every text."""
    return [len(ids) for ids in vlm.processor.tokenizer(texts, add_special_tokens=False).input_ids]


def _checked_sample(vlm: VLM, index: int, sample: Any) -> tuple[Image.Image, str, str]:
    """The sample, its texts as the model is given them."""
    try:
        image, question, answer = sample
    except (TypeError, ValueError):
        raise ValueError(f"calibration sample {index} is not (image, question, answer)") from None
    if not isinstance(image, Image.Image) or not isinstance(question, str) or not isinstance(answer, str):
        raise ValueError(
            f"calibration sample {index} must be an image, a question and an answer, "
            f"not {', '.join(type(part).__name__ for part in sample)}"
        )
    try:
        image = open_image(image)
    except ValueError as error:
        raise ValueError(f"calibration sample {index}: {error}") from None
    question, answer = vlm.clean_texts([question, answer])
    if is_blank(question) or is_blank(answer):
        raise ValueError(f"calibration sample {index}: its question or its answer is empty but for special tokens")
    return image, question, answer


@torch.no_grad()
def text_batches(model: PreTrainedModel, ids: torch.Tensor, batch_size: int = BATCH_SIZE) -> list[CalibrationBatch]:
    """Decoder inputs of plain text without images.

    Args:
        model: a VLM's model or a decoder alone.
        ids: (N, T) token ids without padding; every token counts as an answer token.
        batch_size: sequences in a batch.

    Raises:
        ValueError: no sequence, or no token ids.
    """
    if ids.ndim != 2 or ids.is_floating_point():
        raise ValueError(f"token ids must be integers (N, T), not {ids.dtype} {tuple(ids.shape)}")
    if not len(ids):
        raise ValueError("calibration needs at least one sequence")
    batches = []
    for part in ids.split(batch_size):
        inputs = {"input_ids": part.to(model.device)}
        batches.append(capture_layer_inputs(model, inputs, torch.full(part.shape, ANSWER)))
    return batches
