"""``ask``: one question to a recipe or a checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlmcomp import hardware
from vlmcomp.cli.build import compress_as_told
from vlmcomp.cli.options import stderr_progress
from vlmcomp.compression import checkpoint
from vlmcomp.data.calibration_source import GIVEN
from vlmcomp.data.images import normalize_question, open_image
from vlmcomp.feedback import format_count
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.engine import Engine
from vlmcomp.serving import variant_cache
from vlmcomp.serving.variants import get_or_build


def run(args: argparse.Namespace) -> None:
    """Prints the answer to a question about an image; its speed goes to stderr."""
    image = open_image(args.image)
    question = normalize_question(args.question)
    hardware.usable_device(args.device)  # raises before any work if that GPU does not exist
    folder = Path(args.recipe_or_folder)
    if folder.is_dir():
        vlm = checkpoint.load(folder, args.device)
    else:
        vlm = _compressed(Recipe.parse(args.recipe_or_folder), args)
    answer = Engine(vlm).generate(image, question, args.max_new_tokens)
    print(answer.text)
    speed = f"first token {answer.ttft_ms:.1f} ms, {answer.tokens_per_second:.1f} tokens/s"
    cut = " (cut there: see --max-new-tokens)" if answer.is_cut else ""
    print(
        f"{vlm.recipe} on {vlm.device.type}: {format_count(answer.new_tokens, 'token')}{cut}, {speed}", file=sys.stderr
    )


def _compressed(recipe: Recipe, args: argparse.Namespace) -> VLM:
    """The model of ``recipe``: from the app's cache, or built and then cached, unless options change the build."""
    options = (args.source, args.prompt_template, args.calibration_data)
    if all(option is None for option in options) and args.answers == GIVEN:
        return get_or_build(recipe, args.device, variant_cache.default_cache(), stderr_progress())
    return compress_as_told(recipe, args)
