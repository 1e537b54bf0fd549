"""Word-level differences of two answers, as HTML. All text from models is escaped."""

from __future__ import annotations

import difflib
import html


def same_words(one: str, other: str) -> bool:
    """Whether two answers have the same words, ignoring case."""
    return one.lower().split() == other.lower().split()


def highlight_changes(before: str, after: str) -> str:
    """``after`` with its new words in ``<mark>`` and the removed words of ``before`` in ``<del>``, ignoring case."""
    old = before.split()
    new = after.split()
    matcher = difflib.SequenceMatcher(a=[w.lower() for w in old], b=[w.lower() for w in new], autojunk=False)
    parts = []
    for operation, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        removed = html.escape(" ".join(old[old_start:old_end]))
        added = html.escape(" ".join(new[new_start:new_end]))
        if operation == "equal":
            parts.append(added)
            continue
        if removed:
            parts.append(f'<del title="only in the FP16 answer">{removed}</del>')
        if added:
            parts.append(f"<mark>{added}</mark>")
    return " ".join(parts)
