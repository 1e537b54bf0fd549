"""The engines of the local backend: how they are loaded, what they occupy and what they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from PIL import Image

from vlmcomp.compression.size import weight_bytes
from vlmcomp.compression.size_estimate import estimate_memory
from vlmcomp.feedback import Progress
from vlmcomp.hardware import default_device
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.device import release_cached_memory
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.weight_sharing import share_weights_, storage_bytes
from vlmcomp.serving import variants
from vlmcomp.serving.manager import MemoryBlocks, ModelManager, ModelUnavailable
from vlmcomp.serving.variant_cache import VariantCache

Caches = Sequence[VariantCache]  # of which the last one is temporary


class NotBuilt(ModelUnavailable):
    """A variant that needs calibration is not in the caches, or not intact."""


def is_built(recipe: Recipe, caches: Caches) -> bool:
    """Whether ``recipe`` can be loaded without calibration."""
    if not recipe.needs_calibration:
        return True
    key = variants.cache_key(recipe, default_device())
    return any(cache.has(key) for cache in caches)


def create_manager(
    caches: Caches,
    loading: Callable[[], AbstractContextManager[object]],
    in_turn: Callable[[Progress], AbstractContextManager[object]],
    memory_budget: Callable[[], int],
    bytes_by_recipe: dict[Recipe, int],
) -> ModelManager[Engine]:
    """A manager of engines, which loads each of them when it is first leased.

    Args:
        caches: built variants on disk.
        loading: context in which a model is loaded.
        in_turn: context in which its kernels are chosen, by timing them, and it answers for the first time.
        memory_budget: bytes that all loaded models may occupy together.
        bytes_by_recipe: receives the bytes of every loaded model's weights as stored.
    """

    def build(recipe: Recipe, progress: Progress) -> Engine:
        with loading():
            vlm = _load(recipe, caches, progress)
        bytes_by_recipe[recipe] = sum(weight_bytes(vlm.model).values())
        with in_turn(progress):
            progress("warming up", 1.0)
            engine = Engine(vlm)
            # kernels are selected and loaded in the first answer
            engine.generate(Image.new("RGB", (96, 96)), "What is it?", 2)
        return engine

    return ModelManager(
        build,
        _memory_blocks,
        memory_budget,
        share_weights=_share_weights,
        estimate=estimate_memory,
        release_memory=release_cached_memory,
    )


def _load(recipe: Recipe, caches: Caches, progress: Progress) -> VLM:
    """The variant of ``recipe``, never calibrated here: that takes minutes, and nobody could stop it."""
    device = default_device()
    if not recipe.needs_calibration:
        return variants.get_or_build(recipe, device, caches[0], progress)
    key = variants.cache_key(recipe, device)
    vlm = variants.get(caches, key, device, progress)
    if vlm is None:
        raise NotBuilt(f"{recipe} was built, but is not in the cache any more: ask again")
    caches[-1].remove(key)
    return vlm


def _memory_blocks(engine: Engine) -> MemoryBlocks:
    return dict(storage_bytes(engine.vlm.model))


def _share_weights(engine: Engine, others: Sequence[Engine]) -> None:
    share_weights_(engine.vlm, [other.vlm for other in others])
