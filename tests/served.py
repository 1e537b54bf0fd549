"""The app on a free port of this machine, for the tests that meet it as visitors and programs do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vlmcomp.demo import page
from vlmcomp.recorded import EXAMPLES

BLUE = EXAMPLES / "easy-vqa-6.png"  # easy-VQA's test image 6: a blue shape
ASKED = "What color is the shape? Answer with one word."


@contextmanager
def app() -> Iterator[str]:
    """The address of a running app."""
    blocks = page.build()
    _, address, _ = blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **page.settings())
    try:
        yield address
    finally:
        blocks.close()
