"""The verbs that list, build, ask and train models. torch is imported only by those that need it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmcomp.cli.options import RECIPE, Subcommands, add_weights_options, stderr_progress
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import markdown
from vlmcomp.reporting.markdown import aligned
from vlmcomp.results.schema import Pruned


def add(verbs: Subcommands) -> None:
    sub = verbs.add("models", models, "list the models", "", "--sizes")
    text = "parameters and GB by part of every real model, from its published shapes; downloads nothing"
    sub.add_argument("--sizes", action="store_true", help=text)
    sub = verbs.add("build", build, "build a recipe and write its checkpoint", "llava-shapes/glu30+int8 --out small")
    sub.add_argument("recipe", metavar="RECIPE", help=RECIPE)
    sub.add_argument("--out", required=True, metavar="DIR", help="new folder; stock from_pretrained loads it")
    text = "JSON Lines with image (a path), question and answer to prune by; default: drawn scenes"
    sub.add_argument("--calibration", metavar="FILE", help=text)
    add_weights_options(sub)
    asked = '--image scene.png --question "How many circles are there?"'
    examples = (f"llava-shapes/int4 {asked}", f"small {asked}")
    sub = verbs.add("ask", ask, "ask a recipe or a checkpoint about an image", *examples)
    sub.add_argument("what", metavar="RECIPE|DIR", help=f"{RECIPE}; or a folder that build wrote")
    sub.add_argument("--image", required=True, metavar="FILE", help="PNG, JPEG or WebP")
    sub.add_argument("--question", required=True, metavar="TEXT")
    sub.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="longest answer (default: 64)")
    add_weights_options(sub)
    sub = verbs.add("train", train, "train an embedded model", "llava-shapes --out trial --steps 200")
    sub.add_argument("name")
    sub.add_argument("--out", help="folder of the trained model")
    sub.add_argument("--work", help="folder of the training checkpoints")
    for name in ("--steps", "--tower-steps", "--seed"):
        sub.add_argument(name, type=int)
    sub.add_argument("--compile", action="store_true", help="torch.compile: faster, needs a C++ compiler")


def models(args: argparse.Namespace) -> None:
    if args.sizes:
        from vlmcomp.cli import size_tables
        from vlmcomp.compression import size_estimate

        print(size_tables.render(size_estimate.published()))
        return
    rows = [("MODEL", "TITLE", "FAMILY", "STEPS", "WEIGHTS", "LICENCE")]
    for m in registry.MODELS.values():
        place = "embedded" if m.embedded else m.source + (" (gated)" if m.gated else "")
        rows.append((m.name, m.title, m.family, ", ".join(m.steps), place, m.licence))
    print(markdown.aligned(rows))


def build(args: argparse.Namespace) -> None:
    recipe, out = Recipe.parse(args.recipe), Path(args.out)
    registry.check(recipe)
    if args.calibration and not recipe.steps:
        raise ValueError(f"{recipe} removes nothing: --calibration is for recipes that prune")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder: give a new one")
    from vlmcomp import hardware
    from vlmcomp.compression import checkpoint
    from vlmcomp.compression.pipeline import build
    from vlmcomp.compression.size import parameters, weight_bytes
    from vlmcomp.data.calibration_data import read_samples

    hardware.hardware(args.device)  # refuses a GPU that is not there
    samples = read_samples(args.calibration) if args.calibration else None
    vlm = build(recipe, device=args.device, source=args.source, calibration=samples, progress=stderr_progress())
    checkpoint.save(vlm, out)
    print(f"precision: {vlm.backend}, computed in {vlm.dtype_computed}")
    print(build_summary(recipe, vlm.pruned, weight_bytes(vlm.model), parameters(vlm.model)))
    if why := checkpoint.beyond_stock(vlm.model):
        print(f"\n{why}: load it with vlmcomp.checkpoint.load")
    print(f"\n{recipe} is in {out}")


def ask(args: argparse.Namespace) -> None:
    from vlmcomp.data.images import clean_question, open_image
    from vlmcomp.runtime.engine import MAX_NEW_TOKENS, Engine

    if not 1 <= args.max_new_tokens <= MAX_NEW_TOKENS:
        raise ValueError(f"--max-new-tokens must be 1 to {MAX_NEW_TOKENS}")
    image, question = open_image(args.image), clean_question(args.question)
    folder = Path(args.what)
    recipe = None if folder.is_dir() else Recipe.parse(args.what)
    from vlmcomp import hardware

    hardware.hardware(args.device)
    if recipe is None:
        from vlmcomp.compression import checkpoint

        vlm = checkpoint.load(folder, args.device)
    else:
        registry.check(recipe)
        from vlmcomp.compression.pipeline import build

        vlm = build(recipe, device=args.device, source=args.source, progress=stderr_progress())
    answer = Engine(vlm).generate(image, question, args.max_new_tokens)
    print(answer.text)
    speed = f"first token {answer.ttft_ms:.1f} ms, {answer.tokens_per_second:.1f} tokens/s"
    print(f"{vlm.recipe} on {vlm.device.type}: {answer.new_tokens} tokens, {speed}", file=sys.stderr)


def train(args: argparse.Namespace) -> None:
    from vlmcomp.training.model_specs import BLUEPRINTS
    from vlmcomp.training.trainer import train

    if args.name not in BLUEPRINTS:
        raise ValueError(f"'{args.name}' cannot be trained here: choose one of {', '.join(BLUEPRINTS)}")
    given = {"steps": args.steps, "tower_steps": args.tower_steps, "seed": args.seed}
    out = Path(args.out or f"runs/{args.name}/model")
    work = Path(args.work or f"runs/{args.name}")
    train(args.name, out, work, compiled=args.compile, **{k: v for k, v in given.items() if v is not None})
    print(f"{args.name} is in {out}")


_DECODER = ("decoder attention", "decoder MLP")


_CHANGED = {"vis": _DECODER, "heads": _DECODER[:1], "glu": _DECODER[1:], "ffn": _DECODER[1:]}  # the parts, by step


def build_summary(recipe: Recipe, pruned: Sequence[Pruned], held: Mapping[str, int], counted: Mapping[str, int]) -> str:
    """What building ``recipe`` removed, and each part's bytes, parameters and changes, as plain text.

    ``held`` and ``counted`` are bytes and logical parameters by part (``report.PARTS``); empty parts are left out.
    """
    lines = [
        f"{p.step}: kept {p.kept} of {p.of} {p.unit}, {p.real_percent:.1f} % removed, {p.asked_percent:g} % asked for "
        f"({p.score}; {p.calibration})"
        for p in pruned
    ] or ["nothing was removed"]
    rows = [("PART", "MB", "PARAMETERS", "")]
    for part in filter(held.get, held):
        done = [str(s) for s in recipe.steps if part in _CHANGED[s.kind]]
        if part in _DECODER and recipe.precision != "fp16":
            done.append(recipe.precision)
        rows.append((part, f"{held[part] / 1e6:,.3f}", f"{counted[part]:,}", ", ".join(done) or "left alone"))
    rows.append(("total", f"{sum(held.values()) / 1e6:,.3f}", f"{sum(counted.values()):,}", ""))
    return "\n".join([*lines, "", aligned(rows)])
