"""Removes image tokens between projector and decoder at run time: the step ``visNN``."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from transformers import PreTrainedModel

from vlmcomp.compression.visual_tokens import selection
from vlmcomp.models import architecture
from vlmcomp.models.vlm import TOKEN_PRUNER

SEQUENCE_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")  # one value a token
_UNRESOLVED = 1 << 20  # subtracted from the positions of image tokens until the vision tower has run


@dataclass
class _ForwardState:
    """The images of one forward pass.

    Attributes:
        pruner: weak, since the context variable outlives the model.
        kept: for every image, the indices of the tokens that remain.
        totals: image tokens before pruning.
        grid_widths: tokens in a row of the image, where positions are laid out as the image is.
        has_positions: whether the decoder has received the positions.
    """

    pruner: weakref.ref[VisualTokenPruner]
    kept: tuple[torch.Tensor, ...]
    totals: tuple[int, ...]
    grid_widths: tuple[int, ...]
    has_positions: bool = False


# Several variants answer at the same time, each thread with one forward pass after the other.
_state: ContextVar[_ForwardState | None] = ContextVar("state", default=None)


class VisualTokenPruner:
    """Removes ``percent`` of every image's tokens from the input of a model's decoder; one image a prompt.

    How many are removed follows from their number alone, so that ``shorten_inputs`` runs before the vision tower; which
    ones is decided in the model's forward pass, after vision tower and projector have run once. The others keep their
    position ids of the whole sequence.
    """

    def __init__(self, model: PreTrainedModel, names: architecture.ArchitectureSpec, percent: int, method: str) -> None:
        assert names.image_features_method is not None  # attach_ refuses such a family
        self.percent = percent
        self.method = method
        self.is_disabled = False
        self.image_token_id = model.config.image_token_id
        self.rope_index = _get_method(model, names.rope_index_method) if names.rope_index_method else None
        self.merge_size = getattr(model.config.vision_config, "spatial_merge_size", 1)
        self._image_features = _get_method(model, names.image_features_method)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The model receives all tokens inside the context; not thread-safe."""
        self.is_disabled = True
        try:
            yield
        finally:
            self.is_disabled = False

    def num_kept(self, total: int) -> int:
        """The number of an image's ``total`` tokens that remain: at least one."""
        return max(1, int(total * (100 - self.percent) / 100 + 0.5))

    def shorten_inputs(self, inputs: dict[str, torch.Tensor], pad: int, left: bool) -> None:
        """Remove image tokens from a batch of whole sequences in place, and add the position ids of the others.

        Args:
            inputs: of the model; (B, T) each.
            pad: id of the padding token.
            left: whether padding is on the left.
        """
        if self.is_disabled:
            return
        is_token = inputs["attention_mask"].bool()
        is_image = (inputs["input_ids"] == self.image_token_id) & is_token
        quota = torch.tensor([self.num_kept(int(total)) for total in is_image.sum(1)])
        is_kept = is_token & ~(is_image & (is_image.cumsum(1) > quota[:, None]))
        positions = self._whole_positions(inputs, is_image)
        length = int(is_kept.sum(1).max())
        order = is_kept.int().argsort(dim=1, stable=True, descending=not left)
        order = order[:, -length:] if left else order[:, :length]
        is_padding = ~is_kept.gather(1, order)
        for name in SEQUENCE_INPUTS:
            if name in inputs:
                fill = pad if name == "input_ids" else 0
                inputs[name] = inputs[name].gather(1, order).masked_fill(is_padding, fill)
        positions = positions.gather(-1, order.expand(*positions.shape[:-1], -1))
        inputs["position_ids"] = positions.masked_fill(is_padding, 0)

    def _whole_positions(self, inputs: dict[str, torch.Tensor], is_image: torch.Tensor) -> torch.Tensor:
        """(B, T) or (3, B, T) positions in the whole sequences; those of image tokens are the position of the image's
        first token minus ``_UNRESOLVED``."""
        if self.rope_index is None:
            positions = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
        else:
            accepted = inspect.signature(self.rope_index).parameters
            positions, _ = self.rope_index(**{name: value for name, value in inputs.items() if name in accepted})
        first = positions.masked_fill(~is_image, _UNRESOLVED).amin(-1, keepdim=True)
        return torch.where(is_image, first - _UNRESOLVED, positions)

    def image_features(self, *args: Any, **kwargs: Any) -> Any:
        """The features of the image tokens that remain; arguments and type are those of the model's own method."""
        output = self._image_features(*args, **kwargs)
        if self.is_disabled:
            return output
        features = output if isinstance(output, torch.Tensor) else output.pooler_output
        kept = self._select(features)
        grid_widths: tuple[int, ...] = ()
        if self.rope_index is not None:
            arguments = inspect.signature(self._image_features).bind(*args, **kwargs).arguments
            grid_widths = tuple((arguments["image_grid_thw"][:, 2] // self.merge_size).tolist())
        _state.set(_ForwardState(weakref.ref(self), tuple(kept), tuple(map(len, features)), grid_widths))
        kept_features = [image[indices] for image, indices in zip(features, kept)]
        if isinstance(output, torch.Tensor):
            return torch.stack(kept_features)
        output.pooler_output = tuple(kept_features)
        return output

    def _select(self, features: torch.Tensor | Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Ascending indices for every image; images of one size are processed as a batch."""
        select = selection.SELECTION_METHODS[self.method]
        if len({len(image) for image in features}) == 1:
            batch = features if isinstance(features, torch.Tensor) else torch.stack(tuple(features))
            return list(select(batch, self.num_kept(batch.shape[1])))
        return [select(image[None], self.num_kept(len(image)))[0] for image in features]

    def position_ids_hook(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Forward pre-hook of the decoder: resolves the positions of the image tokens of a prompt."""
        state = _state.get()
        positions = kwargs.get("position_ids")
        if state is None or state.pruner() is not self or state.has_positions or positions is None:
            return None
        state.has_positions = True
        is_unresolved = positions < -_UNRESOLVED // 2
        offsets = torch.cat(state.kept)
        if self.rope_index is not None:
            widths = torch.cat(
                [kept.new_full((len(kept),), width) for kept, width in zip(state.kept, state.grid_widths)]
            )
            offsets = torch.stack([torch.zeros_like(offsets), offsets // widths, offsets % widths])
        offsets = torch.zeros_like(positions).masked_scatter(is_unresolved, offsets.to(positions.dtype))
        resolved = torch.where(is_unresolved, positions + _UNRESOLVED + offsets, positions)
        return args, kwargs | {"position_ids": resolved}

    def kept_positions(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T) the position of each token in the whole sequences; that of padding has no meaning.

        Args:
            ids: (B, T) padded on the right, of this thread's last forward pass.
        """
        state = _state.get()
        assert state is not None and state.pruner() is self and len(state.kept) == len(ids)
        is_image = (ids == self.image_token_id).cpu()
        positions = torch.arange(ids.shape[1]).repeat(len(ids), 1)
        for row, row_is_image, kept, total in zip(positions, is_image, state.kept, state.totals):
            start = int(row_is_image.int().argmax())
            end = start + len(kept)
            row[start:end] = start + kept.cpu()
            row[end:] += total - len(kept)
        return positions


def attach_(model: PreTrainedModel, percent: int, method: str = selection.DEFAULT_METHOD) -> VisualTokenPruner:
    """Remove ``percent`` of the tokens of every image from now on.

    Args:
        model: of a family whose image tokens can be removed.
        percent: of every image's tokens.
        method: a key of ``SELECTION_METHODS``.

    Raises:
        ValueError: a family that needs all image tokens.
    """
    names = architecture.get_architecture(model)
    if names.image_features_method is None:
        raise ValueError(f"no image tokens can be removed from the family '{model.config.model_type}'")
    token_pruner = VisualTokenPruner(model, names, percent, method)
    owner, _, name = names.image_features_method.rpartition(".")
    module = model.get_submodule(owner)
    setattr(module, name, _bound_with_signature(token_pruner, getattr(module, name)))
    setattr(model, TOKEN_PRUNER, token_pruner)
    decoder = model.get_submodule(names.decoder)
    decoder.register_forward_pre_hook(token_pruner.position_ids_hook, with_kwargs=True)
    return token_pruner


def _bound_with_signature(token_pruner: VisualTokenPruner, method: MethodType) -> Callable[..., Any]:
    """``token_pruner.image_features`` with the signature of ``method``: ``generate`` reads there which inputs belong to
    the vision tower. It is a bound method, so that a deep copy of the model calls the copy of the pruner."""

    @functools.wraps(method.__func__)
    def image_features(self: VisualTokenPruner, *args: Any, **kwargs: Any) -> Any:
        return self.image_features(*args, **kwargs)

    return MethodType(image_features, token_pruner)


def get_token_pruner(model: PreTrainedModel) -> VisualTokenPruner | None:
    """The attached pruner, or None."""
    return getattr(model, TOKEN_PRUNER, None)


def _get_method(model: PreTrainedModel, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(model.get_submodule(owner), name)
