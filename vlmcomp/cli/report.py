"""``report``, ``compare`` and ``recommend``: the subcommands that read reports."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlmcomp import files
from vlmcomp.cli import extras
from vlmcomp.cli.options import RECIPE, Subcommands, add_renamed, add_results_folder
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import export, grouping
from vlmcomp.reporting import recommend as advice
from vlmcomp.results import store
from vlmcomp.results.schema import Report


def add_subcommands(subcommands: Subcommands) -> None:
    """Adds this module's subcommands."""
    text = "print the results as tables, export or plot them, or update the docs with them"
    _report_options(subcommands.add("report", report, text, "--format csv --out results.csv"))
    text = "compare two measured recipes: quality, speed and memory"
    sub = subcommands.add("compare", compare, text, "llava-shapes/int4 llava-shapes/fp16")
    sub.add_argument("recipe", metavar="RECIPE", help=RECIPE)
    sub.add_argument("baseline", metavar="BASELINE", help="recipe to compare with")
    add_results_folder(sub)
    _recommend_options(subcommands)


def _recommend_options(subcommands: Subcommands) -> None:
    example = "--memory 8GB --max-accuracy-drop 2 --optimize-for memory --model llava-1.5-7b"
    text = "choose a recipe for a device from the measured results"
    sub = subcommands.add("recommend", recommend, text, example)
    sub.add_argument("--memory", required=True, metavar="SIZE", help="memory of the device, such as 8GB")
    text = "largest acceptable loss of exact match, in percentage points (default: 1)"
    add_renamed(sub, "--max-accuracy-drop", "--loss", type=float, default=1.0, metavar="POINTS", help=text)
    text = "memory: the smallest recipe that qualifies; speed: the fastest (default: memory)"
    add_renamed(sub, "--optimize-for", "--for", choices=advice.GOALS, default="memory", help=text)
    text = f"model to compress (default: {registry.DEFAULT_MODEL})"
    sub.add_argument("--model", default=registry.DEFAULT_MODEL, help=text)
    sub.add_argument("--hardware", metavar="SLUG", help="use only the results of this machine")
    text = "task of the accuracy drop (default: the one that most results of the model have)"
    sub.add_argument("--task", metavar="NAME", help=text)
    add_results_folder(sub)


def _report_options(sub: argparse.ArgumentParser) -> None:
    add_results_folder(sub)
    sub.add_argument("--model", help="only the results of this model")
    sub.add_argument("--hardware", metavar="SLUG", help="only the results of this machine")
    text = "only the results on this task, as the measure of quality (default: the one that most results have)"
    sub.add_argument("--task", metavar="NAME", help=text)
    output = sub.add_mutually_exclusive_group()
    text = "update the generated blocks and plots of README.md and docs/*.md in DIR (default: the current folder)"
    output.add_argument("--docs", nargs="?", const=".", metavar="DIR", help=text)
    output.add_argument("--readme", metavar="FILE", help=argparse.SUPPRESS)  # earlier spelling: updates one file
    text = "one flat row per recipe with everything that was recorded"
    output.add_argument("--format", choices=list(export.WRITERS), help=text)
    text = "plot the results of one machine into this folder, as PNG, SVG and self-contained Plotly HTML"
    output.add_argument("--plots", metavar="DIR", help=text)
    sub.add_argument("--out", metavar="FILE", help="write the tables to this file instead of printing them")
    text = "first recompute every score from the recorded answers; loads no model"
    sub.add_argument("--rescore", action="store_true", help=text)
    text = "BERTScore encoder of --rescore (default: the one that was used)"
    add_renamed(sub, "--bertscore-model", "--encoder", metavar="NAME", help=text)


def compare(args: argparse.Namespace) -> None:
    """Prints how a recipe differs from another, once for each machine that measured both."""
    from vlmcomp.reporting import comparison

    root = Path(args.root)
    recipes = [str(Recipe.parse(r)) for r in (args.recipe, args.baseline)]
    groups = [
        {r.recipe: r for r in group if r.error is None} for group in grouping.comparable_groups(store.load_all(root))
    ]
    pairs = [[group[r] for r in recipes] for group in groups if all(r in group for r in recipes)]
    if not pairs:
        raise ValueError(f"no machine in {root} measured both in the same way: run 'vlmcomp bench {' '.join(recipes)}'")
    for after, before in pairs:
        predictions = (store.load_predictions(r, root) for r in (after, before))
        print(f"On {after.hardware.slug}. {comparison.verdict(after, before, *predictions)}\n")


def _rescore_all(reports: list[Report], root: Path, bertscore_model: str | None) -> list[Report]:
    """Recomputes and saves the scores of reports with recorded answers; nothing is saved before all are computed.

    Args:
        reports: of any models and machines.
        root: folder of the reports.
        bertscore_model: encoder of BERTScore; None for the one that each report used.

    Returns:
        All reports, those without recorded answers unchanged.
    """
    from vlmcomp.evaluation.quality import rescore

    extras.require(extras.TEXT_METRICS, "--rescore")
    rescored: list[tuple[Report, dict[str, store.Predictions]]] = []
    for report in reports:
        predictions = store.load_predictions(report, root)
        if report.error is None and predictions:
            report = rescore(report, predictions, bertscore_model)
        elif report.error is None:
            print(f"{report.recipe} has no recorded answers: its scores are unchanged", file=sys.stderr)
        rescored.append((report, predictions))
    for report, predictions in rescored:
        if predictions:
            store.save(report, predictions, root)
    return [report for report, _ in rescored]


def _matching(
    reports: list[Report], model: str | None = None, hardware: str | None = None, task: str | None = None
) -> list[Report]:
    """The reports of a model, of a machine and on a task; None for all. Failed reports belong to every task.

    Raises:
        ValueError: no reports of that model or machine, or on that task.
    """
    for name, wanted, value_of in (
        ("model", model, lambda r: Recipe.parse(r.recipe).model),
        ("hardware", hardware, lambda r: r.hardware.slug),
    ):
        known = sorted({value_of(r) for r in reports})
        if wanted and wanted not in known:
            raise ValueError(f"no reports of --{name} {wanted}: choose {' or '.join(known)}")
        reports = [r for r in reports if not wanted or value_of(r) == wanted]
    tasks = grouping.list_tasks(reports)
    if task and task not in tasks:
        raise ValueError(f"no reports of --task {task}: choose {' or '.join(tasks)}")
    return [r for r in reports if not task or task in r.quality or r.error is not None]


def report(args: argparse.Namespace) -> None:
    """Prints the results as tables, or writes them as files, plots or blocks of the docs."""
    root = Path(args.root)
    reports = store.load_all(root)
    if not reports:  # an empty block must not replace a filled one
        raise ValueError(f"there are no reports in {root}: run 'vlmcomp bench' first")
    docs = args.docs or args.readme
    if docs and (args.model or args.hardware or args.task):
        option = "--docs" if args.docs else "--readme"
        raise ValueError(f"{option} shows every model: remove --model, --hardware and --task")
    if args.out and (docs or args.plots):
        raise ValueError("--out is for tables: remove it, or --docs and --plots")
    reports = _matching(reports, args.model, args.hardware, args.task)
    if args.rescore:
        reports = _rescore_all(reports, root, args.bertscore_model)
    if docs:
        _update_docs(Path(docs), reports, root)
        return

    def load_predictions(report: Report) -> dict[str, store.Predictions]:
        return store.load_predictions(report, root)

    if args.plots:
        from vlmcomp.reporting import figures_matplotlib

        extras.require(["matplotlib"], "--plots")
        for file in figures_matplotlib.save_all(reports, load_predictions, Path(args.plots), print, args.task):
            print(file)
        return
    if args.format:
        text = export.WRITERS[args.format](export.to_rows(reports, load_predictions, args.task))
    else:
        from vlmcomp.reporting import results_tables  # imports images and numpy, by the tasks' titles

        text = results_tables.results_section(reports, load_predictions, args.task)
    if not args.out:
        print(text)
        return
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    files.write_text(Path(args.out), text + "\n")
    print(f"wrote {len(reports)} reports of {root} to {args.out}")


def _update_docs(path: Path, reports: list[Report], root: Path) -> None:
    """Updates one file, or ``README.md`` and ``docs/*.md`` of a folder, from the reports in ``root``."""
    from vlmcomp.cli import generated_docs

    extras.require(["matplotlib"], "--docs")
    if path.is_dir():
        updated = generated_docs.update_folder(path, reports, root)
    else:
        generated_docs.update_file(path, reports, root)
        updated = [path]
    for file in updated:
        print(f"updated {file} from {root}")


def recommend(args: argparse.Namespace) -> int | None:
    """Prints the recipe that suits a device best, why, and how to build it.

    Returns:
        1 if no recipe qualifies.
    """
    root = Path(args.root)
    memory = advice.parse_bytes(args.memory)
    constraints = advice.Constraints(args.model, memory, args.max_accuracy_drop, args.optimize_for)
    reports = _matching(store.load_all(root), hardware=args.hardware, task=args.task)

    def load_predictions(report: Report) -> dict[str, store.Predictions]:
        return store.load_predictions(report, root)

    found = advice.recommend(constraints, reports, load_predictions, _size_estimate, args.task)
    if found.best is None:
        print(f"no recipe qualifies: {found.reason}\n({found.basis})")
        return 1
    print(f"{found.best.recipe}\n{found.reason}\n{found.cost}\n({found.basis})\n")
    print(f"{found.command}\n\n{found.python}")
    return None


def _size_estimate(name: str) -> tuple[dict[str, int], dict[str, int]]:
    from vlmcomp.compression import size_estimate

    return size_estimate.estimate_by_recipe(name)
