"""The verbs that read reports: tables and plots, the verdict on two recipes, the recipe for a device."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlmcomp import files
from vlmcomp.cli.options import RECIPE, Subcommands, add_results_folder
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import export, grouping, results_tables
from vlmcomp.reporting import recommend as advice
from vlmcomp.results import store
from vlmcomp.results.schema import Report


def add(verbs: Subcommands) -> None:
    reported = ("", "--readme README.md", "--format csv --out results.csv", "--plots plots --model llava-shapes")
    _report_options(verbs.add("report", report, "print the results as tables, or draw them", *reported))
    text = "say what differs between two measured recipes"
    sub = verbs.add("compare", compare, text, "llava-shapes/int4 llava-shapes/fp16")
    sub.add_argument("recipe", metavar="RECIPE", help=RECIPE)
    sub.add_argument("other", metavar="OTHER", help="the recipe it is held against")
    add_results_folder(sub)
    wanted = ("--memory 8GB --loss 2 --for memory --model llava-1.5-7b", "--memory 70MB --loss 1 --for speed")
    sub = verbs.add("recommend", recommend, "choose a recipe for a device from the measured results", *wanted)
    sub.add_argument("--memory", required=True, metavar="AMOUNT", help="what the device has, such as 8GB")
    text = "of exact match that may go (default: 1)"
    sub.add_argument("--loss", type=float, default=1.0, metavar="POINTS", help=text)
    sub.add_argument("--for", dest="goal", choices=advice.GOALS, default="memory", help="default: memory")
    sub.add_argument("--model", default=registry.DEFAULT, help=f"default: {registry.DEFAULT}")
    sub.add_argument("--hardware", metavar="SLUG", help="only this machine's results")
    add_results_folder(sub)


def _report_options(sub: argparse.ArgumentParser) -> None:
    add_results_folder(sub)
    sub.add_argument("--model", help="only this model's results")
    sub.add_argument("--hardware", metavar="SLUG", help="only this machine's results")
    way = sub.add_mutually_exclusive_group()
    way.add_argument("--readme", metavar="FILE", help="rewrite the generated blocks and plots of this file instead")
    way.add_argument("--format", choices=list(export.FORMATS), help="one flat row a recipe, with every circumstance")
    text = "draw one machine's results into this folder, as PNG, SVG and self-contained Plotly HTML"
    way.add_argument("--plots", metavar="DIR", help=text)
    sub.add_argument("--out", metavar="FILE", help="write the tables there instead of printing them")
    text = "first compute every score anew from the recorded answers; needs no model"
    sub.add_argument("--rescore", action="store_true", help=text)
    sub.add_argument("--encoder", help="BERTScore encoder of --rescore; default: the one that was used")


def compare(args: argparse.Namespace) -> None:
    from vlmcomp.reporting import comparison

    root, wanted = Path(args.root), [str(Recipe.parse(r)) for r in (args.recipe, args.other)]
    groups = [{r.recipe: r for r in group if r.error is None} for group in grouping.groups(store.load_all(root))]
    pairs = [[found[r] for r in wanted] for found in groups if all(r in found for r in wanted)]
    if not pairs:
        raise ValueError(f"{root} has no machine that measured both alike: run 'vlmcomp bench {' '.join(wanted)}'")
    for after, before in pairs:
        rows = (store.load_rows(r, root) for r in (after, before))
        print(f"On {after.hardware.slug}. {comparison.verdict(after, before, *rows)}\n")


def _rescored(reports: list[Report], root: Path, encoder: str | None) -> list[Report]:
    """The reports with new scores, and saved; those without recorded answers as they are. Nothing is saved before all
    are computed."""
    from vlmcomp.evaluation.quality import rescore

    done: list[tuple[Report, dict[str, store.Rows]]] = []
    for found in reports:
        rows = store.load_rows(found, root)
        if found.error is None and rows:
            found = rescore(found, rows, encoder)
        elif found.error is None:
            print(f"{found.recipe} has no recorded answers and keeps its scores", file=sys.stderr)
        done.append((found, rows))
    for found, rows in done:
        if rows:
            store.save(found, rows, root)
    return [found for found, _ in done]


def _chosen(reports: list[Report], args: argparse.Namespace) -> list[Report]:
    """The reports of ``--model`` and ``--hardware``."""
    for name, read in (("model", lambda r: Recipe.parse(r.recipe).model), ("hardware", lambda r: r.hardware.slug)):
        wanted, known = getattr(args, name), sorted({read(r) for r in reports})
        if wanted and wanted not in known:
            raise ValueError(f"no reports of --{name} {wanted}: choose {' or '.join(known)}")
        reports = [r for r in reports if wanted in (None, read(r))]
    return reports


def report(args: argparse.Namespace) -> None:
    root = Path(args.root)
    reports = store.load_all(root)
    if not reports:  # an empty block must not wipe the README's
        raise ValueError(f"there are no reports in {root}: run 'vlmcomp bench' first")
    if args.readme and (args.model or args.hardware):
        raise ValueError("--readme shows every model: leave out --model and --hardware")
    if args.out and (args.readme or args.plots):
        raise ValueError("--out is for tables: leave it out with --readme and --plots")
    reports = _chosen(reports, args)
    if args.rescore:
        reports = _rescored(reports, root, args.encoder)
    if args.readme:
        _rewrite(Path(args.readme), reports, root)
        return

    def rows(found: Report) -> dict[str, store.Rows]:
        return store.load_rows(found, root)

    if args.plots:
        from vlmcomp.reporting import figures_matplotlib

        for file in figures_matplotlib.save_all(reports, rows, Path(args.plots), print):
            print(file)
        return
    text = (
        export.FORMATS[args.format](export.flatten(reports, rows))
        if args.format
        else results_tables.block(reports, rows)
    )
    if not args.out:
        print(text)
        return
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    files.write_text(Path(args.out), text + "\n")
    print(f"{args.out} holds {len(reports)} reports of {root}")


def _rewrite(file: Path, reports: list[Report], root: Path) -> None:
    from vlmcomp.cli import generated_docs

    try:
        new = generated_docs.update_blocks(file.read_text(encoding="utf-8"), reports, root)
        pictures = generated_docs.render_figures(new, reports, root)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    for name, picture in pictures.items():
        (file.parent / name).parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(file.parent / name, picture)
    files.write_text(file, new)
    print(f"{file} holds the results of {root}")


def recommend(args: argparse.Namespace) -> int | None:
    wish, root = advice.Wish(args.model, advice.read_amount(args.memory), args.loss, args.goal), Path(args.root)
    reports = store.load_all(root)
    known = sorted({r.hardware.slug for r in reports})
    if args.hardware and args.hardware not in known:
        raise ValueError(f"no reports of --hardware {args.hardware}: choose {' or '.join(known)}")
    reports = [r for r in reports if args.hardware in (None, r.hardware.slug)]
    found = advice.advise(wish, reports, lambda report: store.load_rows(report, root), _published)
    if found.best is None:
        print(f"nothing will do. {found.why}\n({found.basis})")
        return 1
    print(f"{found.best.recipe}\n{found.why}\n{found.cost}\n({found.basis})\n")
    print(f"{found.command}\n\n{found.python}")
    return None


def _published(name: str) -> tuple[dict[str, int], dict[str, int]]:
    from vlmcomp.compression import size_estimate

    return size_estimate.by_recipe(name)
