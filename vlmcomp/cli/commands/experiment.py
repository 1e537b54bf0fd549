"""``experiment``: the comparison of pruning methods and of decode speeds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlmcomp import files
from vlmcomp.experiments import pruning_cost, tables, trial_log
from vlmcomp.experiments import run as experiments


def run(args: argparse.Namespace) -> None:
    """Measures what the results of this machine lack, and prints those of the parts as tables."""
    file = Path(args.out) if args.out else experiments.log_path(device=args.device)
    files.check_file_writable(file)
    parts = args.part or list(experiments.EXPERIMENTS)
    log = trial_log.TrialLog(file, parts if args.force else (), args.device)

    def report(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    measured = experiments.run_experiments(parts, log, num_samples=args.samples, seeds=range(args.seeds), report=report)
    if not measured:
        report(f"nothing was run: {file} has every trial of {', '.join(parts)}; --force measures them again")
    results, cost = log.to_dict(), pruning_cost.project_cost()
    files.write_text(log.path.with_suffix(".md"), tables.render(results, cost, whole=True) + "\n")
    of_parts = [row for row in results["cells"] if args.part is None or row["part"] in parts]
    print(tables.render(results | {"cells": of_parts}, cost, whole=True))
