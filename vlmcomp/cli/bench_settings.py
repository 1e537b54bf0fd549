"""The configuration that the options of ``bench`` describe. Tasks import images and numpy, but no torch."""

from __future__ import annotations

import argparse

from vlmcomp.data.task_registry import DEFAULT_TASKS
from vlmcomp.evaluation import required_packages
from vlmcomp.evaluation.config import QUICK_SAMPLES, BenchmarkConfig


def check(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` for unknown tasks and encoders, bad rows, impossible numbers, and missing packages."""
    config = make_config(args)
    if not (args.latency_only or args.memory_only):
        required_packages.require_for_tasks(config.tasks, args.bertscore_model, "vlmcomp bench")
        config.validate()


def make_config(args: argparse.Namespace) -> BenchmarkConfig:
    """What ``bench`` measures about each recipe."""
    random = args.weights == "random"
    return BenchmarkConfig(
        tasks=() if random else tuple(args.task or DEFAULT_TASKS),
        num_samples=QUICK_SAMPLES if args.quick else args.samples,
        quick=args.quick,
        device=args.device,
        source=args.source,
        prompt_template=args.prompt_template,
        encoder=args.bertscore_model,
        random_weights=random,
        num_layers=args.layers,
        bad_rows=args.bad_rows,
        calibration_data=args.calibration_data,
        answers=args.answers,
    )
