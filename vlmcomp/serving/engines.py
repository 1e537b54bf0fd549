"""The engines of the local backend: how they are built, what they occupy and what they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from vlmcomp.compression.size import weight_bytes
from vlmcomp.compression.size_estimate import estimate_memory
from vlmcomp.feedback import Progress
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.device import release_cached_memory
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.weight_sharing import share_weights_, storage_bytes
from vlmcomp.serving.manager import MemoryBlocks, ModelManager
from vlmcomp.serving.variant_cache import VariantCache
from vlmcomp.serving.variants import get_or_build


def create_manager(
    cache: VariantCache | None, memory_budget: Callable[[], int], bytes_by_recipe: dict[Recipe, int]
) -> ModelManager[Engine]:
    """A manager of engines, which builds each of them when it is first leased.

    Args:
        cache: built variants on disk; None builds every variant anew.
        memory_budget: bytes that all loaded models may occupy together.
        bytes_by_recipe: receives the bytes of every built model's weights as stored.
    """

    def build(recipe: Recipe, progress: Progress) -> Engine:
        vlm = get_or_build(recipe, cache=cache, progress=progress)
        bytes_by_recipe[recipe] = sum(weight_bytes(vlm.model).values())
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


def _memory_blocks(engine: Engine) -> MemoryBlocks:
    return dict(storage_bytes(engine.vlm.model))


def _share_weights(engine: Engine, others: Sequence[Engine]) -> None:
    share_weights_(engine.vlm, [other.vlm for other in others])
