"""``record``: the answers that the app shows where no model can run."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmcomp.cli.checks import recipes_to_record
from vlmcomp.cli.options import stderr_progress
from vlmcomp.runtime.engine import Engine
from vlmcomp.serving import recorded, recording, variant_cache
from vlmcomp.serving.variants import get_or_build


def run(args: argparse.Namespace) -> None:
    """Records the answers to the app's examples, one file a recipe."""
    root = Path(args.results)
    recorded.check(args.device, root)
    for recipe in recipes_to_record(args):
        vlm = get_or_build(recipe, args.device, variant_cache.default_cache(), stderr_progress())
        print(f"{recipe}: {recorded.save(recording.record_answers(Engine(vlm)), args.device, root)}")
