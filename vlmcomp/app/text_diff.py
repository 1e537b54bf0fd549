"""Two answers word by word, as HTML. Everything that a person or a model wrote is escaped."""

from __future__ import annotations

import difflib
import html


def same_words(one: str, other: str) -> bool:
    """Whether two answers have the same words."""
    return one.lower().split() == other.lower().split()


def highlight_changes(before: str, after: str) -> str:
    """``after`` with the words marked that ``before`` has not, and those struck out that it lost.

    Without its marks the text is ``after``; case is not a difference.
    """
    old, new = before.split(), after.split()
    matcher = difflib.SequenceMatcher(a=[w.lower() for w in old], b=[w.lower() for w in new], autojunk=False)
    parts = []
    for what, a0, a1, b0, b1 in matcher.get_opcodes():
        gone, come = html.escape(" ".join(old[a0:a1])), html.escape(" ".join(new[b0:b1]))
        if what == "equal":
            parts.append(come)
            continue
        if gone:
            parts.append(f'<del title="only FP16 says this">{gone}</del>')
        if come:
            parts.append(f"<mark>{come}</mark>")
    return " ".join(parts)
