"""Models that are built on demand and stay in memory as long as there is room."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from PIL import Image

from vlmcomp import hardware
from vlmcomp.feedback import Progress, is_out_of_memory
from vlmcomp.recipe import Recipe
from vlmcomp.results.answer import Answer
from vlmcomp.serving import variant_cache
from vlmcomp.serving.manager import LoadedModelInfo, MemoryBlocks, ModelManager, ModelUnavailable

if TYPE_CHECKING:
    from vlmcomp.runtime.engine import Engine
    from vlmcomp.runtime.vision_cache import VisionCache

_importing = threading.Lock()


def import_libraries() -> None:
    """Import what builds and runs a model, in one thread at a time.

    transformers imports its modules on first use; two threads at it fail with "cannot import name".
    """
    with _importing:
        for name in ("compression.pipeline", "compression.size_estimate", "runtime.engine"):
            importlib.import_module(f"vlmcomp.{name}")


class LocalBackend:
    """Answers with the models that ``manager`` has loaded on the GPU or the CPU.

    Args:
        cache: built variants on disk; None builds every variant anew.
        memory_budget: bytes that all loaded models may occupy together; ``hardware.memory_budget`` by default.
    """

    name = "local"

    def __init__(
        self, cache: variant_cache.VariantCache | None = None, memory_budget: Callable[[], int] | None = None
    ) -> None:
        self._cache = cache
        self._weight_bytes: dict[Recipe, int] = {}
        self.manager: ModelManager[Engine] = ModelManager(
            self._build,
            _memory_blocks,
            memory_budget or hardware.memory_budget,
            share_weights=_share_weights,
            estimate=_estimate,
        )

    def stream(
        self,
        recipe: Recipe,
        image: Image.Image,
        question: str,
        progress: Progress | None = None,
        vision_cache: VisionCache | None = None,
    ) -> Iterator[Answer]:
        import_libraries()
        for _ in range(2):
            try:
                with self.manager.lease(recipe, progress) as engine:
                    with closing(engine.stream(image, question, vision_cache=vision_cache)) as answers:
                        yield from answers
                return
            except Exception as error:  # its traceback refers to tensors until this block ends
                if not is_out_of_memory(error):
                    raise
            self.manager.evict_idle(keep=recipe)
        raise ModelUnavailable(f"this device's memory is too small to answer with {recipe}: choose a smaller variant.")

    def weight_bytes(self, recipe: Recipe) -> int:
        return self._weight_bytes.get(recipe, 0)

    def loaded_models(self) -> list[LoadedModelInfo]:
        return self.manager.loaded_models()

    @property
    def budget_bytes(self) -> int | None:
        return self.manager.budget_bytes

    def _build(self, recipe: Recipe, progress: Progress) -> Engine:
        from vlmcomp.compression.size import weight_bytes
        from vlmcomp.runtime.engine import Engine

        vlm = variant_cache.get_or_build(recipe, cache=self._cache, progress=progress)
        self._weight_bytes[recipe] = sum(weight_bytes(vlm.model).values())
        progress("warming up", 1.0)
        engine = Engine(vlm)
        engine.generate(
            Image.new("RGB", (96, 96)), "What is it?", 2
        )  # kernels are selected and loaded in the first answer
        return engine


def _estimate(recipe: Recipe) -> tuple[int, int]:
    from vlmcomp.compression.size_estimate import estimate_memory

    return estimate_memory(recipe)


def _memory_blocks(engine: Engine) -> MemoryBlocks:
    from vlmcomp.runtime.weight_sharing import storage_bytes

    return dict(storage_bytes(engine.vlm.model))


def _share_weights(engine: Engine, others: Sequence[Engine]) -> None:
    from vlmcomp.runtime.weight_sharing import share_weights_

    share_weights_(engine.vlm, [other.vlm for other in others])
