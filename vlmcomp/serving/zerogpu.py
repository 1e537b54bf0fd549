"""A fixed set of models for ZeroGPU, where every question runs in a separate process."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import closing

from PIL import Image

from vlmcomp.compression.size import weight_bytes
from vlmcomp.compression.size_estimate import estimate_memory
from vlmcomp.hardware import default_device
from vlmcomp.models import registry
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe, base_precision
from vlmcomp.results.answer import Answer
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.vision_cache import VisionCache
from vlmcomp.runtime.weight_sharing import share_weights_, storage_bytes
from vlmcomp.serving.manager import READY, LoadedModelInfo, ModelUnavailable
from vlmcomp.serving.variant_cache import VariantCache
from vlmcomp.serving.variants import cache_key, get_or_build
from vlmcomp.serving.waiting import Turns, Waiting

ZERO_GPU_BYTES = 40 * 10**9  # of 48: from 45 on every call costs twice the quota; memory queries return constants there
_MAX_TOKENS = 64  # of the longest answer
_SECONDS_PER_TOKEN = {"fp16": 0.06, "int8": 0.15, "int4": 0.08}  # twice the slowest that bitsandbytes publishes


class ZeroGpuBackend:
    """Models loaded once, before the app is launched: ZeroGPU runs every question in a new process, which inherits only
    what was loaded before.

    Recipes that exceed the budget are skipped, with the reason in ``skipped``. Image features are not shared between
    variants. Each question requests ``gpu_seconds`` of GPU time.

    Args:
        recipes: the models, in the order of preference.
        cache: built variants on disk, so that a second start is quick; None builds every variant anew.
        budget_bytes: bytes that all of them may occupy together.
    """

    name = "zerogpu"

    def __init__(
        self, recipes: Sequence[Recipe], cache: VariantCache | None = None, budget_bytes: int = ZERO_GPU_BYTES
    ) -> None:
        self.budget_bytes = budget_bytes
        self._cache = cache
        self._turns = Turns()
        self.skipped: dict[Recipe, str] = {}
        self._models: dict[Recipe, VLM] = {}
        self._engines: dict[Recipe, Engine] = {}
        self._weight_bytes: dict[Recipe, int] = {}
        self._memory_blocks: dict[Hashable, int] = {}
        self._loaded: list[LoadedModelInfo] = []
        for recipe in recipes:
            try:
                self._load(recipe)
            except (ValueError, ModelUnavailable) as error:
                self.skipped[recipe] = str(error)
        import spaces

        self._gpu_function = spaces.GPU(
            self._on_gpu, duration=self.gpu_seconds
        )  # one for all recipes: each decorated function starts a process

    def readiness(self, recipe: Recipe) -> int:
        return READY

    def stream(
        self, recipe: Recipe, image: Image.Image, question: str, vision_cache: VisionCache | None = None
    ) -> Iterator[Answer | Waiting]:
        if recipe not in self._models:
            others = ", ".join(r.name for r in self._models if r.model == recipe.model)
            reason = self.skipped.get(recipe) or f"it is not one of those loaded here ({others or 'none of its model'})"
            raise ModelUnavailable(f"{recipe} cannot be run on this machine: {reason}")
        with self._turns.take() as turn:
            yield from turn.wait()
            with closing(self._gpu_function(recipe, image, question)) as answers:
                yield from answers

    def gpu_seconds(self, recipe: Recipe, image: Image.Image, question: str) -> int:
        """Seconds of GPU time for one question: copying all models to the GPU, and the longest answer."""
        copy_seconds = self._loaded_bytes / 3e9
        return math.ceil(5 + copy_seconds + _MAX_TOKENS * _SECONDS_PER_TOKEN[base_precision(recipe.precision)])

    def weight_bytes(self, recipe: Recipe) -> int:
        return self._weight_bytes.get(recipe, 0)

    def loaded_models(self) -> list[LoadedModelInfo]:
        return self._loaded

    def _on_gpu(self, recipe: Recipe, image: Image.Image, question: str) -> Iterator[Answer]:
        if recipe not in self._engines:  # kernels can be selected only where there is a GPU
            self._engines[recipe] = Engine(self._models[recipe])
        with closing(self._engines[recipe].stream(image, question)) as answers:
            yield from answers

    def _load(self, recipe: Recipe) -> None:
        own, common = estimate_memory(recipe)
        self._require_room(own + common * all(r.model != recipe.model for r in self._models))
        if recipe.needs_calibration and not self._starts_quickly(recipe):
            raise ModelUnavailable("it is not in the cache, and calibrating it would delay the start")
        vlm = get_or_build(recipe, cache=self._cache)
        share_weights_(vlm, list(self._models.values()))
        new = {key: size for key, size in storage_bytes(vlm.model).items() if key not in self._memory_blocks}
        self._require_room(sum(new.values()))
        self._memory_blocks |= new
        self._models[recipe] = vlm
        self._weight_bytes[recipe] = sum(weight_bytes(vlm.model).values())  # ZeroGPU empties the tensors here later
        self._loaded.append(LoadedModelInfo(recipe, sum(new.values()), 0))

    def _starts_quickly(self, recipe: Recipe) -> bool:
        """Whether a recipe that needs calibration is cached, or of a bundled model, which takes seconds."""
        is_bundled = registry.get_model_spec(recipe.model).bundled
        return is_bundled or (self._cache is not None and self._cache.has(cache_key(recipe, default_device())))

    def _require_room(self, added_bytes: int) -> None:
        if self._loaded_bytes + added_bytes > self.budget_bytes:
            raise ModelUnavailable("there is no room for it beside the others")

    @property
    def _loaded_bytes(self) -> int:
        return sum(self._memory_blocks.values())
