"""Run image + question + answer sequences through the decoder layer by layer, keeping running statistics only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from vlmcomp import anatomy
from vlmcomp.vlm import VLM


@dataclass
class Tokens:
    """One calibration sequence on its way through the decoder: hidden states (1, T, hidden) and layer arguments."""

    hidden: torch.Tensor
    arguments: dict[str, Any]

    @property
    def count(self) -> int:
        return self.hidden.shape[1]


class _Stop(Exception):
    """Raised at the first decoder layer: what follows need not run."""


@torch.no_grad()
def sequences(vlm: VLM, samples: Iterable[tuple[Image.Image, str, str]]) -> list[Tokens]:
    """What the first decoder layer gets for each (image, question, answer): answers calibrate as well as prompts.

    Raises:
        ValueError: no sample at all.
    """
    first, caught = anatomy.layers(vlm.model)[0].block, []

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kwargs = {k: v for k, v in kwargs.items() if k not in ("past_key_values", "use_cache")}
        hidden = args[0] if args else kwargs.pop("hidden_states")
        caught.append(Tokens(hidden, kwargs))
        raise _Stop

    handle = first.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for image, question, answer in samples:
            text = f"{vlm.entry.prompt.format(question=question)} {answer}"
            inputs = vlm.processor(images=image, text=text, return_tensors="pt").to(vlm.device, vlm.model.dtype)
            with suppress(_Stop):
                vlm.model(**inputs, use_cache=False)
    finally:
        handle.remove()
    if not caught:
        raise ValueError("calibration needs at least one image with a question and its answer")
    return caught


class _Gram:
    """Sums x x^T over the inputs of a Linear while it is entered as a context."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear, self.seen = linear, 0
        self.sum = torch.zeros(linear.in_features, linear.in_features, device=linear.weight.device)

    def _gather(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        x = args[0].flatten(0, -2).float()
        self.sum.addmm_(x.T, x)
        self.seen += len(x)

    def __enter__(self) -> None:
        self._handle = self.linear.register_forward_pre_hook(self._gather)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def mean(self) -> torch.Tensor:
        return self.sum / self.seen


@torch.no_grad()
def walk(
    vlm: VLM,
    calibration: list[Tokens],
    reader: Callable[[anatomy.Layer], nn.Linear],
    change: Callable[[anatomy.Layer, torch.Tensor], None],
    progress: Callable[[float], None] | None = None,
) -> None:
    """For each decoder layer in turn: gather the Gram matrix of ``reader``'s inputs, let ``change`` act on it.

    The next layer then sees what the changed layers give. ``change`` gets the layer and gram (n, n) float32,
    the mean over all tokens of x x^T. Peak memory above the model: the hidden states of all sequences
    (tokens x hidden), one Gram matrix (n x n x 4 bytes), and one sequence inside one layer.
    """
    hidden = [t.hidden for t in calibration]
    layers = anatomy.layers(vlm.model)
    for index, layer in enumerate(layers):
        gram = _Gram(reader(layer))
        with gram:
            for x, tokens in zip(hidden, calibration):
                layer.block(x, **tokens.arguments)
        change(layer, gram.mean())
        hidden = [_first(layer.block(x, **t.arguments)) for x, t in zip(hidden, calibration)]
        if progress is not None:
            progress((index + 1) / len(layers))


def _first(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]
