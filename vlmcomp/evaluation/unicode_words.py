"""Words of texts in any script, for metrics whose own tokenizers know English."""

from __future__ import annotations

import unicodedata

from vlmcomp.data.unicode_text import fold

# Beginnings of the Unicode names of letters that are written without spaces between words
_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_JOINERS = "\u200c\u200d"  # zero-width, inside the words of Persian and of Indic scripts


def split(text: str) -> list[str]:
    """Lower-cased runs of letters, marks, digits and joiners; each character of scripts without spaces.

    Of ASCII text these are the words of the ROUGE that Hugging Face evaluate computes.
    """
    kept = (c if unicodedata.category(c)[0] in "LMN" or c in _JOINERS else " " for c in fold(text).lower())
    words = (word.strip(_JOINERS) for word in separate("".join(kept)).split())
    return [word for word in words if word]


def separate(text: str) -> str:
    """``text`` with spaces around every character of scripts that are written without them."""
    if text.isascii():
        return text
    return "".join(f" {c} " if unicodedata.name(c, "").startswith(_WITHOUT_SPACES) else c for c in text)
