"""A fixed set of models for ZeroGPU, where every question runs in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from PIL import Image

from vlmcomp.feedback import Progress
from vlmcomp.recipe import Recipe, bits
from vlmcomp.results import answer
from vlmcomp.serving import variant_cache
from vlmcomp.serving.manager import Held, ManagerError

if TYPE_CHECKING:
    from vlmcomp.models.vlm import VLM
    from vlmcomp.runtime.engine import Engine
    from vlmcomp.runtime.vision_cache import SharedVision

ZERO_GPU_BYTES = 40 * 10**9  # of 48: beyond 45 every call would count twice; memory queries there are constants
_TOKENS = 64  # of the longest answer
_SECONDS_A_TOKEN = {"fp16": 0.06, "int8": 0.15, "int4": 0.08}  # twice the slowest that bitsandbytes publishes


class Fixed:
    """Models placed once, before the app is launched, because ZeroGPU runs every question in a process of its own that
    sees only what was there before. What would go over the budget is left out, and says so when it is asked for.

    Nor do their answers share a look at the image. ``seconds`` of GPU time are asked for by question, as the variant
    needs.
    """

    name = "fixed"

    def __init__(self, recipes: Sequence[Recipe], budget_bytes: int = ZERO_GPU_BYTES) -> None:
        self.budget_bytes = budget_bytes
        self.left_out: dict[Recipe, str] = {}
        self._models: dict[Recipe, VLM] = {}
        self._engines: dict[Recipe, Engine] = {}
        self._weights: dict[Recipe, int] = {}
        self._pieces: dict[Hashable, int] = {}
        self._held: list[Held] = []
        for recipe in recipes:
            try:
                self._place(recipe)
            except (ValueError, ManagerError) as error:
                self.left_out[recipe] = str(error)
        import spaces

        self._entry = spaces.GPU(self._on_gpu, duration=self.seconds)  # one for all: each entry starts a process

    def answers(
        self,
        recipe: Recipe,
        image: Image.Image,
        question: str,
        progress: Progress | None = None,
        vision: SharedVision | None = None,
    ) -> Iterator[answer.Answer]:
        if recipe not in self._models:
            others = ", ".join(r.name for r in self._models if r.model == recipe.model)
            why = self.left_out.get(recipe) or f"it is not among those kept here ({others or 'none of its model'})"
            raise ManagerError(f"{recipe} cannot be run on this machine: {why}")
        with closing(self._entry(recipe, image, question)) as news:
            yield from news

    def seconds(self, recipe: Recipe, image: Image.Image, question: str) -> int:
        """GPU time for one question: copying all models to it, and the longest answer."""
        copying = self._bytes / 3e9
        return math.ceil(5 + copying + _TOKENS * _SECONDS_A_TOKEN[bits(recipe.precision)])

    def weight_bytes(self, recipe: Recipe) -> int:
        return self._weights.get(recipe, 0)

    def held(self) -> list[Held]:
        return self._held

    def _on_gpu(self, recipe: Recipe, image: Image.Image, question: str) -> Iterator[answer.Answer]:
        from vlmcomp.runtime.engine import Engine

        if recipe not in self._engines:  # kernels are chosen where the GPU is
            self._engines[recipe] = Engine(self._models[recipe])
        with closing(self._engines[recipe].stream(image, question)) as news:
            yield from news

    def _place(self, recipe: Recipe) -> None:
        from vlmcomp.compression.size import weight_bytes
        from vlmcomp.compression.size_estimate import in_memory
        from vlmcomp.runtime.weight_sharing import pieces, share

        own, common = in_memory(recipe)
        added = own + common * all(r.model != recipe.model for r in self._models)
        if self._bytes + added > self.budget_bytes:
            raise ManagerError("there is no room for it beside the others")
        vlm = variant_cache.obtain(recipe)
        share(vlm, list(self._models.values()))
        new = {key: size for key, size in pieces(vlm.model).items() if key not in self._pieces}
        if self._bytes + sum(new.values()) > self.budget_bytes:
            raise ManagerError("there is no room for it beside the others")
        self._pieces |= new
        self._models[recipe] = vlm
        self._weights[recipe] = sum(weight_bytes(vlm.model).values())  # later, tensors here are empty
        self._held.append(Held(recipe, sum(new.values()), 0))

    @property
    def _bytes(self) -> int:
        return sum(self._pieces.values())
