"""Bad input as one sentence on the page, and to programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns a ``ValueError`` into a message of the page; it is text there, never markup."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(plain_text(str(error)), print_exception=False) from None


def plain_text(text: str) -> str:
    """``text`` on one line without what a message would take for markup."""
    kept = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return kept.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")[:400]
