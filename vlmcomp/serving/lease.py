"""A lease of a model that is loaded in a thread of its own, so that a visitor who waits for it can leave."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Generic, TypeVar

from vlmcomp.recipe import Recipe
from vlmcomp.serving.manager import ModelManager
from vlmcomp.serving.waiting import POLL_SECONDS, Waiting

T = TypeVar("T")


class BackgroundLease(Generic[T]):
    """A lease that lasts until the block ends. A model that is still being loaded then stays in memory, unleased."""

    def __init__(self, manager: ModelManager[T], recipe: Recipe) -> None:
        self._manager = manager
        self._recipe = recipe
        self._text = "loading"
        self._models: list[T] = []
        self._error: BaseException | None = None
        self._loaded = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._hold, daemon=True)

    def __enter__(self) -> BackgroundLease[T]:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._loaded.is_set():
            self._thread.join()

    def wait(self) -> Generator[Waiting, None, T]:
        """The model; yields how far it is until it is loaded, and raises why it cannot be."""
        while not self._loaded.wait(POLL_SECONDS):
            yield Waiting(self._text)
        if self._error is not None:
            raise self._error
        return self._models[0]

    def _hold(self) -> None:
        try:
            with self._manager.lease(self._recipe, self._report) as model:
                self._models.append(model)
                self._loaded.set()
                self._over.wait()
                self._models.clear()
        except BaseException as error:  # raised in the visitor's thread
            self._error = error
            self._loaded.set()

    def _report(self, stage: str, fraction: float) -> None:
        self._text = f"{stage}, {100 * fraction:.0f} %" if 0 < fraction < 1 else stage
