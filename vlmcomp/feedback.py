"""Feedback to the caller of long operations: progress, sizes for people, and errors as one sentence."""

from __future__ import annotations

from collections.abc import Callable

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
