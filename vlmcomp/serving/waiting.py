"""What an answer waits for: others' answers and long calls. Every wait yields twice a second, so it can be given up."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from vlmcomp.feedback import format_count

T = TypeVar("T")
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Waiting:
    """What an answer waits for, in words for the visitor."""

    text: str


def call_in_background(function: Callable[[], T], text: str) -> Generator[Waiting, None, T]:
    """The result of ``function``, which runs in a thread of its own; its error is raised. Whoever closes the generator
    leaves the call to end by itself."""
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:  # raised in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(POLL_SECONDS)
    while thread.is_alive():
        yield Waiting(text)
        thread.join(POLL_SECONDS)
    if errors:
        raise errors[0]
    return results[0]


class Turns:
    """Timed answers run one at a time, in the order in which they asked for their turn."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._queue: deque[object] = deque()

    @contextmanager
    def take(self) -> Iterator[Turn]:
        """A place at the end of the queue, which is left when the block ends."""
        turn = Turn(self)
        with self._condition:
            self._queue.append(turn)
        try:
            yield turn
        finally:
            with self._condition:
                self._queue.remove(turn)
                self._condition.notify_all()


class Turn:
    """A place in the queue of ``Turns``."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def wait(self) -> Iterator[Waiting]:
        """Yields until all who asked before have left."""
        condition, queue = self._turns._condition, self._turns._queue
        while True:
            with condition:
                if condition.wait_for(lambda: queue[0] is self, POLL_SECONDS):
                    return
                before = queue.index(self)
            yield Waiting(f"waiting for {'another answer' if before == 1 else format_count(before, 'other answer')}")


class BackgroundWork:
    """What runs beside the answers, by kind, such as ``"build"``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._ended: dict[str, float] = {}

    @contextmanager
    def running(self, kind: str) -> Iterator[None]:
        """Work of that kind runs until the block ends."""
        with self._lock:
            self._running[kind] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[kind] -= 1
                self._ended[kind] = time.monotonic()

    def since(self, start: float) -> list[str]:
        """The kinds of which something has run since ``start``, a time of ``time.monotonic``."""
        with self._lock:
            running = {kind for kind, count in self._running.items() if count}
            return sorted(running | {kind for kind, ended in self._ended.items() if ended >= start})
