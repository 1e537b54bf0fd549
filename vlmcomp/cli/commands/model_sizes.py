"""``models --sizes``: the sizes of the published models."""

from __future__ import annotations

import argparse

from vlmcomp.cli import size_tables
from vlmcomp.compression import size_estimate


def run(args: argparse.Namespace) -> None:
    """Prints parameters and GB of each part of the published models."""
    print(size_tables.render(size_estimate.estimate_all()))
