"""``app``: the page that compares compressed models."""

from __future__ import annotations

import argparse
import os
import signal

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from vlmcomp.app import page


def run(args: argparse.Namespace) -> None:
    """Serves the app until it is interrupted."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends at once, in the middle of an answer too
    page.launch(page.build(args.model), args.host, args.port, args.share)
