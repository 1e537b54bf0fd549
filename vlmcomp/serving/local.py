"""Models that are built when somebody asks, and stay in memory as long as there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from PIL import Image

from vlmcomp.feedback import Progress, out_of_memory
from vlmcomp.hardware import device_budget
from vlmcomp.recipe import Recipe
from vlmcomp.results import answer
from vlmcomp.serving import variant_cache
from vlmcomp.serving.manager import Held, Manager, ManagerError, Pieces

if TYPE_CHECKING:
    from vlmcomp.runtime.engine import Engine
    from vlmcomp.runtime.vision_cache import SharedVision


class Resident:
    """Answers with what ``manager`` keeps in the memory of a GPU or the CPU, which holds ``budget`` bytes
    (``device_budget``); variants come from the ``kept`` ones on disk where they are there."""

    name = "resident"

    def __init__(self, kept: variant_cache.Cache | None = None, budget: Callable[[], int] | None = None) -> None:
        self._cache = kept
        self._weights: dict[Recipe, int] = {}
        self.manager: Manager[Engine] = Manager(
            self._build, _pieces, budget or device_budget, join=_share, estimate=_estimate
        )

    def answers(
        self,
        recipe: Recipe,
        image: Image.Image,
        question: str,
        progress: Progress | None = None,
        vision: SharedVision | None = None,
    ) -> Iterator[answer.Answer]:
        for _ in range(2):
            try:
                with self.manager.lease(recipe, progress) as engine:
                    with closing(engine.stream(image, question, vision=vision)) as news:
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

    def _build(self, recipe: Recipe, progress: Progress) -> Engine:
        from vlmcomp.compression.size import weight_bytes
        from vlmcomp.runtime.engine import Engine

        vlm = variant_cache.obtain(recipe, cache=self._cache, progress=progress)
        self._weights[recipe] = sum(weight_bytes(vlm.model).values())
        progress("warming up", 1.0)
        engine = Engine(vlm)
        engine.generate(Image.new("RGB", (96, 96)), "What is it?", 2)  # no visitor should pay for the first answer
        return engine


def _estimate(recipe: Recipe) -> tuple[int, int]:
    from vlmcomp.compression.size_estimate import in_memory

    return in_memory(recipe)


def _pieces(engine: Engine) -> Pieces:
    from vlmcomp.runtime.weight_sharing import pieces

    return pieces(engine.vlm.model)


def _share(engine: Engine, others: Sequence[Engine]) -> None:
    from vlmcomp.runtime.weight_sharing import share

    share(engine.vlm, [other.vlm for other in others])
