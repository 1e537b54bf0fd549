"""Building a recipe as the options of a subcommand say."""

from __future__ import annotations

import argparse

from vlmcomp.cli.options import print_skipped, stderr_progress
from vlmcomp.compression.calibration_choice import choose_calibration
from vlmcomp.data.calibration_source import GIVEN
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.runtime import self_answers
from vlmcomp.serving import variant_cache
from vlmcomp.serving.variants import get_or_build


def is_default_build(args: argparse.Namespace) -> bool:
    """Whether the options leave the build as the app's cache has it."""
    options = (args.source, args.prompt_template, args.calibration_data)
    return all(option is None for option in options) and args.answers == GIVEN


def cached_or_compressed(recipe: Recipe, args: argparse.Namespace) -> VLM:
    """The model of ``recipe``: from the app's cache, or built and then cached, unless options change the build."""
    if is_default_build(args):
        return get_or_build(recipe, args.device, variant_cache.default_cache(), stderr_progress())
    return compress_as_told(recipe, args)


def compress_as_told(recipe: Recipe, args: argparse.Namespace) -> VLM:
    """The model of ``recipe`` by the options of ``add_weights_options`` and ``add_calibration_options``; rows that are
    skipped and progress go to stderr."""
    progress = stderr_progress()
    calibration = choose_calibration(
        recipe, args.calibration_data, answers=args.answers, bad_rows=args.bad_rows, progress=progress
    )
    print_skipped(calibration.skipped if calibration else ())
    return self_answers.compress(
        recipe,
        calibration,
        device=args.device,
        source=args.source,
        prompt_template=args.prompt_template,
        progress=progress,
    )
