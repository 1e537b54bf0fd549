"""Models that are built on demand and stay in memory as long as there is room."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from types import ModuleType
from typing import TYPE_CHECKING

from PIL import Image

from vlmcomp import hardware
from vlmcomp.feedback import Progress, is_out_of_memory
from vlmcomp.recipe import Recipe
from vlmcomp.results.answer import Answer
from vlmcomp.runtime.vision_cache import VisionCache
from vlmcomp.serving.manager import LoadedModelInfo, ModelManager, ModelUnavailable
from vlmcomp.serving.variant_cache import VariantCache

if TYPE_CHECKING:
    from vlmcomp.runtime.engine import Engine

_importing = threading.Lock()


def import_libraries() -> ModuleType:
    """``serving.engines``, and with it what builds and runs a model, imported in one thread at a time.

    transformers imports its modules on first use; two threads at it fail with "cannot import name".
    """
    with _importing:
        from vlmcomp.serving import engines  # imports torch: the page is served without
    return engines


class LocalBackend:
    """Answers with the models that ``manager`` has loaded on the GPU or the CPU. The first question imports torch.

    Args:
        cache: built variants on disk; None builds every variant anew.
        memory_budget: bytes that all loaded models may occupy together.
    """

    name = "local"

    def __init__(
        self, cache: VariantCache | None = None, memory_budget: Callable[[], int] = hardware.memory_budget
    ) -> None:
        self._cache = cache
        self._memory_budget = memory_budget
        self._weight_bytes: dict[Recipe, int] = {}
        self._manager: ModelManager[Engine] | None = None
        self._creating = threading.Lock()

    @property
    def manager(self) -> ModelManager[Engine]:
        """The loaded models; created, with torch, when it is first needed."""
        engines = import_libraries()
        with self._creating:
            if self._manager is None:
                self._manager = engines.create_manager(self._cache, self._memory_budget, self._weight_bytes)
        return self._manager

    def stream(
        self,
        recipe: Recipe,
        image: Image.Image,
        question: str,
        progress: Progress | None = None,
        vision_cache: VisionCache | None = None,
    ) -> Iterator[Answer]:
        manager = self.manager
        for _ in range(2):
            try:
                with manager.lease(recipe, progress) as engine:
                    with closing(engine.stream(image, question, vision_cache=vision_cache)) as answers:
                        yield from answers
                return
            except Exception as error:  # its traceback refers to tensors until this block ends
                if not is_out_of_memory(error):
                    raise
            manager.evict_idle(keep=recipe)
        raise ModelUnavailable(f"this device's memory is too small to answer with {recipe}: choose a smaller variant.")

    def weight_bytes(self, recipe: Recipe) -> int:
        return self._weight_bytes.get(recipe, 0)

    def loaded_models(self) -> list[LoadedModelInfo]:
        return self._manager.loaded_models() if self._manager else []

    @property
    def budget_bytes(self) -> int | None:
        return self._manager.budget_bytes if self._manager else None
