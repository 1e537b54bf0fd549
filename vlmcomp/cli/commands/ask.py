"""``ask``: one question to a recipe or a checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlmcomp import hardware
from vlmcomp.cli.build import cached_or_compressed
from vlmcomp.compression import checkpoint
from vlmcomp.data.images import normalize_question, open_image
from vlmcomp.feedback import format_count
from vlmcomp.models import registry
from vlmcomp.runtime.engine import Engine


def run(args: argparse.Namespace) -> None:
    """Prints the answer to a question about an image; its speed goes to stderr."""
    image = open_image(args.image)
    question = normalize_question(args.question)
    hardware.usable_device(args.device)  # raises before any work if that GPU does not exist
    folder = Path(args.recipe_or_folder)
    if folder.is_dir():
        vlm = checkpoint.load(folder, args.device)
    else:
        vlm = cached_or_compressed(registry.parse_recipe(args.recipe_or_folder), args)
    answer = Engine(vlm).generate(image, question, args.max_new_tokens)
    print(answer.text)
    speed = f"first token {answer.ttft_ms:.1f} ms, {answer.tokens_per_second:.1f} tokens/s"
    cut = " (cut there: see --max-new-tokens)" if answer.is_cut else ""
    print(
        f"{vlm.recipe} on {vlm.device.type}: {format_count(answer.new_tokens, 'token')}{cut}, {speed}", file=sys.stderr
    )
