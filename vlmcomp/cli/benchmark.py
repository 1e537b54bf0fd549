"""The verbs that measure: reports, studies of pruning, recorded answers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlmcomp import files
from vlmcomp.cli.options import (
    RECIPE,
    Subcommands,
    add_device,
    add_results_folder,
    add_weights_options,
    stderr_progress,
)
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import grid, markdown

CHANGES = (0.02, 0.1)  # shares of answers that pruning and quantizing change


def add(verbs: Subcommands) -> None:
    measured = ("--all", "llava-shapes/fp16 llava-shapes/int8 --task shapes-vqa --samples 200")
    _bench_options(verbs.add("bench", bench, "measure recipes: size, memory, latency, quality", *measured))
    studied = ("", "--part shapes --samples 500")
    _study_options(verbs.add("study", study, "compare the ways to prune, and what pruning costs", *studied))
    text = "measure what this device makes of each precision, and say which to take"
    sub = verbs.add("doctor", doctor, text, "", "--model llava-1.5-7b")
    sub.add_argument("--model", default=registry.DEFAULT, help=f"at whose widths; default: {registry.DEFAULT}")
    text = "record the answers to the app's examples, which it shows where nothing can run"
    sub = verbs.add("record", record, text, "", "llava-shapes/int8")
    sub.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"{RECIPE}; default: the embedded models' cells")
    add_device(sub)
    add_results_folder(sub, "--out")


def _bench_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("recipes", nargs="*", metavar="RECIPE", help=RECIPE)
    sub.add_argument("--all", action="store_true", help="every standard cell of --model")
    sub.add_argument("--model", help="for --all; default: all embedded models")
    text = "shapes-vqa, easy-vqa, vqav2, gqa, textvqa, okvqa, or a folder with task.jsonl; of the Hub's four also "
    text += "NAME@REVISION, or NAME=DIR for a copy; may be repeated; default: the first two"
    sub.add_argument("--task", action="append", help=text)
    sub.add_argument("--samples", type=int, help="questions a task")
    sub.add_argument("--quick", action="store_true", help="few questions; says what they cannot resolve")
    text = "random: a real model's architecture, nothing downloaded, for latency, memory and size alone"
    sub.add_argument("--weights", choices=["trained", "random"], default="trained", help=text)
    sub.add_argument("--layers", type=int, metavar="N", help="of --weights random: keep no more of each part")
    sub.add_argument("--encoder", default="auto", help="BERTScore encoder: auto, minilm or roberta-large")
    add_results_folder(sub, "--out")
    sub.add_argument("--force", action="store_true", help="measure again what is there")
    sub.add_argument("--retime", action="store_true", help="only take the latency anew, all recipes in turns")
    add_weights_options(sub)


def _study_options(sub: argparse.ArgumentParser) -> None:
    parts = ["timing", "speed", "cost", "language", "peer", "shapes"]
    sub.add_argument("--part", action="append", choices=parts, help="default: all")
    sub.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu; a GPU for speed alone")
    text = "questions of each task; calibration sequences of text; rounds of speed"
    sub.add_argument("--samples", type=int, metavar="N", help=text)
    sub.add_argument("--seeds", type=int, default=3, metavar="N", help="calibration sets (default 3)")
    sub.add_argument("--force", action="store_true", help="measure anew what is already measured")
    sub.add_argument("--out", metavar="FILE", help="default: this machine's file in precomputed/")


def _unresolved(samples: int) -> str:
    """What so few questions cannot tell apart."""
    from vlmcomp.reporting.statistics import resolvable

    spans = [
        f"{100 * resolvable(samples, share):.1f} points where {share:.0%} of the answers change" for share in CHANGES
    ]
    told = " or ".join(spans)
    return f"--quick asks {samples} questions of each task: differences below {told} cannot be told from none"


def bench(args: argparse.Namespace) -> int | None:
    recipes = [Recipe.parse(r) for r in dict.fromkeys(args.recipes)]
    if bool(recipes) == args.all:
        raise ValueError("name the recipes to measure, or give --all")
    if args.model and not args.all:
        raise ValueError("--model belongs to --all: name the recipes, or give --all as well")
    from vlmcomp.data import task_registry
    from vlmcomp.evaluation import config, sweep

    if args.weights == "random" and (args.task or args.source or args.all):
        raise ValueError("--weights random answers no questions: name the recipes, without --task, --source and --all")
    if args.quick and args.samples is not None:
        raise ValueError("--quick says how many samples: leave --samples out")
    models = [args.model] if args.model else grid.embedded()
    recipes = recipes or [recipe for model in models for recipe in grid.recipes(model)]
    if args.source and len({recipe.model for recipe in recipes}) > 1:
        raise ValueError("--source holds the weights of one model: measure its recipes alone, or give --model")
    samples = config.QUICK_SAMPLES if args.quick else args.samples
    settings = {
        "samples": samples,
        "quick": args.quick,
        "device": args.device,
        "source": args.source,
        "encoder": args.encoder,
    }
    asked = () if args.weights == "random" else tuple(args.task or task_registry.TASKS)
    plan = config.Plan(asked, **settings, random=args.weights == "random", layers=args.layers)
    if args.retime:
        for group in [[r for r in recipes if r.model == model] for model in dict.fromkeys(r.model for r in recipes)]:
            try:
                timed = sweep.retime(group, plan, root=Path(args.out), say=stderr_progress())
            except ValueError as error:
                if len(models) == 1:
                    raise
                print(f"{group[0].model}: {error}", file=sys.stderr)
                continue
            for found in timed:
                print(sweep.summary(found))
        return 0
    if args.quick:
        print(_unresolved(config.QUICK_SAMPLES), file=sys.stderr)
    reports = sweep.run(recipes, plan, root=Path(args.out), force=args.force)
    failed = [r.recipe for r in reports if r.error is not None]
    if args.all:
        rows, count = grid.status(models, reports)
        print(f"{markdown.aligned(rows)}\n{count}")
    else:
        told = f"{len(reports) - len(failed)} measured, {len(failed)} failed"
        print(told + (f": {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def study(args: argparse.Namespace) -> None:
    from vlmcomp.experiments import ledger as ledger_module
    from vlmcomp.experiments import pruning_cost
    from vlmcomp.experiments import run as experiment_run
    from vlmcomp.experiments import tables as study_tables

    if args.seeds < 1:
        raise ValueError("--seeds must be at least 1")
    if args.device == "cuda" and args.part != ["speed"]:
        raise ValueError("on a GPU the study measures speed alone: give --part speed, or the device cpu")
    ledger = ledger_module.Ledger(
        Path(args.out) if args.out else experiment_run.home(device=args.device), args.force, args.device
    )
    parts, seeds = args.part or list(experiment_run.PARTS), range(args.seeds)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    experiment_run.run(parts, ledger, samples=args.samples, seeds=seeds, say=say)
    text = study_tables.render(ledger.content(), pruning_cost.projection(), whole=True)
    files.write_text(ledger.file.with_suffix(".md"), text + "\n")
    print(text)


def doctor(args: argparse.Namespace) -> None:
    from vlmcomp.evaluation import doctor as device

    print(device.render(device.examine(args.model, say=stderr_progress())))


def record(args: argparse.Namespace) -> None:
    recipes = [Recipe.parse(r) for r in dict.fromkeys(args.recipes)]
    recipes = recipes or [recipe for model in grid.embedded() for recipe in grid.recipes(model)]
    for recipe in recipes:
        registry.check(recipe)
    from vlmcomp import hardware
    from vlmcomp.runtime.engine import Engine
    from vlmcomp.serving import recorded, variant_cache

    hardware.hardware(args.device)
    for recipe in recipes:
        vlm = variant_cache.obtain(recipe, args.device, variant_cache.usual(), stderr_progress())
        print(f"{recipe}: {recorded.save(recorded.answers(Engine(vlm)), args.device, Path(args.out))}")
