"""Rows of users' files that cannot be used: they are errors, or are skipped and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmcomp.feedback import format_count

BAD_ROWS = ("error", "skip")  # what to do with them


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    ``reason`` is a sentence that names file and row. ``id`` is the sample's; None if the row did not become one.
    ``number``: of the row in its file.
    """

    id: str | None
    reason: str
    number: int


def check_choice(bad_rows: str) -> None:
    """Raises ``ValueError`` if ``bad_rows`` is not one of ``BAD_ROWS``."""
    if bad_rows not in BAD_ROWS:
        raise ValueError(f"unknown treatment '{bad_rows}' of bad rows: choose from {', '.join(BAD_ROWS)}")


def refuse(bad: Sequence[BadRow], total: int, bad_rows: str) -> None:
    """Raise unless the ``bad`` rows of ``total`` may be skipped.

    Raises:
        ValueError: there are bad rows and ``bad_rows`` is ``"error"``, or no other rows; the message names the first.
    """
    if not bad:
        return
    first = min(bad, key=lambda row: row.number).reason
    if len(bad) == total:
        number = "the only row is bad" if total == 1 else f"all {format_count(total, 'row')} are bad"
        raise ValueError(f"{first}; {number}")
    if bad_rows == "error":
        number = f"{len(bad)} of {format_count(total, 'row')} {'is' if len(bad) == 1 else 'are'} bad"
        raise ValueError(f"{first}; {number}: correct what is wrong, or skip such rows with --bad-rows skip")


def format_skipped(count: int) -> str:
    """``2 bad rows skipped``."""
    return f"{format_count(count, 'bad row')} skipped"
