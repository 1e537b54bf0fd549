"""One look at an image for all variants of a model: no recipe changes the vision tower."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from vlmcomp.models.vlm import VLM


class SharedVision:
    """What the vision tower of one model made of one image; ``spared`` are the seconds that the last answer saved."""

    def __init__(self) -> None:
        self._of: tuple[str, str, torch.device] | None = None
        self._given: tuple[Any, ...] = ()
        self._made: Any = None
        self._took = self.spared = 0.0

    @contextmanager
    def serving(self, vlm: VLM) -> Iterator[None]:
        """Meanwhile ``vlm``, which nobody else asks, takes what another variant's tower made of the same pixels."""
        from vlmcomp.models.forward_override import override_forward
        from vlmcomp.runtime.device import synchronize

        tower, me = _tower(vlm), (vlm.spec.name, vlm.dtype_computed, vlm.device)
        look, self.spared = tower.forward, 0.0

        def forward(*args: Any, **kwargs: Any) -> Any:
            given = (*args, *(part for item in sorted(kwargs.items()) for part in item))
            if self._of == me and _same(given, self._given):
                self.spared = self._took
                return copy.copy(self._made)  # families hang their own things on it
            synchronize(vlm.device)
            start = time.perf_counter()
            made = look(*args, **kwargs)
            synchronize(vlm.device)
            self._of, self._given, self._took = me, given, time.perf_counter() - start
            self._made = copy.copy(made)
            return made

        with override_forward(tower, forward):
            yield


def _tower(vlm: VLM) -> torch.nn.Module:
    from vlmcomp.models import architecture

    return vlm.model.get_submodule(architecture.of(vlm.model).prefixes["vision tower"][0])


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return len(one) == len(other) and all(
        type(a) is type(b) and (a.shape == b.shape and bool((a == b).all()) if hasattr(a, "shape") else a == b)
        for a, b in zip(one, other)
    )
