"""What long work tells its caller: progress, and a library's error in one sentence."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]  # what is being done, and the fraction done from 0 to 1


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: on a GPU, in RAM, or in a library that only says so."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in said or "can't allocate memory" in said)
    )


def first_line(error: Exception) -> str:
    """What a library's error begins with, or its kind where it says nothing."""
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__
