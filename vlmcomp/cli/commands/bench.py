"""``bench``: recipes measured, or only their latency again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vlmcomp.cli.bench_settings import make_config
from vlmcomp.cli.checks import select_recipes
from vlmcomp.cli.options import print_skipped, stderr_progress
from vlmcomp.evaluation import sweep
from vlmcomp.evaluation.config import QUICK_SAMPLES, BenchmarkConfig
from vlmcomp.feedback import format_count
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import grid, markdown
from vlmcomp.reporting.statistics import minimum_detectable_difference
from vlmcomp.reporting.summary import summary

_CHANGED_SHARES = (0.02, 0.1)  # of the answers, as pruning and quantization change them


def run(args: argparse.Namespace) -> int | None:
    """Measures recipes, or only their latency again.

    Returns:
        1 if a recipe failed.
    """
    recipes, models = select_recipes(args)
    config = make_config(args)
    if args.latency_only:
        _measure_latency_again(recipes, config, Path(args.results), keep_going=len(models) > 1)
        return 0
    if args.quick:
        print(_detectable_difference(QUICK_SAMPLES), file=sys.stderr)
    for task in config.load_tasks():
        print_skipped(task.skipped)
    reports = sweep.run(recipes, config, root=Path(args.results), force=args.force)
    failed = [r.recipe for r in reports if r.error is not None]
    if args.all:
        rows, count = grid.coverage(models, reports)
        print(f"{markdown.text_table(rows)}\n{count}")
    else:
        counts = f"{len(reports) - len(failed)} measured, {len(failed)} failed"
        print(f"{counts}: {', '.join(failed)}" if failed else counts)
    return 1 if failed else 0


def _measure_latency_again(recipes: Sequence[Recipe], config: BenchmarkConfig, root: Path, keep_going: bool) -> None:
    """Times the recipes of each model in alternation, and prints one line a recipe.

    Args:
        recipes: of one or several models, with reports in ``root``.
        config: what was measured about them.
        root: folder of the reports.
        keep_going: print the error of a model and continue with the next one.

    Raises:
        ValueError: a model cannot be timed, unless ``keep_going``.
    """
    for model in dict.fromkeys(recipe.model for recipe in recipes):
        try:
            timed = sweep.rerun_latency(
                [r for r in recipes if r.model == model], config, root=root, progress=stderr_progress()
            )
        except ValueError as error:
            if not keep_going:
                raise
            print(f"{model}: {error}", file=sys.stderr)
            continue
        for report in timed:
            print(summary(report))


def _detectable_difference(samples: int) -> str:
    """The smallest differences that so few questions can detect, as one sentence."""
    limits = " or ".join(
        f"{100 * minimum_detectable_difference(samples, share):.1f} points if {share:.0%} of the answers change"
        for share in _CHANGED_SHARES
    )
    return f"--quick asks {format_count(samples, 'question')} per task, which cannot detect a difference below {limits}"
