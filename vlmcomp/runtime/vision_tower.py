"""A model whose vision tower answers from a cache."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from vlmcomp.models import architecture
from vlmcomp.models.forward_override import override_forward
from vlmcomp.models.vlm import VLM
from vlmcomp.runtime.device import synchronize
from vlmcomp.runtime.vision_cache import VisionCache


@contextmanager
def use_vision_cache(vlm: VLM, cache: VisionCache) -> Iterator[None]:
    """Inside the context, ``vlm`` reuses the tower output of another variant of its model for the same pixels.

    The caller has ``vlm`` for itself meanwhile.
    """
    tower = _vision_tower(vlm)
    tower_forward = tower.forward
    tower_key = (vlm.spec.name, vlm.compute_dtype, vlm.device)
    cache.saved_seconds = 0.0

    def cached_forward(*args: Any, **kwargs: Any) -> Any:
        inputs = (*args, *(part for item in sorted(kwargs.items()) for part in item))
        cached = cache.get(tower_key, inputs)
        if cached is not None:
            return cached
        synchronize(vlm.device)
        start = time.perf_counter()
        output = tower_forward(*args, **kwargs)
        synchronize(vlm.device)
        cache.put(tower_key, inputs, output, time.perf_counter() - start)
        return output

    with override_forward(tower, cached_forward):
        yield


def _vision_tower(vlm: VLM) -> nn.Module:
    return vlm.model.get_submodule(architecture.get_architecture(vlm.model).prefixes["vision tower"][0])
