"""``compare``: a recipe against another."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmcomp.cli.report_filter import matching
from vlmcomp.models import registry
from vlmcomp.reporting import comparison, grouping
from vlmcomp.results import store


def run(args: argparse.Namespace) -> None:
    """Prints how a recipe differs from another, once for each machine that measured both."""
    root = Path(args.results)
    recipes = [str(registry.parse_recipe(r)) for r in (args.recipe, args.baseline)]
    reports = matching(store.load_all(root), hardware=args.hardware, task=args.task)
    groups = [
        {r.recipe: r for r in group if r.error is None} for group in grouping.comparable_groups(reports, task=args.task)
    ]
    pairs = [[group[r] for r in recipes] for group in groups if all(r in group for r in recipes)]
    if not pairs:
        raise ValueError(f"no machine in {root} measured both in the same way: run 'vlmcomp bench {' '.join(recipes)}'")
    for after, before in pairs:
        predictions = (store.load_predictions(r, root) for r in (after, before))
        print(f"On {after.hardware.slug}. {comparison.verdict(after, before, *predictions, args.task)}\n")
