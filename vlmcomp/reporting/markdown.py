"""Markdown and plain-text tables."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Plain-text columns; all ``rows`` have the same length."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    """Markdown table: the first ``left`` columns are left-aligned, the others right-aligned.

    A ``|`` in a cell, such as in the name of a task, is escaped.
    """
    rule = [":--" if i < left else "--:" for i in range(len(head))]
    rows = ([cell.replace("|", "\\|") for cell in cells] for cells in (head, rule, *lines))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
