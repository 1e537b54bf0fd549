"""One keeper of loaded models for all visitors: built once, shared, and let go when memory is needed."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vlmcomp.feedback import Progress, out_of_memory
from vlmcomp.recipe import Recipe
from vlmcomp.results.schema import amount

T = TypeVar("T")
Pieces = Mapping[Hashable, int]  # what lies in memory -> its bytes; things that share have keys in common


class ManagerError(RuntimeError):
    """A model cannot be held; the message is one sentence for the visitor."""


@dataclass(frozen=True)
class Held:
    """One model in memory: bytes that nothing else there shares, and how many visitors hold it now."""

    recipe: Recipe
    own_bytes: int
    leases: int


@dataclass(eq=False)
class _Slot(Generic[T]):
    recipe: Recipe
    leases: int = 0
    thing: T | None = None
    pieces: Pieces = field(default_factory=dict)
    ready: bool = False
    error: BaseException | None = None
    used_at: int = 0
    listeners: list[Progress] = field(default_factory=list)

    def tell(self, text: str, fraction: float) -> None:
        for listener in tuple(self.listeners):
            with contextlib.suppress(Exception):  # one visitor's closed page must not fail the others' build
                listener(text, fraction)


def _nothing_shared(thing: object, others: Sequence[object]) -> None:
    pass


class Manager(Generic[T]):
    """Builds each recipe at most once at a time and keeps what was built within ``budget`` bytes.

    ``pieces`` says what a built thing takes; ``join`` lets it share with the other variants of its model, so that
    each piece counts once. ``estimate`` guesses, for a recipe never built before, the bytes of its own and those that
    it has in common with other variants: room is made for them before the build, and what cannot fit is not built.
    Memory that runs out during a build is met once: idle models go, and the build starts again. Every wait for
    another visitor's lease is bounded by ``patience_seconds``, so no order of leases can lock up.
    """

    def __init__(
        self,
        build: Callable[[Recipe, Progress], T],
        pieces: Callable[[T], Pieces],
        budget: Callable[[], int],
        *,
        join: Callable[[T, Sequence[T]], None] = _nothing_shared,
        estimate: Callable[[Recipe], tuple[int, int]] = lambda recipe: (0, 0),
        patience_seconds: float = 120.0,
    ) -> None:
        self._build, self._pieces, self._join, self._estimate = build, pieces, join, estimate
        self._ask_budget, self._budget, self._patience = budget, None, patience_seconds
        self._slots: dict[Recipe, _Slot[T]] = {}
        self._known: dict[Recipe, tuple[int, int]] = {}
        self._clock = itertools.count(1)
        self._change = threading.Condition()
        self._building = threading.Lock()

    @contextlib.contextmanager
    def lease(self, recipe: Recipe, progress: Progress | None = None) -> Iterator[T]:
        """Hold the built ``recipe``; it stays in memory until the block ends. No lock is held meanwhile.

        Raises:
            ManagerError: it is larger than the budget or the memory, or everything else there stayed in use.
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

    def held(self) -> list[Held]:
        """What is in memory, the most recently used first."""
        with self._change:
            ready = sorted(self._ready(), key=lambda s: -s.used_at)
            return [Held(s.recipe, self._bytes(ready) - self._bytes(ready, s), s.leases) for s in ready]

    def held_bytes(self) -> int:
        """Bytes of all models in memory, what they share counted once; never more than the budget."""
        with self._change:
            return self._bytes(self._ready())

    @property
    def budget_bytes(self) -> int | None:
        """Bytes that models may take together; None as long as the device has not been asked."""
        return self._budget

    def drop_idle(self, keep: Recipe | None = None) -> None:
        """Let every model but ``keep`` go that no visitor holds."""
        with self._change:
            for slot in [s for s in self._ready() if not s.leases and s.recipe != keep]:
                del self._slots[slot.recipe]
        _give_back()

    def _ready(self) -> list[_Slot[T]]:
        return [s for s in self._slots.values() if s.ready]

    @staticmethod
    def _bytes(slots: Sequence[_Slot[T]], without: _Slot[T] | None = None) -> int:
        together: dict[Hashable, int] = {}
        for slot in slots:
            if slot is not without:
                together |= slot.pieces
        return sum(together.values())

    def _claim(self, recipe: Recipe, progress: Progress | None) -> tuple[_Slot[T], bool]:
        """The pinned slot of ``recipe``, and whether the caller has to fill it."""
        with self._change:
            slot = self._slots.get(recipe)
            mine = slot is None
            if slot is None:
                slot = self._slots[recipe] = _Slot(recipe)
            slot.leases += 1
            slot.used_at = next(self._clock)
            if progress is not None and not slot.ready:
                slot.listeners.append(progress)
            if not mine:
                self._change.wait_for(lambda: slot.ready or slot.error is not None)
                if slot.error is not None:
                    raise slot.error
            return slot, mine

    def _fill(self, slot: _Slot[T]) -> None:
        try:
            if self._building.locked():
                slot.tell("waiting until another model is built", 0.0)
            with self._building:  # one at a time: two half-built models could not make room for each other
                if self._budget is None:
                    self._budget = self._ask_budget()
                self._make_room(slot, *self._expected(slot.recipe))
                self._admit(slot, self._built(slot))
        except BaseException as error:
            with self._change:
                slot.error = error
                del self._slots[slot.recipe]
            raise
        finally:
            with self._change:
                slot.listeners.clear()
                self._change.notify_all()

    def _built(self, slot: _Slot[T]) -> T:
        try:
            return self._build(slot.recipe, slot.tell)
        except Exception as error:  # its traceback holds what was half built until this block ends
            if not out_of_memory(error):
                raise
        self.drop_idle()
        slot.tell("memory ran out: starting again with more room", 0.0)
        try:
            return self._build(slot.recipe, slot.tell)
        except Exception as error:
            if not out_of_memory(error):
                raise
        _give_back()
        raise ManagerError(f"this device's memory is too small to build {slot.recipe}: choose a smaller variant.")

    def _admit(self, slot: _Slot[T], thing: T) -> None:
        """Let the other variants share with ``thing``, and let it in."""
        with self._change:
            family = [s for s in self._ready() if s.recipe.model == slot.recipe.model]
        self._join(thing, [s.thing for s in family if s.thing is not None])
        pieces = self._pieces(thing)
        total = sum(pieces.values())
        common = sum(size for key, size in pieces.items() if any(key in s.pieces for s in family))
        if not family:
            common = min(total, self._known.get(slot.recipe, self._guess(slot.recipe))[1])
        self._known[slot.recipe] = (total - common, common)

        def added() -> int:
            there = {key for s in self._ready() for key in s.pieces}
            return sum(size for key, size in pieces.items() if key not in there)

        with self._change:
            self._make_room(slot, total, added)
            slot.thing, slot.pieces, slot.ready = thing, pieces, True

    def _guess(self, recipe: Recipe) -> tuple[int, int]:
        with contextlib.suppress(ValueError):  # what is wrong with a recipe, its build says best
            return self._estimate(recipe)
        return (0, 0)

    def _expected(self, recipe: Recipe) -> tuple[int, Callable[[], int]]:
        """Bytes that ``recipe`` will take, and those that it adds to what is held at the time of asking."""
        own, common = self._known.get(recipe) or self._guess(recipe)
        return own + common, lambda: own + common * all(s.recipe.model != recipe.model for s in self._ready())

    def _make_room(self, slot: _Slot[T], total: int, added: Callable[[], int]) -> None:
        """Let idle models go, least recently used first, until what is ``added`` to the rest fits."""
        budget = self._budget
        assert budget is not None
        if total > budget:
            raise ManagerError(
                f"{slot.recipe} takes {amount(total)}, more than the {amount(budget)} for models here; "
                "choose a smaller variant."
            )
        patient_until, dropped = time.monotonic() + self._patience, False
        with self._change:
            while self._bytes(self._ready()) + added() > budget:
                idle = [s for s in self._ready() if not s.leases]
                if idle:
                    del self._slots[min(idle, key=lambda s: s.used_at).recipe]
                    dropped = True
                elif not self._change.wait(patient_until - time.monotonic()):
                    raise ManagerError(
                        f"There is no room for {slot.recipe} while other models are in use; try again soon."
                    )
        if dropped:
            _give_back()


def _give_back() -> None:
    """Return the memory of dropped models to the device; modules refer to themselves, hence the collection."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        from vlmcomp.runtime.device import GPU

        with GPU:
            torch.cuda.empty_cache()
