"""The app on a free local port, for tests of the page and of the API."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlmcomp.app import page
from vlmcomp.serving.examples import EXAMPLES_DIR

BLUE = EXAMPLES_DIR / "easy-vqa-6.png"  # easy-VQA's test image 6: a blue shape
QUESTION = "What color is the shape? Answer with one word."


@contextmanager
def app() -> Iterator[str]:
    """The address of a running app."""
    blocks = page.build()
    _, address, _ = blocks.launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **page.launch_options()
    )
    try:
        yield address
    finally:
        blocks.close()


@contextmanager
def process(folder: Path, log: Path, **environ: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """The app of ``folder`` in a process of its own, as users start it; its output goes to ``log``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port)]
    with log.open("wb") as output:
        with subprocess.Popen(command, cwd=folder, env=os.environ | environ, stdout=output, stderr=output) as app:
            try:
                yield f"http://127.0.0.1:{port}", app
            finally:
                app.terminate()


def served(url: str, app: subprocess.Popen) -> bytes:
    """The page, as soon as it is served; empty if the process ends before."""
    while app.poll() is None:
        try:
            return urllib.request.urlopen(url, timeout=60).read()
        except OSError:
            time.sleep(0.2)
    return b""
