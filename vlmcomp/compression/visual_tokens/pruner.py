"""Image tokens left out between projector and decoder, in the running model: what ``visNN`` does to a question."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from vlmcomp.compression.visual_tokens import selection
from vlmcomp.models import architecture
from vlmcomp.models.vlm import TOKEN_PRUNER

SEQUENCES = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")  # a value a token, in this order
_UNSEEN = 1 << 20  # is taken off an image token's position until the image has been seen


@dataclass
class _Seen:
    """Of the images of one forward pass: the dense places of the tokens that stay, how many there were, the grid."""

    sight: weakref.ref[Sight]  # a thread remembers what it saw last, and keeps no model for that
    kept: tuple[torch.Tensor, ...]
    totals: tuple[int, ...]
    widths: tuple[int, ...]  # of the grid, where positions are laid out on it
    placed: bool = False


# Variants answer in several threads at a time, one forward pass after the other in each.
_seen: ContextVar[_Seen | None] = ContextVar("seen", default=None)


class Sight:
    """Leaves ``percent`` of every image's tokens out of what the decoder of ``model`` gets; one image a prompt.

    How many go follows from their number alone, so that ``cut`` shortens the prompt before the image is seen; which
    ones is found in the model's own forward pass, after tower and projector have run once. Those that stay keep their
    places: position ids are those of the whole sequence.
    """

    def __init__(self, model: PreTrainedModel, names: architecture.Anatomy, percent: int, rule: str) -> None:
        self.percent, self.rule, self.open = percent, rule, False
        self.mark = model.config.image_token_id
        self.layout = _method(model, names.positions) if names.positions else None
        self.merge = getattr(model.config.vision_config, "spatial_merge_size", 1)
        self._look = _method(model, names.features)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the method it stands for: ``generate`` reads there which inputs go to the vision tower."""
        return inspect.signature(self._look)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The model sees all tokens meanwhile; for building it, when nobody else asks it."""
        self.open = True
        try:
            yield
        finally:
            self.open = False

    def kept(self, total: int) -> int:
        """How many of an image's tokens stay: at least one."""
        return max(1, int(total * (100 - self.percent) / 100 + 0.5))

    def cut(self, inputs: dict[str, torch.Tensor], pad: int, left: bool) -> None:
        """Shorten a batch of whole sequences in place, and tell the positions that the tokens had."""
        if self.open:
            return
        ids, seen = inputs["input_ids"], inputs["attention_mask"].bool()
        marks = (ids == self.mark) & seen
        quota = torch.tensor([self.kept(int(n)) for n in marks.sum(1)])
        stays = seen & ~(marks & (marks.cumsum(1) > quota[:, None]))
        positions = self._positions(inputs, marks)
        length = int(stays.sum(1).max())
        order = stays.int().argsort(dim=1, stable=True, descending=not left)
        order = order[:, -length:] if left else order[:, :length]
        real = stays.gather(1, order)
        for name in SEQUENCES:
            if name in inputs:
                inputs[name] = inputs[name].gather(1, order).masked_fill(~real, pad if name == "input_ids" else 0)
        inputs["position_ids"] = positions.gather(-1, order.expand(*positions.shape[:-1], -1)).masked_fill(~real, 0)

    def _positions(self, inputs: dict[str, torch.Tensor], marks: torch.Tensor) -> torch.Tensor:
        """(B, T) or (3, B, T) of the whole sequences; an image token has ``_UNSEEN`` less than its image's first."""
        if self.layout is None:
            positions = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
        else:
            wanted = inspect.signature(self.layout).parameters
            positions, _ = self.layout(**{k: v for k, v in inputs.items() if k in wanted})
        first = positions.masked_fill(~marks, _UNSEEN).amin(-1, keepdim=True)
        return torch.where(marks, first - _UNSEEN, positions)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The image tokens' features, those that go left out."""
        found = self._look(*args, **kwargs)
        if self.open:
            return found
        features = found if isinstance(found, torch.Tensor) else found.pooler_output
        kept = self._choose(features)
        widths: tuple[int, ...] = ()
        if self.layout is not None:
            given = self.__signature__.bind(*args, **kwargs).arguments
            widths = tuple((given["image_grid_thw"][:, 2] // self.merge).tolist())
        _seen.set(_Seen(weakref.ref(self), tuple(kept), tuple(map(len, features)), widths))
        less = [image[index] for image, index in zip(features, kept)]
        if isinstance(found, torch.Tensor):
            return torch.stack(less)
        found.pooler_output = tuple(less)
        return found

    def _choose(self, features: torch.Tensor | Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Ascending indices for every image; images of one size at once."""
        rule = selection.RULES[self.rule]
        if len({len(image) for image in features}) == 1:
            together = features if isinstance(features, torch.Tensor) else torch.stack(tuple(features))
            return list(rule(together, self.kept(together.shape[1])))
        return [rule(image[None], self.kept(len(image)))[0] for image in features]

    def place(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Before the decoder runs on a prompt: the positions of the image tokens that stay."""
        seen, positions = _seen.get(), kwargs.get("position_ids")
        if seen is None or seen.sight() is not self or seen.placed or positions is None:
            return None
        seen.placed = True
        unseen = positions < -_UNSEEN // 2
        steps = torch.cat(seen.kept)
        if self.layout is not None:
            width = torch.cat([k.new_full((len(k),), w) for k, w in zip(seen.kept, seen.widths)])
            steps = torch.stack([torch.zeros_like(steps), steps // width, steps % width])
        moved = positions + _UNSEEN + torch.zeros_like(positions).masked_scatter(unseen, steps.to(positions.dtype))
        return args, kwargs | {"position_ids": torch.where(unseen, moved, positions)}

    def columns(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T) where each token of the batch ``ids``, padded on the right and just seen in this thread, stood in the
        whole sequences; padding stands anywhere."""
        seen = _seen.get()
        assert seen is not None and seen.sight() is self and len(seen.kept) == len(ids)
        marks = (ids == self.mark).cpu()
        columns = torch.arange(ids.shape[1]).repeat(len(ids), 1)
        for row, mark, kept, total in zip(columns, marks, seen.kept, seen.totals):
            start, stay = int(mark.int().argmax()), len(kept)
            row[start : start + stay] = start + kept.cpu()
            row[start + stay :] += total - stay
        return columns


def attach(model: PreTrainedModel, percent: int, rule: str = selection.DEFAULT) -> Sight:
    """From now on ``model`` sees ``percent`` less of an image.

    Raises:
        ValueError: a family that needs all image tokens.
    """
    names = architecture.of(model)
    if names.features is None:
        raise ValueError(f"no image tokens can be removed from the family '{model.config.model_type}'")
    made = Sight(model, names, percent, rule)
    owner, _, name = names.features.rpartition(".")
    setattr(model.get_submodule(owner), name, made)
    setattr(model, TOKEN_PRUNER, made)
    model.get_submodule(names.decoder).register_forward_pre_hook(made.place, with_kwargs=True)
    return made


def of(model: PreTrainedModel) -> Sight | None:
    """What leaves image tokens out of ``model``, if something does."""
    return getattr(model, TOKEN_PRUNER, None)


def _method(model: PreTrainedModel, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(model.get_submodule(owner), name)
