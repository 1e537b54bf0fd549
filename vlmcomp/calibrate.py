"""Run image + question + answer sequences through the decoder layer by layer, keeping running statistics only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedModel

from vlmcomp import anatomy
from vlmcomp.moments import Moments
from vlmcomp.vlm import VLM

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
    """

    hidden: torch.Tensor
    kinds: torch.Tensor
    arguments: tuple[dict[str, Any], ...]
    added: tuple[torch.Tensor | None, ...] = ()

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


class _Stop(Exception):
    """Raised where what follows need not run."""


def enter(model: PreTrainedModel, inputs: dict[str, Any], kinds: torch.Tensor) -> Tokens:
    """What the decoder's layers are called with for a batch whose tokens are of these ``kinds`` (B, T).

    Stand-ins that return zeros take the layers' places, so that nothing is computed but what lies between them.
    """
    blocks = [layer.block for layer in anatomy.layers(model)]
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
            raise _Stop
        return torch.zeros_like(stream)

    try:
        for block in blocks:
            block.forward = stand_in
        with suppress(_Stop):
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
        images, questions, answers, _ = zip(*rows[start : start + batch])
        inputs = vlm.encode(list(images), list(questions), list(answers))
        found.append(enter(vlm.model, inputs, _kinds(vlm, inputs, answers)))
    return found


def _kinds(vlm: VLM, inputs: dict[str, torch.Tensor], answers: Sequence[str]) -> torch.Tensor:
    """(B, T) on the CPU: what every token of whole sequences is."""
    ids, mask = inputs["input_ids"].cpu(), inputs["attention_mask"].cpu()
    kinds = torch.full(ids.shape, QUESTION)
    kinds[ids == vlm.model.config.image_token_id] = IMAGE
    for kind, seen, answer in zip(kinds, mask, answers):
        end, tokens = int(seen.sum()), _length(vlm, f"{vlm.entry.joint}{answer}") + vlm.entry.suffix
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


def _nothing(layer: anatomy.Layer) -> None:
    pass


@dataclass(frozen=True)
class Care:
    """What is done to every layer beside its edits: ``arrive`` before it first runs (bring its weights to the device),
    ``finish`` after its last edit (round them), ``leave`` after it has run for the last time (pack them)."""

    arrive: Callable[[anatomy.Layer], None] = _nothing
    finish: Callable[[anatomy.Layer], None] = _nothing
    leave: Callable[[anatomy.Layer], None] = _nothing


@dataclass(frozen=True)
class Edit:
    """A Linear of every layer whose inputs are watched, and what is then done to the layer."""

    reader: Callable[[anatomy.Layer], nn.Linear]
    change: Callable[[anatomy.Layer, Moments], None]


@torch.no_grad()
def walk(
    model: PreTrainedModel,
    calibration: Sequence[Tokens],
    edits: Sequence[Edit],
    weights: Weights | None = None,
    progress: Callable[[float], None] | None = None,
    care: Care | None = None,
) -> None:
    """Change the decoder layer by layer; each edit sees what the already changed model gives it.

    The output wanted of an edited Linear is what brings the changed model's residual stream back to the dense
    one's at that place, so that a layer makes up for what the layers before it lost; where a norm stands between the
    Linear and the stream (``Anatomy.post_norms``) it is what the dense Linear gave. (Aiming a layer at the dense
    model's activations on the compressed model's inputs is the asymmetric calibration of GPTAQ, arXiv 2504.02692.)

    Edits come in the order in which their readers run. Peak memory on the layers' device, above the weights that are
    there: one batch inside one layer, and ``moments_bytes`` for one reader. In RAM: the hidden states of all sequences
    once for the dense and once for the changed model in their dtype, and once for each edit in float32.
    """
    weights, care = weights or Weights(), care or Care()
    layers = anatomy.layers(model)
    share = [weights.of(t.kinds) for t in calibration]
    dense, ours = [t.hidden for t in calibration], [t.hidden for t in calibration]
    for index, layer in enumerate(layers):
        care.arrive(layer)
        device = layer.output.weight.device
        marks: list[list[torch.Tensor]] = []  # per batch: the dense stream after each edit's reader
        for at, tokens in enumerate(calibration):
            output, seen = _dense(layer, dense[at].to(device), tokens.of(index, device), edits)
            dense[at] = tokens.after(index, output)
            marks.append(seen)
        for number, edit in enumerate(edits):
            reader = edit.reader(layer)
            moments = Moments(reader.in_features, reader.out_features, device)
            for at, tokens in enumerate(calibration):
                x, stream = _reach(layer, ours[at].to(device), tokens.of(index, device), edit, edits[:number])
                moments.add(x, marks[at][number].to(device) - stream, share[at].to(device))
            edit.change(layer, moments)
            del moments
        care.finish(layer)
        for at, tokens in enumerate(calibration):
            output = _first(layer.block(ours[at].to(device), **tokens.of(index, device))).cpu()
            ours[at] = tokens.after(index, output)
        care.leave(layer)
        if progress is not None:
            progress((index + 1) / len(layers))


def _dense(
    layer: anatomy.Layer, hidden: torch.Tensor, arguments: dict[str, Any], edits: Sequence[Edit]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The layer's output, and in float32 the residual stream after each edit's reader (with ``post_norms`` the
    reader's own output); all in RAM."""
    added: list[torch.Tensor] = []
    with ExitStack() as hooks:
        for reader in {edit.reader(layer): None for edit in edits} | {layer.output: None}:
            handle = reader.register_forward_hook(lambda module, args, output: added.append(output))
            hooks.callback(handle.remove)
        output = _first(layer.block(hidden, **arguments)).cpu()
    parts = [a.float().view_as(hidden) for a in added]
    streams = parts if layer.anatomy.post_norms else list(accumulate(parts, initial=hidden.float()))[1:]
    return output, [stream.cpu() for stream in streams[-len(edits) :]]


def _reach(
    layer: anatomy.Layer, hidden: torch.Tensor, arguments: dict[str, Any], edit: Edit, before: Sequence[Edit]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs of the edit's reader, and what its output is added to: the residual stream, or 0 before a norm."""
    found: dict[str, torch.Tensor] = {}
    reader = edit.reader(layer)

    def stop(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        found["x"] = args[0]
        raise _Stop

    with ExitStack() as hooks, suppress(_Stop):
        hooks.callback(reader.register_forward_pre_hook(stop).remove)
        if reader is layer.down:
            keep = layer.output.register_forward_hook(lambda module, args, output: found.update(attention=output))
            hooks.callback(keep.remove)
        layer.block(hidden, **arguments)
    if layer.anatomy.post_norms:
        return found["x"], torch.zeros((), device=hidden.device)
    stream = hidden.float()  # a sum in the model's own half precision would drown what the target is made of
    return found["x"], stream + found["attention"].float() if "attention" in found else stream


def _first(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]
