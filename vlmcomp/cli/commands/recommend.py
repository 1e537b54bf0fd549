"""``recommend``: a recipe for a device."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmcomp.cli.report_filter import matching
from vlmcomp.reporting import recommend as advice
from vlmcomp.results import store
from vlmcomp.results.schema import Report


def run(args: argparse.Namespace) -> int | None:
    """Prints the recipe that suits a device best, why, and how to build it.

    Returns:
        1 if no recipe qualifies.
    """
    root = Path(args.results)
    memory = advice.parse_bytes(args.memory)
    constraints = advice.Constraints(args.model, memory, args.max_accuracy_drop, args.optimize_for)
    reports = matching(store.load_all(root), hardware=args.hardware, task=args.task)

    def load_predictions(report: Report) -> dict[str, store.Predictions]:
        return store.load_predictions(report, root)

    found = advice.recommend(constraints, reports, load_predictions, _size_estimate, args.task)
    if found.best is None:
        print(f"no recipe qualifies: {found.reason}\n({found.basis})")
        return 1
    print(f"{found.best.recipe}\n{found.reason}\n{found.cost}\n({found.basis})\n")
    print(f"{found.command}\n\n{found.python}")
    return None


def _size_estimate(name: str) -> tuple[dict[str, int], dict[str, int]]:
    from vlmcomp.compression import size_estimate  # imports torch, which measured models do not need

    return size_estimate.estimate_by_recipe(name)
