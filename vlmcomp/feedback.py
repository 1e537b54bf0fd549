"""Between long operations and their caller: progress, amounts for people, errors as one sentence, and SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

from tqdm import tqdm

Progress = Callable[[str, float], None]  # receives what is being done, and the fraction done from 0 to 1
ShownProgress: TypeAlias = "Progress | Literal['terminal'] | None"  # an argument of the API: see ``shown_progress``
_BAR = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"


def format_bytes(count: int) -> str:
    """Bytes for people, in powers of ten: ``7.7 MB``, ``1.5 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def format_count(count: int, noun: str) -> str:
    """A number and its noun, in the plural unless it is one: ``1 question``, ``2,000 questions``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that memory ran out, on a GPU or in RAM."""
    if isinstance(error, MemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in message or "can't allocate memory" in message)


def error_summary(error: Exception) -> str:
    """The first line of a library's error message, or the error's type if the message is empty. A line that ends in a
    colon goes on with the next one."""
    if isinstance(error, KeyError):  # its message is the key alone
        return f"{error} is missing"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    count = next((number for number, line in enumerate(lines, 1) if not line.endswith(":")), len(lines))
    return " ".join(lines[:count]).removesuffix(":") or type(error).__name__


def refuse_empty(**texts: object) -> None:
    """Raises ``ValueError`` for an argument that is an empty text, which must not mean the default, or the current
    folder."""
    for name, text in texts.items():
        if isinstance(text, str) and not text.strip():
            raise ValueError(f"{name} is empty: give a value, or leave it out")


@contextmanager
def shown_progress(progress: ShownProgress) -> Iterator[Progress]:
    """``progress`` as a function, inside the block. "terminal" shows a bar with the time that has passed and the time
    left on stderr, if that is a terminal, and removes it at the end; None shows nothing."""
    if callable(progress):
        yield progress
    elif progress is None or not sys.stderr.isatty():
        yield lambda text, fraction: None
    else:
        with tqdm(total=1.0, file=sys.stderr, leave=False, bar_format=_BAR) as bar:
            yield partial(_show, bar)


def _show(bar: tqdm[NoReturn], text: str, fraction: float) -> None:
    if fraction < bar.n:
        bar.reset()  # another stage, whose time starts now
    if text != bar.desc:
        bar.set_description_str(text)
    bar.update(fraction - bar.n)


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


def package_environment() -> dict[str, str]:
    """The environment of this process, in which a new one finds this package wherever it is started."""
    folders = (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH"))
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
