"""``train``: a bundled model from scratch."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmcomp.evaluation import extras
from vlmcomp.training import trainer
from vlmcomp.training.model_specs import TINY_MODELS


def run(args: argparse.Namespace) -> None:
    """Trains a bundled model from scratch and saves it."""
    if args.name not in TINY_MODELS:
        raise ValueError(f"'{args.name}' cannot be trained here: choose from {', '.join(TINY_MODELS)}")
    extras.require(["easy_vqa"], "vlmcomp train")
    settings = {"steps": args.steps, "tower_steps": args.tower_steps, "seed": args.seed}
    out = Path(args.out or f"runs/{args.name}/model")
    work = Path(args.work or f"runs/{args.name}")
    given = {name: value for name, value in settings.items() if value is not None}
    trainer.train(args.name, out, work, compiled=args.compile, **given)
    print(f"{args.name} is in {out}")
