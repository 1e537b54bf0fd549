"""The check of what ``ask`` is asked. It imports images and numpy, but no torch."""

from __future__ import annotations

import argparse

from vlmcomp.data.images import normalize_question, open_image
from vlmcomp.results.answer import MAX_NEW_TOKENS


def check(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` for an image, a question or a length that cannot be used."""
    if not 1 <= args.max_new_tokens <= MAX_NEW_TOKENS:
        raise ValueError(f"--max-new-tokens must be 1 to {MAX_NEW_TOKENS}")
    open_image(args.image)
    normalize_question(args.question)
