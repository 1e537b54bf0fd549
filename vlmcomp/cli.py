"""The command line: one subcommand a verb. torch is imported only by the verbs that need it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from vlmcomp import matrix, store, tables, zoo
from vlmcomp.recipe import Recipe

_RECIPE = "MODEL/STEPS+PRECISION, for example llava-shapes/heads25+glu30+int4"
_Verb = Callable[[argparse.Namespace], int | None]  # returns the exit status; None is 0


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _models(args: argparse.Namespace) -> None:
    if args.sizes:
        from vlmcomp.measure import sizes
        from vlmcomp.published import SHAPES

        print(sizes.render([sizes.sizes(name) for name in SHAPES]))
        return
    rows = [("MODEL", "TITLE", "FAMILY", "STEP", "WEIGHTS", "LICENCE")]
    for m in zoo.MODELS.values():
        place = "embedded" if m.embedded else m.source + (" (gated)" if m.gated else "")
        rows.append((m.name, m.title, m.family, m.mlp, place, m.licence))
    print(tables.aligned(rows))


def _on_stderr() -> Callable[[str, float], None]:
    """Progress as one line a stage, so that stdout holds the result alone and an error stands on its own line."""
    told: set[str] = set()

    def say(text: str, share: float) -> None:
        if share < 1 and text not in told:
            told.add(text)
            print(f"{text} ...", file=sys.stderr, flush=True)

    return say


def _build(args: argparse.Namespace) -> None:
    recipe, out = Recipe.parse(args.recipe), Path(args.out)
    zoo.check(recipe)
    if args.calibration and not recipe.steps:
        raise ValueError(f"{recipe} removes nothing: --calibration is for recipes that prune")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder: give a new one")
    from vlmcomp import checkpoint, machine
    from vlmcomp.build import build, read_samples
    from vlmcomp.measure.size import parameters, weight_bytes

    machine.hardware(args.device)  # refuses a GPU that is not there
    samples = read_samples(args.calibration) if args.calibration else None
    vlm = build(recipe, device=args.device, source=args.source, calibration=samples, progress=_on_stderr())
    checkpoint.save(vlm, out)
    print(f"precision: {vlm.backend}, computed in {vlm.dtype_computed}")
    print(tables.account(recipe, vlm.pruned, weight_bytes(vlm.model), parameters(vlm.model)))
    if not checkpoint.stock(vlm.model):
        print("\nstock classes of this family hold no such number of heads: load it with vlmcomp.checkpoint.load")
    print(f"\n{recipe} is in {out}")


def _ask(args: argparse.Namespace) -> None:
    from vlmcomp.ask import MAX_NEW_TOKENS, ask, clean_question, open_image

    if not 1 <= args.max_new_tokens <= MAX_NEW_TOKENS:
        raise ValueError(f"--max-new-tokens must be 1 to {MAX_NEW_TOKENS}")
    image, question = open_image(args.image), clean_question(args.question)
    folder = Path(args.what)
    recipe = None if folder.is_dir() else Recipe.parse(args.what)
    from vlmcomp import machine

    machine.hardware(args.device)
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


def _bench(args: argparse.Namespace) -> int | None:
    recipes = [Recipe.parse(r) for r in dict.fromkeys(args.recipes)]
    if bool(recipes) == args.all:
        raise ValueError("name the recipes to measure, or give --all")
    from vlmcomp import bench

    models = [args.model] if args.model else matrix.embedded()
    recipes = recipes or [recipe for model in models for recipe in matrix.recipes(model)]
    settings = {"samples": args.samples, "device": args.device, "source": args.source, "encoder": args.encoder}
    plan = bench.Plan(**settings, **({"tasks": tuple(args.task)} if args.task else {}))
    if args.retime:
        for group in [[r for r in recipes if r.model == model] for model in dict.fromkeys(r.model for r in recipes)]:
            for report in bench.retime(group, plan, root=Path(args.out)):
                print(bench.summary(report))
        return 0
    reports = bench.run(recipes, plan, root=Path(args.out), force=args.force)
    failed = [r.recipe for r in reports if r.error is not None]
    if args.all:
        rows, count = matrix.status(models, reports)
        print(f"{tables.aligned(rows)}\n{count}")
    else:
        told = f"{len(reports) - len(failed)} measured, {len(failed)} failed"
        print(told + (f": {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _study(args: argparse.Namespace) -> None:
    from vlmcomp.study import cells, cost, run
    from vlmcomp.study import tables as study_tables

    if args.seeds < 1:
        raise ValueError("--seeds must be at least 1")
    ledger = cells.Ledger(Path(args.out) if args.out else run.home(), args.force)
    parts, seeds = args.part or list(run.PARTS), range(args.seeds)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    run.run(parts, ledger, samples=args.samples, seeds=seeds, say=say)
    text = study_tables.render(ledger.content(), cost.projection(), whole=True)
    store.write_text(ledger.file.with_suffix(".md"), text + "\n")
    print(text)


def _report(args: argparse.Namespace) -> None:
    root = Path(args.root)
    reports = store.load_all(root)
    if not reports:  # an empty block must not wipe the README's
        raise ValueError(f"there are no reports in {root}: run 'vlmcomp bench' first")
    if args.readme is None:
        print(tables.block(reports, lambda report: store.load_rows(report, root)))
        return
    from vlmcomp import readme

    file = Path(args.readme)
    try:
        new = readme.fill(file.read_text(encoding="utf-8"), reports, root)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    store.write_text(file, new)
    print(f"{file} holds the results of {root}")


def _train(args: argparse.Namespace) -> None:
    from vlmcomp.shapes.blueprints import BLUEPRINTS
    from vlmcomp.shapes.train import train

    if args.name not in BLUEPRINTS:
        raise ValueError(f"'{args.name}' cannot be trained here: choose one of {', '.join(BLUEPRINTS)}")
    given = {"steps": args.steps, "tower_steps": args.tower_steps, "seed": args.seed}
    out = Path(args.out or f"runs/{args.name}/model")
    work = Path(args.work or f"runs/{args.name}")
    train(args.name, out, work, compiled=args.compile, **{k: v for k, v in given.items() if v is not None})
    print(f"{args.name} is in {out}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vlmcomp",
        description="Compress vision-language models and measure what it costs.",
        epilog="example: vlmcomp ask llava-shapes/int8 --image photo.png --question 'What color is the shape?'",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: _Verb, text: str, *examples: str) -> argparse.ArgumentParser:
        shown = "\n".join(["examples:", *(f"  vlmcomp {name} {e}".rstrip() for e in examples)])
        kind = argparse.RawDescriptionHelpFormatter
        sub = verbs.add_parser(name, help=text, description=text, epilog=shown, formatter_class=kind)
        sub.set_defaults(run=run)
        return sub

    def place(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--device", type=_device, help="cpu, cuda or cuda:N; default: a GPU if there is one")
        sub.add_argument("--source", help="folder or Hub id of the dense weights, instead of the model's own")

    sub = verb("models", _models, "list the models", "", "--sizes")
    text = "parameters and GB by part of every real model, from its published shapes; downloads nothing"
    sub.add_argument("--sizes", action="store_true", help=text)
    sub = verb("build", _build, "build a recipe and write its checkpoint", "llava-shapes/glu30+int8 --out small")
    sub.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    sub.add_argument("--out", required=True, metavar="DIR", help="new folder; stock from_pretrained loads it")
    text = "JSON Lines with image (a path), question and answer to prune by; default: drawn scenes"
    sub.add_argument("--calibration", metavar="FILE", help=text)
    place(sub)
    asked = '--image scene.png --question "How many circles are there?"'
    sub = verb(
        "ask", _ask, "ask a recipe or a checkpoint about an image", f"llava-shapes/int4 {asked}", f"small {asked}"
    )
    sub.add_argument("what", metavar="RECIPE|DIR", help=f"{_RECIPE}; or a folder that build wrote")
    sub.add_argument("--image", required=True, metavar="FILE", help="PNG, JPEG or WebP")
    sub.add_argument("--question", required=True, metavar="TEXT")
    sub.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="longest answer (default: 64)")
    place(sub)
    measured = ("--all", "llava-shapes/fp16 llava-shapes/int8 --task shapes-vqa --samples 200")
    sub = verb("bench", _bench, "measure recipes: size, memory, latency, quality", *measured)
    sub.add_argument("recipes", nargs="*", metavar="RECIPE", help=_RECIPE)
    sub.add_argument("--all", action="store_true", help="every standard cell of --model")
    sub.add_argument("--model", help="for --all; default: all embedded models")
    sub.add_argument("--task", action="append", help="shapes-vqa or easy-vqa; may be repeated; default: both")
    sub.add_argument("--samples", type=int, help="questions a task")
    sub.add_argument("--encoder", default="auto", help="BERTScore encoder: auto, minilm or roberta-large")
    sub.add_argument("--out", default=str(store.PRECOMPUTED), help="folder of the reports")
    sub.add_argument("--force", action="store_true", help="measure again what is there")
    sub.add_argument("--retime", action="store_true", help="only take the latency anew, all recipes in turns")
    place(sub)
    sub = verb("study", _study, "compare the ways to prune, and what pruning costs", "", "--part shapes --samples 500")
    sub.add_argument("--part", action="append", choices=["cost", "language", "shapes"], help="default: all")
    sub.add_argument("--samples", type=int, metavar="N", help="questions of each task; calibration sequences of text")
    sub.add_argument("--seeds", type=int, default=3, metavar="N", help="calibration sets (default 3)")
    sub.add_argument("--force", action="store_true", help="measure anew what is already measured")
    sub.add_argument("--out", metavar="FILE", help="default: this machine's file in precomputed/")
    sub = verb("report", _report, "print the results as tables", "", "--readme README.md")
    sub.add_argument("--root", default=str(store.PRECOMPUTED), help="folder of the reports")
    sub.add_argument("--readme", help="rewrite the generated blocks of this file instead")
    sub = verb("train", _train, "train an embedded model", "llava-shapes --out trial --steps 200")
    sub.add_argument("name")
    sub.add_argument("--out", help="folder of the trained model")
    sub.add_argument("--work", help="folder of the training checkpoints")
    for name in ("--steps", "--tower-steps", "--seed"):
        sub.add_argument(name, type=int)
    sub.add_argument("--compile", action="store_true", help="torch.compile: faster, needs a C++ compiler")
    return parser


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a device: use cpu, cuda or cuda:N")
    return text


def _sentence(error: Exception) -> str:
    """The error as one line for people."""
    if isinstance(error, ImportError):
        return f"{error.name or error} cannot be imported: pip install -r requirements.txt"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, RuntimeError):
        return "the device has not enough memory for this model: use int8 or int4, or --device cpu"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 if a recipe of a sweep failed; 2 for bad input, told in one sentence on stderr; 130 when interrupted.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        args = _parser().parse_args(argv)
        status = args.run(args) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("vlmcomp: stopped; what was finished is kept", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "out of memory" not in str(error):
            raise
        print(f"vlmcomp: {_sentence(error)}", file=sys.stderr)
        return 2
