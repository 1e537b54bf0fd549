"""The command line: one subcommand a verb. torch is imported only by the verbs that need it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vlmcomp import store, tables, zoo
from vlmcomp.recipe import Recipe


def _models(args: argparse.Namespace) -> None:
    for m in zoo.MODELS.values():
        place = "embedded" if m.embedded else m.source
        print(f"{m.name:<14} {m.title:<18} family {m.family}, step {m.mlp}, {place}, {m.licence}")


def _say(text: str, share: float) -> None:
    end = "\n" if share >= 1 else ""
    print(f"\r{text:<40} {100 * share:3.0f} %", end=end, file=sys.stderr, flush=True)


def _build(args: argparse.Namespace) -> None:
    recipe, out = Recipe.parse(args.recipe), Path(args.out)
    zoo.check(recipe)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder: give a new one")
    from vlmcomp import anatomy, checkpoint
    from vlmcomp.build import build
    from vlmcomp.measure.size import weight_bytes

    vlm = build(recipe, device=args.device, source=args.source, progress=_say)
    checkpoint.save(vlm, out)
    for p in vlm.pruned:
        removed = f"{p.kept} of {p.of} {p.unit} kept, {p.real_percent:g} % removed (asked: {p.asked_percent:g} %)"
        print(f"{p.step}: {removed}, score: {p.score}, calibrated on {p.calibration}")
    print(f"precision: {vlm.backend}, computed in {vlm.dtype_computed}")
    print(f"left alone: {', '.join(anatomy.of(vlm.model).prefixes)}")
    held = weight_bytes(vlm.model)
    for part, count in held.items():
        print(f"  {part:<18} {count / 1e6:>12,.3f} MB")
    print(f"  {'total':<18} {sum(held.values()) / 1e6:>12,.3f} MB")
    print(f"{recipe} is in {out}")


def _ask(args: argparse.Namespace) -> None:
    from vlmcomp.ask import MAX_NEW_TOKENS, ask, clean_question, open_image

    if not 1 <= args.max_new_tokens <= MAX_NEW_TOKENS:
        raise ValueError(f"--max-new-tokens must be 1 to {MAX_NEW_TOKENS}")
    image, question = open_image(args.image), clean_question(args.question)
    folder = Path(args.what)
    recipe = None if folder.is_dir() else Recipe.parse(args.what)
    if recipe is None:
        from vlmcomp import checkpoint

        vlm = checkpoint.load(folder, args.device)
    else:
        zoo.check(recipe)
        from vlmcomp.build import build

        vlm = build(recipe, device=args.device, source=args.source)
    answer = ask(vlm, image, question, args.max_new_tokens)
    print(answer.text)
    speed = f"first token {answer.ttft_ms:.1f} ms, {answer.tokens_per_second:.1f} tokens/s"
    print(f"{vlm.recipe} on {vlm.device.type}: {answer.new_tokens} tokens, {speed}", file=sys.stderr)


def _bench(args: argparse.Namespace) -> None:
    recipes = [Recipe.parse(r) for r in args.recipes]
    if bool(recipes) == args.all:
        raise ValueError("name the recipes to measure, or give --all")
    from vlmcomp import bench

    recipes = recipes or bench.every_recipe(args.model)
    settings = {"samples": args.samples, "device": args.device, "source": args.source, "encoder": args.encoder}
    plan = bench.Plan(**settings, **({"tasks": tuple(args.task)} if args.task else {}))
    if args.retime:
        for report in bench.retime(recipes, plan, root=Path(args.out)):
            print(bench.summary(report))
        return
    reports = bench.run(recipes, plan, root=Path(args.out), force=args.force)
    failed = [r.recipe for r in reports if r.error is not None]
    print(f"{len(reports) - len(failed)} measured, {len(failed)} failed" + (f": {', '.join(failed)}" if failed else ""))


def _report(args: argparse.Namespace) -> None:
    root = Path(args.root)
    block = tables.block(store.load_all(root), lambda report: store.load_rows(report, root))
    if args.readme is None:
        print(block)
        return
    file = Path(args.readme)
    new = tables.rewrite(file.read_text(), block)
    half = file.with_name(f".{file.name}.tmp")
    half.write_text(new)
    os.replace(half, file)
    print(f"{file} holds the results of {root}")


def _train(args: argparse.Namespace) -> None:
    from vlmcomp.shapes.architectures import PLANS
    from vlmcomp.shapes.train import train

    if args.name not in PLANS:
        raise ValueError(f"'{args.name}' cannot be trained here: choose one of {', '.join(PLANS)}")
    given = {"steps": args.steps, "tower_steps": args.tower_steps, "seed": args.seed}
    out = Path(args.out or f"runs/{args.name}/model")
    work = Path(args.work or f"runs/{args.name}")
    train(args.name, out, work, compiled=args.compile, **{k: v for k, v in given.items() if v is not None})
    print(f"{args.name} is in {out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmcomp",
        description="Compress vision-language models and measure what it costs.",
        epilog="example: vlmcomp ask llava-shapes/int8 --image photo.png --question 'What color is the shape?'",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    def place(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--device", help="cpu or cuda; default: a GPU if there is one")
        sub.add_argument("--source", help="folder or Hub id of the dense weights, instead of the model's own")

    verb("models", _models, "list the models")
    sub = verb("build", _build, "build a recipe and write its checkpoint")
    sub.add_argument("recipe")
    sub.add_argument("--out", required=True)
    place(sub)
    sub = verb("ask", _ask, "ask a recipe or a checkpoint about an image")
    sub.add_argument("what", metavar="RECIPE|DIR")
    sub.add_argument("--image", required=True)
    sub.add_argument("--question", required=True)
    sub.add_argument("--max-new-tokens", type=int, default=64)
    place(sub)
    sub = verb("bench", _bench, "measure recipes: size, memory, latency, quality")
    sub.add_argument("recipes", nargs="*", metavar="RECIPE")
    sub.add_argument("--all", action="store_true", help="every standard recipe of --model")
    sub.add_argument("--model", default=zoo.DEFAULT)
    sub.add_argument("--task", action="append", help="shapes-vqa or easy-vqa; may be repeated; default: both")
    sub.add_argument("--samples", type=int, help="questions a task")
    sub.add_argument("--encoder", default="auto", help="BERTScore encoder: auto, minilm or roberta-large")
    sub.add_argument("--out", default=str(store.PRECOMPUTED), help="folder of the reports")
    sub.add_argument("--force", action="store_true", help="measure again what is there")
    sub.add_argument("--retime", action="store_true", help="only take the latency anew, all recipes in turns")
    place(sub)
    sub = verb("report", _report, "print the results as tables")
    sub.add_argument("--root", default=str(store.PRECOMPUTED), help="folder of the reports")
    sub.add_argument("--readme", help="rewrite the results block of this file instead")
    sub = verb("train", _train, "train an embedded model")
    sub.add_argument("name")
    sub.add_argument("--out", help="folder of the trained model")
    sub.add_argument("--work", help="folder of the training checkpoints")
    for name in ("--steps", "--tower-steps", "--seed"):
        sub.add_argument(name, type=int)
    sub.add_argument("--compile", action="store_true", help="torch.compile: faster, needs a C++ compiler")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        print(f"vlmcomp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vlmcomp: stopped; what was finished is kept", file=sys.stderr)
        return 130
    return 0
