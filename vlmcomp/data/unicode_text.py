"""Text in any script: what a model is given of it, and which forms of it are the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_HARMFUL = ("Cc", "Cs")  # control characters, and halves of surrogate pairs, which no tokenizer takes
_UNPRINTABLE = (*_HARMFUL, "Zl", "Zp")
_WITH_MEANING = ("<super>", "<sub>", "<fraction>")  # kinds of compatible characters that say more than the plain ones
# Soft hyphen, zero-width space, word joiner, byte order mark, marks of direction, variants of a glyph
_UNSEEN = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufe00-\ufe0f\ufeff]")


def clean(text: str, tokens: Sequence[str] = ()) -> str:
    """``text`` as a model is given it.

    Control characters are removed, line ends become LF, and runs of spaces and tabs one space. All else stays: joiners
    and marks of direction belong to the spelling in many scripts.

    Args:
        text: of a user.
        tokens: texts that mean something else to the model, which become spaces.
    """
    kept = (c for c in "\n".join(text.splitlines()) if c in "\n\t" or unicodedata.category(c) not in _HARMFUL)
    text = "".join(kept)
    for token in tokens:
        text = text.replace(token, " ")
    return "\n".join(re.sub("[ \t]+", " ", line).strip(" ") for line in text.split("\n")).strip()


def is_blank(text: str) -> bool:
    """Whether nothing of ``text`` can be seen: it has neither letters nor digits, punctuation nor symbols."""
    return all(unicodedata.category(c)[0] in "CMZ" for c in text)


def escape(text: object) -> str:
    """``text`` for a sentence: line breaks and control characters as their escape sequences."""
    return "".join(c if unicodedata.category(c) not in _UNPRINTABLE else ascii(c)[1:-1] for c in str(text))


def fold(text: str) -> str:
    """``text`` with one form for what Unicode can write in several; ASCII text is unchanged.

    That is NFKC (Unicode Standard Annex 15), in which full-width letters are the plain ones, but for superscripts,
    subscripts and fractions, since 2⁵ is not 25; and characters that nobody sees are removed, but for the joiners of
    Persian, Indic scripts and emoji.
    """
    if text.isascii():
        return text
    seen = _UNSEEN.sub("", text)
    compatible = (c if _has_meaning(c) else unicodedata.normalize("NFKC", c) for c in seen)
    return unicodedata.normalize("NFC", "".join(compatible))


def _has_meaning(character: str) -> bool:
    return unicodedata.decomposition(character).startswith(_WITH_MEANING)
