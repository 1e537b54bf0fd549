"""One vision tower pass over an image for all variants of a model, since no recipe changes the tower."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from vlmcomp.models.vlm import VLM


class VisionCache:
    """The last output of a vision tower, with its inputs; one entry.

    Attributes:
        saved_seconds: time that the last answer did not spend in the tower.
    """

    def __init__(self) -> None:
        self.saved_seconds = 0.0
        self._tower_key: tuple[str, str, torch.device] | None = None  # model, compute dtype, device
        self._inputs: tuple[Any, ...] = ()
        self._output: Any = None
        self._tower_seconds = 0.0

    @contextmanager
    def use_for(self, vlm: VLM) -> Iterator[None]:
        """Inside the context, reuse the tower output of another variant of ``vlm`` for the same pixels.

        The caller has ``vlm`` for itself meanwhile.
        """
        from vlmcomp.models.forward_override import override_forward
        from vlmcomp.runtime.device import synchronize

        tower = _vision_tower(vlm)
        tower_forward = tower.forward
        tower_key = (vlm.spec.name, vlm.compute_dtype, vlm.device)
        self.saved_seconds = 0.0

        def cached_forward(*args: Any, **kwargs: Any) -> Any:
            inputs = (*args, *(part for item in sorted(kwargs.items()) for part in item))
            if self._tower_key == tower_key and _same_inputs(inputs, self._inputs):
                self.saved_seconds = self._tower_seconds
                return copy.copy(self._output)  # families set attributes on it
            synchronize(vlm.device)
            start = time.perf_counter()
            output = tower_forward(*args, **kwargs)
            synchronize(vlm.device)
            self._tower_key = tower_key
            self._inputs = inputs
            self._output = copy.copy(output)
            self._tower_seconds = time.perf_counter() - start
            return output

        with override_forward(tower, cached_forward):
            yield


def _vision_tower(vlm: VLM) -> torch.nn.Module:
    from vlmcomp.models import architecture

    return vlm.model.get_submodule(architecture.get_architecture(vlm.model).prefixes["vision tower"][0])


def _same_inputs(inputs: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    return len(inputs) == len(others) and all(map(_equal, inputs, others))


def _equal(value: Any, other: Any) -> bool:
    if type(value) is not type(other):
        return False
    if hasattr(value, "shape"):
        return value.shape == other.shape and bool((value == other).all())
    return value == other
