"""``train``: a bundled model from scratch."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmcomp.training import trainer


def run(args: argparse.Namespace) -> None:
    """Trains a bundled model from scratch and saves it."""
    settings = {"steps": args.steps, "tower_steps": args.tower_steps, "seed": args.seed}
    out = Path(args.out or f"runs/{args.name}/model")
    work = Path(args.work or f"runs/{args.name}")
    given = {name: value for name, value in settings.items() if value is not None}
    trainer.train(args.name, out, work, compiled=args.compile, **given)
    print(f"{args.name} is in {out}")
