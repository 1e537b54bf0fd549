"""Between long operations and their caller: progress, sizes for people, errors as one sentence, and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

Progress = Callable[[str, float], None]  # receives what is being done, and the fraction done from 0 to 1


def format_bytes(count: int) -> str:
    """Bytes for people, in powers of ten: ``7.7 MB``, ``1.5 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that memory ran out, on a GPU or in RAM."""
    if isinstance(error, MemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in message or "can't allocate memory" in message)


def error_summary(error: Exception) -> str:
    """The first line of a library's error message, or the error's type if the message is empty."""
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__


class Terminated(KeyboardInterrupt):
    """SIGTERM told the process to end: an exception, so that what has begun cleans up after itself."""


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Inside the context SIGTERM raises ``Terminated`` in the main thread. In other threads it has no effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


def _raise_terminated(number: int, frame: Any) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one must not stop the cleaning up
    raise Terminated
