"""``doctor``: every precision timed on this device."""

from __future__ import annotations

import argparse

from vlmcomp.cli.options import stderr_progress
from vlmcomp.evaluation.doctor import profile_device, to_text


def run(args: argparse.Namespace) -> None:
    """Times every precision on this device and prints a recommendation."""
    print(to_text(profile_device(args.model, progress=stderr_progress(), device=args.device)))
