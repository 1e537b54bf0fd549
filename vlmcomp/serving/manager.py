"""The process-wide manager of loaded models: builds each once, shares it among visitors, evicts it for memory."""

from __future__ import annotations

import contextlib
import gc
import itertools
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vlmcomp.feedback import Progress, format_bytes, is_out_of_memory
from vlmcomp.recipe import Recipe

T = TypeVar("T")
MemoryBlocks = Mapping[Hashable, int]  # block of memory -> its bytes; models that share weights have keys in common


READY, LOADABLE, NOT_BUILT = range(3)  # what an answer needs before: nothing, loading, or building and loading


class ModelUnavailable(RuntimeError):
    """A model cannot be loaded here now; the message is one sentence for the visitor."""


@dataclass(frozen=True)
class LoadedModelInfo:
    """A model in memory: bytes that it shares with no other, and the number of visitors who lease it now."""

    recipe: Recipe
    own_bytes: int
    leases: int


@dataclass(eq=False)
class _Slot(Generic[T]):
    recipe: Recipe
    leases: int = 0
    model: T | None = None
    memory_blocks: MemoryBlocks = field(default_factory=dict)
    ready: bool = False
    error: BaseException | None = None
    used_at: int = 0
    listeners: list[Progress] = field(default_factory=list)

    def report_progress(self, text: str, fraction: float) -> None:
        for listener in tuple(self.listeners):
            with contextlib.suppress(Exception):  # one visitor's closed page must not fail the others' build
                listener(text, fraction)


class ModelManager(Generic[T]):
    """Builds each recipe at most once at a time and caches the models within a memory budget, least recently used out.

    Room is made before a build; a model that cannot fit is not built. If memory runs out during a build, idle models
    are evicted and the build starts again, once. Every wait for another visitor's lease is bounded, so no order of
    leases can deadlock.

    Args:
        build: builds the model of a recipe and reports its progress.
        memory_blocks: the blocks of memory that a built model occupies.
        memory_budget: bytes that all models may occupy together; called before the first build.
        share_weights: replaces weights of a new model by equal ones of the other variants, so that they count once.
        estimate: for a recipe never built before, the bytes of its own and those in common with its model's variants.
        release_memory: returns the memory of evicted models to the device.
        lease_timeout: seconds to wait for another visitor's lease to end.
    """

    def __init__(
        self,
        build: Callable[[Recipe, Progress], T],
        memory_blocks: Callable[[T], MemoryBlocks],
        memory_budget: Callable[[], int],
        *,
        share_weights: Callable[[T, Sequence[T]], None] = lambda model, others: None,
        estimate: Callable[[Recipe], tuple[int, int]] = lambda recipe: (0, 0),
        release_memory: Callable[[], object] = gc.collect,
        lease_timeout: float = 120.0,
    ) -> None:
        self._build = build
        self._memory_blocks = memory_blocks
        self._memory_budget = memory_budget
        self._share_weights = share_weights
        self._estimate = estimate
        self._release_memory = release_memory
        self._lease_timeout = lease_timeout
        self._budget: int | None = None
        self._slots: dict[Recipe, _Slot[T]] = {}
        self._measured_bytes: dict[Recipe, tuple[int, int]] = {}
        self._clock = itertools.count(1)
        self._evictions = 0
        self._reserved = 0
        self._condition = threading.Condition()
        self._build_lock = threading.Lock()

    @contextlib.contextmanager
    def lease(self, recipe: Recipe, progress: Progress | None = None) -> Iterator[T]:
        """The model of ``recipe``, which stays in memory until the block ends. No lock is held meanwhile.

        Raises:
            ModelUnavailable: it exceeds the budget or the memory, or all other models stayed in use.
            Exception: whatever ``build`` raised, for every visitor who waited for that build.
        """
        with self._leased(self._claim(recipe, progress)) as model:
            yield model

    @contextlib.contextmanager
    def lease_loaded(self, recipe: Recipe) -> Iterator[T | None]:
        """As ``lease``, without loading: None if the model of ``recipe`` is not in memory."""
        with contextlib.ExitStack() as lease:
            with self._condition:
                slot = next((s for s in self._ready() if s.recipe == recipe), None)
                if slot is not None:
                    slot.leases += 1
            yield None if slot is None else lease.enter_context(self._leased(slot))

    @contextlib.contextmanager
    def reserve(self, recipe: Recipe) -> Iterator[None]:
        """Room for ``recipe`` beside the models until the block ends: another process builds it.

        Raises:
            ModelUnavailable: as ``lease``.
        """
        total = sum(self._measured_bytes.get(recipe) or self._estimate_or_zero(recipe))
        with self._build_lock, self._evicting():
            self._make_room(recipe, total, lambda: total)
            self._reserved += total
        try:
            yield
        finally:
            with self._condition:
                self._reserved -= total
                self._condition.notify_all()

    @contextlib.contextmanager
    def _leased(self, slot: _Slot[T]) -> Iterator[T]:
        """The model of a slot that has been leased, until the block ends."""
        try:
            yield slot.model  # type: ignore[misc]
        finally:
            with self._condition:
                slot.leases -= 1
                slot.used_at = next(self._clock)
                self._condition.notify_all()

    def loaded_models(self) -> list[LoadedModelInfo]:
        """The models in memory, the most recently used first."""
        with self._condition:
            ready = sorted(self._ready(), key=lambda s: -s.used_at)
            return [LoadedModelInfo(s.recipe, self._bytes(ready) - self._bytes(ready, s), s.leases) for s in ready]

    @property
    def budget_bytes(self) -> int | None:
        """Bytes that all models may occupy together; None before the first build."""
        return self._budget

    def evict_idle(self, keep: Recipe | None = None) -> None:
        """Evict every model that no visitor leases, except ``keep``."""
        with self._condition:
            self._slots = {r: s for r, s in self._slots.items() if not s.ready or s.leases or r == keep}
        self._release_memory()

    def _ready(self) -> list[_Slot[T]]:
        return [s for s in self._slots.values() if s.ready]

    @staticmethod
    def _bytes(slots: Sequence[_Slot[T]], without: _Slot[T] | None = None) -> int:
        blocks: dict[Hashable, int] = {}
        for slot in slots:
            if slot is not without:
                blocks |= slot.memory_blocks
        return sum(blocks.values())

    def _claim(self, recipe: Recipe, progress: Progress | None) -> _Slot[T]:
        """The slot of ``recipe``, loaded, with one more lease."""
        with self._condition:
            slot = self._slots.get(recipe)
            is_new = slot is None
            if slot is None:
                slot = self._slots[recipe] = _Slot(recipe)
            slot.leases += 1
            slot.used_at = next(self._clock)
            if progress is not None and not slot.ready:
                slot.listeners.append(progress)
            if not is_new:
                self._condition.wait_for(lambda: slot.ready or slot.error is not None)
                if slot.error is not None:
                    raise slot.error
        if is_new:
            self._load(slot)
        return slot

    def _load(self, slot: _Slot[T]) -> None:
        try:
            if self._build_lock.locked():
                slot.report_progress("waiting until another model is loaded", 0.0)
            with self._build_lock:  # one at a time: two half-built models could not make room for each other
                with self._evicting():
                    self._make_room(slot.recipe, *self._expected_bytes(slot.recipe))
                self._admit(slot, self._build_with_retry(slot))
        except BaseException as error:
            with self._condition:
                slot.error = error
                del self._slots[slot.recipe]
            raise
        finally:
            with self._condition:
                slot.listeners.clear()
                self._condition.notify_all()

    def _build_with_retry(self, slot: _Slot[T]) -> T:
        try:
            return self._build(slot.recipe, slot.report_progress)
        except Exception as error:  # its traceback refers to the half-built model until this block ends
            if not is_out_of_memory(error):
                raise
        self.evict_idle()
        slot.report_progress("memory ran out: starting again with more room", 0.0)
        try:
            return self._build(slot.recipe, slot.report_progress)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._release_memory()
        raise ModelUnavailable(f"this device's memory is too small to build {slot.recipe}: choose a smaller variant.")

    def _admit(self, slot: _Slot[T], model: T) -> None:
        """Make a built model available once it fits beside the others."""
        blocks = self._share_and_measure(slot.recipe, model)

        def added() -> int:
            present = {key for s in self._ready() for key in s.memory_blocks}
            return sum(size for key, size in blocks.items() if key not in present)

        with self._evicting():
            self._make_room(slot.recipe, sum(blocks.values()), added)
            slot.model = model
            slot.memory_blocks = blocks
            slot.ready = True
            self._condition.notify_all()

    def _share_and_measure(self, recipe: Recipe, model: T) -> MemoryBlocks:
        """Memory blocks of ``model`` after it shares weights with the loaded variants of its base model."""
        with self._condition:
            variants = [s for s in self._ready() if s.recipe.model == recipe.model]
        self._share_weights(model, [s.model for s in variants if s.model is not None])
        blocks = self._memory_blocks(model)
        total = sum(blocks.values())
        common = sum(size for key, size in blocks.items() if any(key in s.memory_blocks for s in variants))
        if not variants:
            common = min(total, self._measured_bytes.get(recipe, self._estimate_or_zero(recipe))[1])
        self._measured_bytes[recipe] = (total - common, common)
        return blocks

    def _estimate_or_zero(self, recipe: Recipe) -> tuple[int, int]:
        with contextlib.suppress(ValueError):  # the build of an impossible recipe gives the better error
            return self._estimate(recipe)
        return (0, 0)

    def _expected_bytes(self, recipe: Recipe) -> tuple[int, Callable[[], int]]:
        """Bytes that ``recipe`` will occupy, and a function that returns how many of them the loaded models lack."""
        own, common = self._measured_bytes.get(recipe) or self._estimate_or_zero(recipe)
        return own + common, lambda: own + common * all(s.recipe.model != recipe.model for s in self._ready())

    @contextlib.contextmanager
    def _evicting(self) -> Iterator[None]:
        """Holds the condition, and after it releases the memory of the models that the block evicted.

        Releasing takes the CUDA lock, which another visitor's answer may own until its end. A thread that waits for it
        must neither hold the condition, which every lease needs, nor refer to an evicted model.
        """
        before = self._evictions
        try:
            with self._condition:
                yield
        finally:
            if self._evictions > before:
                self._release_memory()

    def _make_room(self, recipe: Recipe, total: int, added: Callable[[], int]) -> None:
        """Evict idle models, least recently used first, until ``added()`` bytes fit beside the rest."""
        if self._budget is None:
            self._budget = self._memory_budget()
        budget = self._budget
        if total > budget:
            raise ModelUnavailable(
                f"{recipe} needs {format_bytes(total)}, more than the {format_bytes(budget)} for models here; "
                "choose a smaller variant."
            )
        deadline = time.monotonic() + self._lease_timeout
        while self._bytes(self._ready()) + self._reserved + added() > budget:
            idle = [s for s in self._ready() if not s.leases]
            if idle:
                del self._slots[min(idle, key=lambda s: s.used_at).recipe]
                self._evictions += 1
            elif not self._condition.wait(deadline - time.monotonic()):
                raise ModelUnavailable(
                    f"There is no room for {recipe} while other models are in use or built; try again soon."
                )
