"""Errors of bad input, as one sentence on the page and in the API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns a ``ValueError`` into a message on the page, where it is text and never markup."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(plain_text(str(error)), print_exception=False) from None


def plain_text(text: str) -> str:
    """``text`` on one line of at most 400 characters, with markup escaped."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(printable.split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")[:400]
