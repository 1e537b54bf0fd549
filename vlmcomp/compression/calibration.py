"""Image + question + answer sequences as the decoder's layers get them: what a model is calibrated on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel

from vlmcomp.compression.visual_tokens import pruner as token_pruner
from vlmcomp.models import architecture
from vlmcomp.models.vlm import VLM

BATCH = 8  # sequences at a time
FEWEST = 2  # one sample says nothing about what varies
PAD, IMAGE, QUESTION, ANSWER = range(4)


@dataclass(frozen=True)
class Weights:
    """How much an image, a question and an answer token count in the statistics.

    The default was chosen on scenes that no test asks about: image tokens are many and say little one by one.
    """

    image: float = 0.03
    question: float = 1.0
    answer: float = 1.0

    def of(self, kinds: torch.Tensor) -> torch.Tensor:
        """The weight of every token of ``kinds`` (any shape); padding counts nothing."""
        return torch.tensor([0.0, self.image, self.question, self.answer])[kinds]


@dataclass
class Tokens:
    """A batch of sequences at the decoder's door: hidden states (B, T, hidden) in RAM, kinds (B, T), and of every
    layer the other arguments and what the decoder adds to the stream after it (image features, in some families).

    Where image tokens were left out, ``whole`` is the batch with all of them, and ``columns`` (B, T) says where in it
    each token stands.
    """

    hidden: torch.Tensor
    kinds: torch.Tensor
    arguments: tuple[dict[str, Any], ...]
    added: tuple[torch.Tensor | None, ...] = ()
    whole: Tokens | None = None
    columns: torch.Tensor | None = None

    @property
    def dense(self) -> Tokens:
        """The batch as the dense model sees it."""
        return self.whole or self

    def shared(self, stream: torch.Tensor) -> torch.Tensor:
        """Of a stream of the ``dense`` batch, the tokens that this one has."""
        if self.columns is None:
            return stream
        columns = self.columns.clamp_max(stream.shape[1] - 1)  # padding may lie beyond
        return stream.gather(1, columns[..., None].expand(-1, -1, stream.shape[2]))

    def after(self, layer: int, stream: torch.Tensor) -> torch.Tensor:
        """The stream that leaves ``layer`` for the next one."""
        more = self.added[layer] if layer < len(self.added) else None
        return stream if more is None else stream + more.to(stream.device)

    def of(self, layer: int, device: torch.device) -> dict[str, Any]:
        """The arguments of ``layer`` on ``device``."""
        return _moved(self.arguments[layer], device)

    @property
    def count(self) -> int:
        return int((self.kinds != PAD).sum())


def size(calibration: Sequence[Tokens]) -> str:
    """``512 samples, 48,113 tokens``."""
    return f"{sum(len(t.kinds) for t in calibration)} samples, {sum(t.count for t in calibration):,} tokens"


# A tensor by its id, kept so that the id stays its own, and its copy.
_Known = dict[int, tuple[torch.Tensor, torch.Tensor]]


def _moved(value: Any, device: torch.device | str, known: _Known | None = None) -> Any:
    """``value`` with every tensor in it on ``device``; a tensor in ``known`` is not moved again."""
    known = {} if known is None else known
    if isinstance(value, torch.Tensor):
        if id(value) not in known:
            known[id(value)] = value, value.to(device)
        return known[id(value)][1]
    if isinstance(value, dict):
        return {key: _moved(part, device, known) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_moved(part, device, known) for part in value)
    return value


class Stop(Exception):
    """Raised where what follows need not run."""


def enter(model: PreTrainedModel, inputs: dict[str, Any], kinds: torch.Tensor) -> Tokens:
    """What the decoder's layers are called with for a batch whose tokens are of these ``kinds`` (B, T).

    Stand-ins that return zeros take the layers' places, so that nothing is computed but what lies between them.
    """
    blocks = [layer.block for layer in architecture.layers(model)]
    hidden: list[torch.Tensor] = []
    added: list[torch.Tensor | None] = []
    arguments: list[dict[str, Any]] = []
    shared: _Known = {}  # most arguments are the same in every layer: they are kept once

    def stand_in(*args: Any, **kwargs: Any) -> torch.Tensor:
        kwargs = {k: v for k, v in kwargs.items() if k not in ("past_key_values", "cache", "use_cache")}
        stream = args[0] if args else kwargs.pop("hidden_states")
        if hidden:
            added.append(stream.cpu() if stream.any() else None)
        else:
            hidden.append(stream.cpu())
        arguments.append(_moved(kwargs, "cpu", shared))
        if len(arguments) == len(blocks):
            raise Stop
        return torch.zeros_like(stream)

    try:
        for block in blocks:
            block.forward = stand_in
        with suppress(Stop):
            model(**inputs, use_cache=False)
    finally:
        for block in blocks:
            del block.forward  # the class's own again
    return Tokens(hidden[0], kinds, tuple(arguments), tuple(added))


@torch.no_grad()
def sequences(vlm: VLM, samples: Iterable[tuple[Image.Image, str, str]], batch: int = BATCH) -> list[Tokens]:
    """What the first decoder layer gets for each (image, question, answer): answers calibrate as well as prompts.

    Raises:
        ValueError: fewer than ``FEWEST`` samples, or one that is not an image, a question and an answer.
    """
    rows = [_row(vlm, index, sample) for index, sample in enumerate(samples)]
    if len(rows) < FEWEST:
        raise ValueError(f"calibration needs at least {FEWEST} samples of image, question and answer, not {len(rows)}")
    rows.sort(key=lambda row: row[3])
    found = []
    for start in range(0, len(rows), batch):
        images, questions, answers, _ = map(list, zip(*rows[start : start + batch]))
        tokens, ids = _enter(vlm, images, questions, answers)
        if (seeing := token_pruner.of(vlm.model)) is not None:
            tokens.columns = seeing.columns(ids)
            with seeing.opened():
                tokens.whole, _ = _enter(vlm, images, questions, answers)
        found.append(tokens)
    return found


def _enter(
    vlm: VLM, images: list[Image.Image], questions: list[str], answers: list[str]
) -> tuple[Tokens, torch.Tensor]:
    """The batch at the decoder's door, and its token ids."""
    inputs = vlm.encode(images, questions, answers)
    return enter(vlm.model, inputs, _kinds(vlm, inputs, answers)), inputs["input_ids"]


def _kinds(vlm: VLM, inputs: dict[str, torch.Tensor], answers: Sequence[str]) -> torch.Tensor:
    """(B, T) on the CPU: what every token of whole sequences is."""
    ids, mask = inputs["input_ids"].cpu(), inputs["attention_mask"].cpu()
    kinds = torch.full(ids.shape, QUESTION)
    kinds[ids == vlm.model.config.image_token_id] = IMAGE
    for kind, seen, answer in zip(kinds, mask, answers):
        end, tokens = int(seen.sum()), _length(vlm, f"{vlm.spec.joint}{answer}") + vlm.spec.suffix
        kind[end - tokens : end] = ANSWER
        kind[end:] = PAD
    return kinds


def _length(vlm: VLM, text: str) -> int:
    return len(vlm.processor.tokenizer(text, add_special_tokens=False).input_ids)


def _row(vlm: VLM, index: int, sample: Any) -> tuple[Image.Image, str, str, int]:
    """The sample and the number of tokens of its text."""
    try:
        image, question, answer = sample
    except (TypeError, ValueError):
        raise ValueError(f"calibration sample {index} is not (image, question, answer)") from None
    if not isinstance(image, Image.Image) or not isinstance(question, str) or not isinstance(answer, str):
        raise ValueError(
            f"calibration sample {index} must be an image, a question and an answer, "
            f"not {', '.join(type(part).__name__ for part in sample)}"
        )
    return image, question, answer, _length(vlm, f"{question} {answer}")


@torch.no_grad()
def texts(model: PreTrainedModel, ids: torch.Tensor, batch: int = BATCH) -> list[Tokens]:
    """The same for plain text: ``ids`` (N, T) of a decoder without an image; every token is an answer token."""
    if not len(ids):
        raise ValueError("calibration needs at least one sequence")
    found = []
    for part in ids.split(batch):
        found.append(enter(model, {"input_ids": part.to(model.device)}, torch.full(part.shape, ANSWER)))
    return found
