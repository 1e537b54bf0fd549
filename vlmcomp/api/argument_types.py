"""Types and ranges of the API's arguments: what is wrong with one is a sentence, before any work. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path

_NOT_LISTS = (str, bytes, bytearray, Path, Mapping)


def check_count(name: str, value: object, least: int | None = None, most: int | None = None) -> None:
    """Raises ``ValueError`` unless the argument ``name`` is a whole number from ``least`` to ``most``."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not (least or -math.inf) <= int(value) <= (most or math.inf):  # type: ignore[call-overload]
        limits = "" if least is None else f" from {least}" + ("" if most is None else f" to {most}")
        raise ValueError(f"{name} must be a whole number{limits}, not {shown(value)}")


def check_number(name: str, value: object) -> None:
    """Raises ``ValueError`` unless the argument ``name`` is a number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, not {shown(value)}")


def check_texts(**arguments: object) -> None:
    """Raises ``ValueError`` for an argument that is neither a text nor None."""
    for name, value in arguments.items():
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} must be a text, not {shown(value)}")


def check_paths(**arguments: object) -> None:
    """Raises ``ValueError`` for an argument that is neither a path nor None."""
    for name, value in arguments.items():
        if value is not None and (not isinstance(value, str | Path) or value == ""):
            raise ValueError(f"{name} must be a path, not {shown(value)}")


def check_progress(progress: object) -> None:
    """Raises ``ValueError`` for what is no function, not "terminal" and not None."""
    if progress not in (None, "terminal") and not callable(progress):
        raise ValueError(f"progress must be a function of a text and a fraction, or 'terminal', not {shown(progress)}")


def check_tasks(tasks: object) -> tuple[str, ...]:
    """The names and folders as texts. Raises ``ValueError`` for anything but a list of them, such as a single one."""
    names = [] if isinstance(tasks, _NOT_LISTS) or not isinstance(tasks, Iterable) else list(tasks)
    if isinstance(tasks, _NOT_LISTS) or not isinstance(tasks, Iterable) or not all(map(_is_task, names)):
        example = str(tasks) if isinstance(tasks, str | Path) else "shapes-vqa"
        raise ValueError(f"tasks must be a list of names and folders, such as [{example!r}], not {shown(tasks)}")
    return tuple(map(str, names))


def _is_task(name: object) -> bool:
    return isinstance(name, str | Path) and name != ""


def check_list(name: str, value: object, what: str) -> list[object]:
    """``value`` as a list. Raises ``ValueError`` if the argument ``name`` is a single item or none of ``what``."""
    if isinstance(value, _NOT_LISTS) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a list of {what}, not {shown(value)}")
    return list(value)


def shown(value: object) -> str:
    """A short value as it is written, or the name of its type."""
    text = repr(value)
    is_plain = isinstance(value, str | bytes | int | float | Path | None) and len(text) <= 60
    return text if is_plain else type(value).__name__
