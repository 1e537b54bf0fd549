"""Models that are loaded on demand, or built in a process of their own, and stay in memory as long as there is room."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from PIL import Image

from vlmcomp import files, hardware
from vlmcomp.feedback import Progress, is_out_of_memory
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.results.answer import Answer
from vlmcomp.runtime.vision_cache import VisionCache
from vlmcomp.serving.build_process import BuildProcess
from vlmcomp.serving.build_queue import BuildQueue
from vlmcomp.serving.lease import BackgroundLease
from vlmcomp.serving.manager import LOADABLE, NOT_BUILT, READY, LoadedModelInfo, ModelManager, ModelUnavailable
from vlmcomp.serving.variant_cache import VariantCache
from vlmcomp.serving.waiting import BackgroundWork, Turns, Waiting, call_in_background

if TYPE_CHECKING:
    from vlmcomp.runtime.engine import Engine

_importing = threading.Lock()
_BESIDE = {"build": "a variant was built at low priority", "load": "another model was loaded"}
Ask = Callable[["Engine"], Generator[Answer, None, None]]


def import_libraries() -> ModuleType:
    """``serving.engines``, and with it what builds and runs a model, imported in one thread at a time.

    transformers imports its modules on first use; two threads at it fail with "cannot import name".
    """
    with _importing:
        from vlmcomp.serving import engines  # imports torch: the page is served without
    return engines


class LocalBackend:
    """Answers with the models that ``manager`` has loaded on the GPU or the CPU. The first question imports torch.

    Only answers take turns. Meanwhile others load models in threads of their own, and one process builds what needs
    calibration.

    Args:
        cache: built variants on disk; None stores what is built only until it is loaded.
        memory_budget: bytes that all loaded models may occupy together.
    """

    name = "local"

    def __init__(
        self, cache: VariantCache | None = None, memory_budget: Callable[[], int] = hardware.memory_budget
    ) -> None:
        self._memory_budget = memory_budget
        self._weight_bytes: dict[Recipe, int] = {}
        self._manager: ModelManager[Engine] | None = None
        self._creating = threading.Lock()
        self._turns = Turns()
        self._background = BackgroundWork()
        folder = ExitStack()
        temporary = folder.enter_context(files.temporary_folder(Path(tempfile.gettempdir())))
        weakref.finalize(self, folder.close)
        # the second one is for what the first one cannot store
        self._caches = (cache or VariantCache(Path(), 0), VariantCache(temporary, sys.maxsize))
        root = cache.root if cache is not None and cache.limit_bytes > 0 else None
        self._builds = BuildQueue(self._start_build, self._building, root)

    @property
    def manager(self) -> ModelManager[Engine]:
        """The loaded models; created, with torch, when it is first needed."""
        engines = import_libraries()
        with self._creating:
            if self._manager is None:
                self._manager = engines.create_manager(
                    self._caches,
                    partial(self._background.running, "load"),
                    self._in_turn,
                    self._memory_budget,
                    self._weight_bytes,
                )
        return self._manager

    def readiness(self, recipe: Recipe) -> int:
        if any(model.recipe == recipe for model in self.loaded_models()):
            return READY
        is_built = not recipe.needs_calibration or any(cache.may_have(recipe) for cache in self._caches)
        return LOADABLE if is_built else NOT_BUILT

    def stream(
        self, recipe: Recipe, image: Image.Image, question: str, vision_cache: VisionCache | None = None
    ) -> Iterator[Answer | Waiting]:
        manager = yield from call_in_background(lambda: self.manager, "starting")

        def ask(engine: Engine) -> Generator[Answer, None, None]:
            return engine.stream(image, question, vision_cache=vision_cache)

        for _ in range(2):
            try:
                yield from self._stream(manager, recipe, ask)
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

    def _stream(self, manager: ModelManager[Engine], recipe: Recipe, ask: Ask) -> Iterator[Answer | Waiting]:
        """The answer of a model that is in memory, or is loaded or built first.

        Who waits for a turn leases no model that was in memory before: models in use cannot make room for others.
        """
        while self.readiness(recipe) == READY:
            with self._turns.take() as turn:
                yield from turn.wait()
                with manager.lease_loaded(recipe) as engine:
                    if engine is not None:
                        yield from self._answer(engine, ask)
                        return
        for is_last in (False, True):
            yield from self._build(recipe)
            try:
                yield from self._load_and_answer(manager, recipe, ask)
                return
            except import_libraries().NotBuilt:  # the entry was damaged, or evicted
                if is_last:
                    raise

    def _load_and_answer(self, manager: ModelManager[Engine], recipe: Recipe, ask: Ask) -> Iterator[Answer | Waiting]:
        with BackgroundLease(manager, recipe) as lease:
            engine = yield from lease.wait()
            with self._turns.take() as turn:
                yield from turn.wait()
                yield from self._answer(engine, ask)

    def _answer(self, engine: Engine, ask: Ask) -> Iterator[Answer]:
        start = time.monotonic()
        with closing(ask(engine)) as answers:
            for answer in answers:
                yield replace(answer, beside=" and ".join(_BESIDE[kind] for kind in self._background.since(start)))

    def _build(self, recipe: Recipe) -> Iterator[Waiting]:
        """Builds ``recipe`` unless it can be loaded."""
        engines = import_libraries()
        if recipe.needs_calibration:
            is_built = partial(engines.is_built, recipe, self._caches)
            if not (yield from call_in_background(is_built, "looking for it in the cache")):
                _check_may_build(recipe)
                yield from self._builds.wait(recipe)

    @contextmanager
    def _building(self, recipe: Recipe) -> Iterator[None]:
        """The context of every build: it has room, and answers know of it."""
        with self.manager.reserve(recipe), self._background.running("build"):
            yield

    @contextmanager
    def _in_turn(self, progress: Progress) -> Iterator[None]:
        with self._turns.take() as turn:
            for wait in turn.wait():
                progress(wait.text, 1.0)
            yield

    def _start_build(self, recipe: Recipe) -> BuildProcess:
        return BuildProcess(recipe, hardware.default_device(), self._caches)


def _check_may_build(recipe: Recipe) -> None:
    """Raises ``ModelUnavailable`` for a real model: its calibration takes minutes to hours, which is its owner's to
    spend."""
    if not registry.get_model_spec(recipe.model).bundled:
        raise ModelUnavailable(f"{recipe} is not built yet, which takes long: run vlmcomp compress {recipe} once")
