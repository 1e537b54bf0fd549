"""``models``: the supported models."""

from __future__ import annotations

import argparse

from vlmcomp.models import registry
from vlmcomp.reporting.markdown import text_table


def run(args: argparse.Namespace) -> None:
    """Prints the supported models."""
    rows = [("MODEL", "TITLE", "FAMILY", "STEPS", "WEIGHTS", "LICENSE")]
    for m in registry.MODELS.values():
        weights = "bundled" if m.bundled else m.source + (" (gated)" if m.gated else "")
        rows.append((m.name, m.title, m.family, ", ".join(m.pruning_targets), weights, m.license))
    print(text_table(rows))
