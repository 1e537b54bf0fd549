"""Words of texts in any script, for metrics whose own tokenizers know English."""

from __future__ import annotations

import unicodedata

# Beginnings of the Unicode names of letters that are written without spaces between words
_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def split(text: str) -> list[str]:
    """Lower-cased runs of letters, marks and digits; each character of scripts without spaces.

    Of ASCII text these are the words of the ROUGE that Hugging Face evaluate computes.
    """
    words = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text.lower())
    return separate(words).split()


def separate(text: str) -> str:
    """``text`` with spaces around every character of scripts that are written without them."""
    if text.isascii():
        return text
    return "".join(f" {c} " if unicodedata.name(c, "").startswith(_WITHOUT_SPACES) else c for c in text)
