"""``report``: the results as tables, files, plots or blocks of the docs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlmcomp import files
from vlmcomp.cli.report_filter import matching
from vlmcomp.evaluation import extras
from vlmcomp.evaluation.quality import rescore
from vlmcomp.feedback import format_count
from vlmcomp.reporting import export, figures_matplotlib
from vlmcomp.results import store
from vlmcomp.results.schema import Report


def run(args: argparse.Namespace) -> None:
    """Prints the results as tables, or writes them as files, plots or blocks of the docs."""
    root = Path(args.results)
    reports = store.load_all(root)
    if not reports:  # an empty block must not replace a filled one
        raise ValueError(f"there are no reports in {root}: run 'vlmcomp bench' first")
    reports = matching(reports, args.model, args.hardware, args.task)
    if args.rescore:
        reports = _rescore_all(reports, root, args.bertscore_model)
    if docs := args.docs or args.readme:
        _update_docs(Path(docs), reports, root)
        return

    def load_predictions(report: Report) -> dict[str, store.Predictions]:
        return store.load_predictions(report, root)

    if args.plots:
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
    files.write_text(Path(args.out), text + "\n")
    print(f"wrote {format_count(len(reports), 'report')} of {root} to {args.out}")


def _rescore_all(reports: list[Report], root: Path, bertscore_model: str | None) -> list[Report]:
    """Recomputes and saves the scores of reports with recorded answers; nothing is saved before all are computed.

    Args:
        reports: of any models and machines.
        root: folder of the reports.
        bertscore_model: encoder of BERTScore; None for the one that each report used.

    Returns:
        All reports, those without recorded answers unchanged.
    """
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


def _update_docs(path: Path, reports: list[Report], root: Path) -> None:
    """Updates one file, or ``README.md`` and ``docs/*.md`` of a folder, from the reports in ``root``."""
    from vlmcomp.cli import generated_docs  # imports torch, by the sizes of models

    extras.require(["matplotlib"], "--docs")
    if path.is_dir():
        updated = generated_docs.update_folder(path, reports, root)
    else:
        generated_docs.update_file(path, reports, root)
        updated = [path]
    for file in updated:
        print(f"updated {file} from {root}")
