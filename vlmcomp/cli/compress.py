"""``models``, ``compress``, ``ask`` and ``train``. Only those that run a model import torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmcomp import hardware
from vlmcomp.cli import extras
from vlmcomp.cli.options import RECIPE, Subcommands, add_renamed, add_weights_options, stderr_progress
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.markdown import text_table
from vlmcomp.results.schema import PruningResult

_DECODER_PARTS = ("decoder attention", "decoder MLP")
_PARTS_CHANGED_BY = {  # target of a pruning step -> parts that it changes
    "vis": _DECODER_PARTS,
    "heads": _DECODER_PARTS[:1],
    "glu": _DECODER_PARTS[1:],
    "ffn": _DECODER_PARTS[1:],
}


def add_subcommands(subcommands: Subcommands) -> None:
    """Adds this module's subcommands."""
    sub = subcommands.add("models", models, "list the supported models", "--sizes")
    text = "parameters and GB of each part of the real models, computed from their configs; downloads nothing"
    sub.add_argument("--sizes", action="store_true", help=text)
    _compress_options(subcommands)
    _ask_options(subcommands)
    _train_options(subcommands)


def _compress_options(subcommands: Subcommands) -> None:
    text = "compress a model by a recipe and save the checkpoint"
    sub = subcommands.add("compress", compress, text, "llava-shapes/glu30+int8 --out small")
    sub.add_argument("recipe", metavar="RECIPE", help=RECIPE)
    text = "new folder for the checkpoint, which from_pretrained of transformers can load"
    sub.add_argument("--out", required=True, metavar="DIR", help=text)
    text = "calibration data for pruning: JSON Lines with image (a path), question and answer (default: drawn scenes)"
    add_renamed(sub, "--calibration-data", "--calibration", metavar="FILE", help=text)
    add_weights_options(sub)


def _ask_options(subcommands: Subcommands) -> None:
    example = 'llava-shapes/int4 --image scene.png --question "How many circles are there?"'
    sub = subcommands.add("ask", ask, "ask a recipe or a checkpoint a question about an image", example)
    text = f"{RECIPE}; or a folder that 'vlmcomp compress' wrote"
    sub.add_argument("recipe_or_folder", metavar="RECIPE|DIR", help=text)
    sub.add_argument("--image", required=True, metavar="FILE", help="PNG, JPEG or WebP")
    sub.add_argument("--question", required=True, metavar="TEXT")
    text = "maximum length of the answer (default: 64)"
    sub.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help=text)
    add_weights_options(sub)


def _train_options(subcommands: Subcommands) -> None:
    text = "train one of the bundled models from scratch"
    sub = subcommands.add("train", train, text, "llava-shapes --out trial --steps 200")
    sub.add_argument("name", metavar="MODEL", help="name of a bundled model")
    sub.add_argument("--out", metavar="DIR", help="folder of the trained model (default: runs/MODEL/model)")
    sub.add_argument("--work", metavar="DIR", help="folder of the training checkpoints (default: runs/MODEL)")
    sub.add_argument("--steps", type=int, metavar="N", help="optimizer steps of the whole model")
    sub.add_argument("--tower-steps", type=int, metavar="N", help="optimizer steps that pretrain the vision tower")
    sub.add_argument("--seed", type=int, metavar="N", help="random seed")
    text = "use torch.compile, which is faster and requires a C++ compiler"
    sub.add_argument("--compile", action="store_true", help=text)


def models(args: argparse.Namespace) -> None:
    """Prints the supported models, or the sizes of the real ones."""
    if args.sizes:
        from vlmcomp.cli import size_tables
        from vlmcomp.compression import size_estimate

        print(size_tables.render(size_estimate.estimate_all()))
        return
    rows = [("MODEL", "TITLE", "FAMILY", "STEPS", "WEIGHTS", "LICENSE")]
    for m in registry.MODELS.values():
        weights = "bundled" if m.bundled else m.source + (" (gated)" if m.gated else "")
        rows.append((m.name, m.title, m.family, ", ".join(m.pruning_targets), weights, m.license))
    print(text_table(rows))


def compress(args: argparse.Namespace) -> None:
    """Compresses a model, saves the checkpoint, and prints what changed in each part."""
    recipe = Recipe.parse(args.recipe)
    out = Path(args.out)
    registry.validate_recipe(recipe)
    if args.calibration_data and not recipe.steps:
        raise ValueError(f"{recipe} prunes nothing: remove --calibration-data")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder: choose a new one")
    from vlmcomp.compression import checkpoint, pipeline
    from vlmcomp.compression.size import count_parameters, weight_bytes
    from vlmcomp.data.calibration_data import load_calibration_file

    hardware.get_hardware(args.device)  # raises before any work if that GPU does not exist
    data = load_calibration_file(args.calibration_data) if args.calibration_data else None
    vlm = pipeline.compress(
        recipe, device=args.device, source=args.source, calibration_data=data, progress=stderr_progress()
    )
    checkpoint.save(vlm, out)
    print(f"precision: {vlm.quantization_backend}, computed in {vlm.compute_dtype}")
    print(build_summary(recipe, vlm.pruned, weight_bytes(vlm.model), count_parameters(vlm.model)))
    if reason := checkpoint.custom_loading_reason(vlm.model):
        print(f"\n{reason}: load it with vlmcomp.load({str(out)!r})")
    print(f"\n{recipe} is in {out}")


def ask(args: argparse.Namespace) -> None:
    """Prints the answer to a question about an image; its speed goes to stderr."""
    from vlmcomp.data.images import normalize_question, open_image
    from vlmcomp.runtime.engine import MAX_NEW_TOKENS, Engine

    if not 1 <= args.max_new_tokens <= MAX_NEW_TOKENS:
        raise ValueError(f"--max-new-tokens must be 1 to {MAX_NEW_TOKENS}")
    image = open_image(args.image)
    question = normalize_question(args.question)
    folder = Path(args.recipe_or_folder)
    recipe = None if folder.is_dir() else Recipe.parse(args.recipe_or_folder)
    hardware.get_hardware(args.device)
    if recipe is None:
        from vlmcomp.compression import checkpoint

        vlm = checkpoint.load(folder, args.device)
    else:
        registry.validate_recipe(recipe)
        from vlmcomp.compression import pipeline

        vlm = pipeline.compress(recipe, device=args.device, source=args.source, progress=stderr_progress())
    answer = Engine(vlm).generate(image, question, args.max_new_tokens)
    print(answer.text)
    speed = f"first token {answer.ttft_ms:.1f} ms, {answer.tokens_per_second:.1f} tokens/s"
    print(f"{vlm.recipe} on {vlm.device.type}: {answer.new_tokens} tokens, {speed}", file=sys.stderr)


def train(args: argparse.Namespace) -> None:
    """Trains a bundled model from scratch and saves it."""
    from vlmcomp.training import trainer
    from vlmcomp.training.model_specs import TINY_MODELS

    if args.name not in TINY_MODELS:
        raise ValueError(f"'{args.name}' cannot be trained here: choose from {', '.join(TINY_MODELS)}")
    extras.require(["easy_vqa"], "vlmcomp train")
    settings = {"steps": args.steps, "tower_steps": args.tower_steps, "seed": args.seed}
    out = Path(args.out or f"runs/{args.name}/model")
    work = Path(args.work or f"runs/{args.name}")
    given = {name: value for name, value in settings.items() if value is not None}
    trainer.train(args.name, out, work, compiled=args.compile, **given)
    print(f"{args.name} is in {out}")


def build_summary(
    recipe: Recipe,
    pruned: Sequence[PruningResult],
    bytes_by_part: Mapping[str, int],
    parameters_by_part: Mapping[str, int],
) -> str:
    """What compressing a model removed, and each part's bytes, parameters and changes, as plain text.

    Args:
        recipe: what was done.
        pruned: one result a pruning step.
        bytes_by_part: bytes of the weights as stored, by part (``results.schema.PARTS``).
        parameters_by_part: logical parameters by part.

    Returns:
        A line a pruning step, and a table without the parts that the model lacks.
    """
    lines = [
        f"{p.step}: kept {p.kept} of {p.of} {p.unit}, {p.real_percent:.1f} % removed "
        f"({p.asked_percent:g} % requested; {p.score}; {p.calibration})"
        for p in pruned
    ]
    rows = [("PART", "MB", "PARAMETERS", "CHANGED BY")]
    for part in filter(bytes_by_part.get, bytes_by_part):
        changes = [str(step) for step in recipe.steps if part in _PARTS_CHANGED_BY[step.target]]
        if part in _DECODER_PARTS and recipe.precision != "fp16":
            changes.append(recipe.precision)
        size = f"{bytes_by_part[part] / 1e6:,.3f}"
        count = f"{parameters_by_part[part]:,}"
        rows.append((part, size, count, ", ".join(changes) or "unchanged"))
    rows.append(("total", f"{sum(bytes_by_part.values()) / 1e6:,.3f}", f"{sum(parameters_by_part.values()):,}", ""))
    return "\n".join([*(lines or ["nothing was pruned"]), "", text_table(rows)])
