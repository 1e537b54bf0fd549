"""Models that are built when somebody asks, and stay in memory as long as there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from PIL import Image

from vlmcomp import hardware
from vlmcomp.hardware import out_of_memory
from vlmcomp.recipe import Recipe
from vlmcomp.runtime import engine
from vlmcomp.runtime.vision_cache import SharedVision
from vlmcomp.serving import variant_cache
from vlmcomp.serving.manager import Held, Manager, ManagerError, Pieces, Progress

if TYPE_CHECKING:
    from vlmcomp.models.vlm import VLM


class Resident:
    """Answers with what ``manager`` keeps in the memory of a GPU or the CPU, which holds ``budget`` bytes
    (``device_budget``); variants come from the ``kept`` ones on disk where they are there."""

    name = "resident"

    def __init__(self, kept: variant_cache.Cache | None = None, budget: Callable[[], int] | None = None) -> None:
        self._cache = kept
        self._weights: dict[Recipe, int] = {}
        self.manager: Manager[VLM] = Manager(
            self._build, _pieces, budget or device_budget, join=_share, estimate=_estimate
        )

    def answers(
        self,
        recipe: Recipe,
        image: Image.Image,
        question: str,
        progress: Progress | None = None,
        vision: SharedVision | None = None,
    ) -> Iterator[engine.Answer]:
        for _ in range(2):
            try:
                with self.manager.lease(recipe, progress) as vlm:
                    with closing(engine.stream(vlm, image, question, vision=vision)) as news:
                        yield from news
                return
            except Exception as error:  # its traceback holds tensors until this block ends
                if not out_of_memory(error):
                    raise
            self.manager.drop_idle(keep=recipe)
        raise ManagerError(f"this device's memory is too small to answer with {recipe}: choose a smaller variant.")

    def weight_bytes(self, recipe: Recipe) -> int:
        return self._weights.get(recipe, 0)

    def held(self) -> list[Held]:
        return self.manager.held()

    @property
    def budget_bytes(self) -> int | None:
        return self.manager.budget_bytes

    def _build(self, recipe: Recipe, progress: Progress) -> VLM:
        from vlmcomp.compression.size import weight_bytes

        vlm = variant_cache.obtain(recipe, cache=self._cache, progress=progress)
        self._weights[recipe] = sum(weight_bytes(vlm.model).values())
        progress("warming up", 1.0)
        engine.ask(vlm, Image.new("RGB", (96, 96)), "What is it?", 2)  # no visitor should pay for the first answer
        return vlm


def device_budget() -> int:
    """Bytes that models may take: 0.85 of the GPU memory that is free now, else half of the RAM this process may use,
    and never more than 0.8 of what is free of it now."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0] * 0.85)
    return int(min(hardware.memory_limit() * 0.5, psutil.virtual_memory().available * 0.8))


def _estimate(recipe: Recipe) -> tuple[int, int]:
    from vlmcomp.compression.size_estimate import in_memory

    return in_memory(recipe)


def _pieces(vlm: VLM) -> Pieces:
    from vlmcomp.runtime.weight_sharing import pieces

    return pieces(vlm.model)


def _share(vlm: VLM, others: Sequence[VLM]) -> None:
    from vlmcomp.runtime.weight_sharing import share

    share(vlm, others)
