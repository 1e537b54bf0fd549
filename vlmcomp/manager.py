"""One keeper of loaded models for all visitors: built once, shared, and let go when memory is needed."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from vlmcomp.recipe import Recipe
from vlmcomp.report import amount

T = TypeVar("T")
Progress = Callable[[str, float], None]  # a text and a fraction from 0 to 1
ZERO_GPU_BYTES = 40 * 10**9  # its memory queries are constants in the main process, so the budget is written here


class ManagerError(RuntimeError):
    """A model cannot be held; the message is one sentence for the visitor."""


@dataclass(frozen=True)
class Resident:
    """One model in memory: its weights in bytes and how many visitors hold it now."""

    recipe: Recipe
    weight_bytes: int
    leases: int


@dataclass(eq=False)
class _Slot(Generic[T]):
    recipe: Recipe
    leases: int = 0
    thing: T | None = None
    weight_bytes: int = 0
    ready: bool = False
    error: BaseException | None = None
    used_at: int = 0
    listeners: list[Progress] = field(default_factory=list)

    def tell(self, text: str, fraction: float) -> None:
        for listener in tuple(self.listeners):
            with contextlib.suppress(Exception):  # one visitor's closed page must not fail the others' build
                listener(text, fraction)


class Manager(Generic[T]):
    """Builds each recipe at most once at a time and keeps what was built within ``budget_bytes``.

    Every wait for another visitor's lease is bounded by ``patience_seconds``, so no order of leases can lock up.
    ``estimate`` guesses the bytes of a recipe never built before, so that room is made before the build and not
    only after it; it never refuses a recipe. ``budget_bytes`` None means ``device_budget()``, asked at the first
    build because it needs torch.
    """

    def __init__(
        self,
        build: Callable[[Recipe, Progress], T],
        size: Callable[[T], int],
        budget_bytes: int | None = None,
        *,
        estimate: Callable[[Recipe], int] | None = None,
        patience_seconds: float = 120.0,
    ) -> None:
        self._build, self._size, self._estimate = build, size, estimate
        self._budget, self._patience = budget_bytes, patience_seconds
        self._slots: dict[Recipe, _Slot[T]] = {}
        self._known: dict[Recipe, int] = {}
        self._clock = itertools.count(1)
        self._change = threading.Condition()
        self._building = threading.Lock()

    @contextlib.contextmanager
    def lease(self, recipe: Recipe, progress: Progress | None = None) -> Iterator[T]:
        """Hold the built ``recipe``; it stays in memory until the block ends. ``progress`` follows a build.

        Raises:
            ManagerError: it is larger than the budget, or everything else in memory stayed in use.
            Exception: whatever ``build`` raised, to everyone who waited for that build.
        """
        slot, mine = self._claim(recipe, progress)
        if mine:
            self._fill(slot)
        try:
            yield slot.thing  # type: ignore[misc]
        finally:
            with self._change:
                slot.leases -= 1
                slot.used_at = next(self._clock)
                self._change.notify_all()

    def resident(self) -> list[Resident]:
        """What is in memory, the most recently used first; the bytes never sum to more than the budget."""
        with self._change:
            ready = sorted((s for s in self._slots.values() if s.ready), key=lambda s: -s.used_at)
            return [Resident(s.recipe, s.weight_bytes, s.leases) for s in ready]

    @property
    def budget_bytes(self) -> int | None:
        """Bytes that models may take together; None as long as the device has not been asked."""
        return self._budget

    def _claim(self, recipe: Recipe, progress: Progress | None) -> tuple[_Slot[T], bool]:
        """The pinned slot of ``recipe``, and whether the caller has to fill it."""
        with self._change:
            slot = self._slots.get(recipe)
            mine = slot is None
            if slot is None:
                slot = self._slots[recipe] = _Slot(recipe)
            slot.leases += 1
            slot.used_at = next(self._clock)
            if progress is not None:
                slot.listeners.append(progress)
            if not mine:
                self._change.wait_for(lambda: slot.ready or slot.error is not None)
                if slot.error is not None:
                    raise slot.error
            return slot, mine

    def _fill(self, slot: _Slot[T]) -> None:
        try:
            with self._building:  # one at a time: two half-built models could not make room for each other
                self._make_room(slot.recipe, self._expected(slot.recipe))
                thing = self._build(slot.recipe, slot.tell)
                weight_bytes = self._size(thing)
                with self._change:
                    self._known[slot.recipe] = weight_bytes
                    self._make_room(slot.recipe, weight_bytes)
                    slot.thing, slot.weight_bytes, slot.ready = thing, weight_bytes, True
        except BaseException as error:
            with self._change:
                slot.error = error
                del self._slots[slot.recipe]
            raise
        finally:
            with self._change:
                slot.listeners.clear()
                self._change.notify_all()

    def _expected(self, recipe: Recipe) -> int:
        if self._budget is None:
            self._budget = device_budget()
        if recipe in self._known:
            return self._known[recipe]
        return min(self._estimate(recipe), self._budget) if self._estimate else 0

    def _make_room(self, recipe: Recipe, needed: int) -> None:
        """Let idle models go, least recently used first, until ``needed`` bytes fit."""
        budget = self._budget
        assert budget is not None
        if needed > budget:
            raise ManagerError(
                f"{recipe} takes {amount(needed)}, more than the {amount(budget)} for models here; "
                "choose a smaller variant."
            )
        patient_until = time.monotonic() + self._patience
        dropped = False
        with self._change:
            while sum(s.weight_bytes for s in self._slots.values()) + needed > budget:
                idle = [s for s in self._slots.values() if s.ready and not s.leases]
                if idle:
                    del self._slots[min(idle, key=lambda s: s.used_at).recipe]
                    dropped = True
                elif not self._change.wait(patient_until - time.monotonic()):
                    raise ManagerError(f"There is no room for {recipe} while other models are in use; try again soon.")
        if dropped:
            _give_back()


def device_budget() -> int:
    """Bytes that models may take: 0.85 of the GPU's memory, else half of the memory this process may use."""
    if os.environ.get("SPACES_ZERO_GPU"):
        return ZERO_GPU_BYTES
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory * 0.85)
    limits = [psutil.virtual_memory().total]
    with contextlib.suppress(OSError, ValueError):  # a container's own limit, where there is one
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits) // 2


def _give_back() -> None:
    """Return the memory of dropped models to the device; modules refer to themselves, hence the collection."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
