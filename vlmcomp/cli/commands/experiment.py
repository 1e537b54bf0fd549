"""``experiment``: the comparison of pruning methods and of decode speeds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlmcomp import files
from vlmcomp.experiments import pruning_cost, tables, trial_log
from vlmcomp.experiments import run as experiments


def run(args: argparse.Namespace) -> None:
    """Measures what the results of this machine lack, and prints all of them as tables."""
    file = Path(args.out) if args.out else experiments.log_path(device=args.device)
    files.check_file_writable(file)
    log = trial_log.TrialLog(file, args.force, args.device)
    parts = args.part or list(experiments.EXPERIMENTS)

    def report(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    experiments.run_experiments(parts, log, num_samples=args.samples, seeds=range(args.seeds), report=report)
    text = tables.render(log.to_dict(), pruning_cost.project_cost(), whole=True)
    files.write_text(log.path.with_suffix(".md"), text + "\n")
    print(text)
