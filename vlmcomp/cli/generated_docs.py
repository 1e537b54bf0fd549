"""Generated blocks and plots of README.md and docs/*.md.

A block is what stands between the markers ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``; nothing in it is written
by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmcomp import files
from vlmcomp.cli import size_tables
from vlmcomp.compression import size_estimate
from vlmcomp.experiments import decode_speed, pruning_cost, speed_tables, tables, trial_log
from vlmcomp.models import registry
from vlmcomp.reporting import claims, figures, figures_matplotlib, grid, results_tables
from vlmcomp.reporting.grouping import PredictionLoader
from vlmcomp.results import store
from vlmcomp.results.schema import Report

_MARKER = re.compile(r"<!-- ([\w-]+):(?:begin|end) -->")
# The README's table: a few recipes of the default model and a few columns; docs/results.md shows all of them.
_HEADLINE_RECIPES = (
    "fp16",
    "int8",
    "int4",
    "int8-torchao",
    "int4-torchao",
    "glu30+fp16",
    "heads25+fp16",
    "vis50+fp16",
    "glu30+int4",
    "heads25+glu30+int4",
)
_HEADLINE_COLUMNS = (
    "Recipe",
    "Exact match %",
    "Points to FP16 (95 %)",
    "ms/token",
    "Decode speed to FP16 (95 %)",
    "Weights MB",
    "% of FP16",
)


def update_folder(folder: Path, reports: Sequence[Report], root: Path) -> list[Path]:
    """Updates the blocks and plots of ``README.md`` and ``docs/*.md`` in ``folder``; writes all files or none.

    Args:
        folder: a checkout, or a copy of its Markdown files.
        reports: the results to show.
        root: folder of the reports and of the results of experiments.

    Returns:
        The Markdown files that contain blocks or plots.

    Raises:
        ValueError: an unknown block, a missing marker, or a plot without results; the sentence names the file.
    """
    written: dict[Path, bytes] = {}
    documents = [file for file in (folder / "README.md", *sorted(folder.glob("docs/*.md"))) if file.is_file()]
    updated = []
    for document in documents:
        if contents := _render(document, reports, root):
            updated.append(document)
            written |= contents
    files.write_files(written)
    return updated


def update_file(document: Path, reports: Sequence[Report], root: Path) -> None:
    """Updates the blocks and plots of one Markdown file.

    Raises:
        ValueError: as ``update_folder``, or the file has neither blocks nor plots.
    """
    contents = _render(document, reports, root)
    if not contents:
        raise ValueError(f"{document} has no generated block: add the markers <!-- results:begin --> and end")
    files.write_files(contents)


def _render(document: Path, reports: Sequence[Report], root: Path) -> dict[Path, bytes]:
    """New contents of ``document`` and of the plots it shows, by path; none if it has neither blocks nor plots."""
    text = document.read_text(encoding="utf-8")
    try:
        new = update_blocks(text, reports, root)
        pngs = render_figures(new, reports, root)
    except ValueError as error:
        raise ValueError(f"{document}: {error}") from None
    if not pngs and not _MARKER.search(text):
        return {}
    plots = {document.parent / path: png for path, png in pngs.items()}
    return plots | {document: new.encode("utf-8")}


def update_blocks(text: str, reports: Sequence[Report], root: Path) -> str:
    """Fills every block of a Markdown text; a block without results is left as it is.

    Args:
        text: with any number of blocks, of any number of lines.
        reports: the results to show.
        root: folder of the reports and of the results of experiments.

    Returns:
        The text with the new blocks.

    Raises:
        ValueError: an unknown block, or one whose markers are not there once each and in order.
    """
    sources = _block_sources(reports, root)
    for name in dict.fromkeys(_MARKER.findall(text)):
        if name not in sources:
            raise ValueError(f"unknown block '{name}': choose from {', '.join(sources)}")
        text = replace_block(text, sources[name](), name)
    return text


def _block_sources(reports: Sequence[Report], root: Path) -> dict[str, Callable[[], str]]:
    """Name of a block -> what renders it."""

    def load_predictions(report: Report) -> dict[str, store.Predictions]:
        return store.load_predictions(report, root)

    models = grid.bundled_models()
    return {
        "headline": lambda: _headline(reports, load_predictions),
        "matrix": lambda: grid.grid_table(models, reports),
        "claims": lambda: claims.claims_table(models, reports, load_predictions),
        "image-tokens": lambda: claims.pruning_curve_table("vis", models, reports, load_predictions),
        "results": lambda: results_tables.results_section(_default_model_reports(reports), load_predictions),
        "study": lambda: _experiment_tables(root),
        "speed-summary": lambda: _speed_summary(root),
        "speed": lambda: _speed_tables(root),
        "sizes": _size_table,
    }


def replace_block(text: str, block: str, name: str = "results") -> str:
    """``text`` with ``block`` between the two markers of ``name``; unchanged if ``block`` is empty.

    Raises:
        ValueError: the markers are not there once each, in order.
    """
    begin = f"<!-- {name}:begin -->"
    end = f"<!-- {name}:end -->"
    before, has_begin, rest = text.partition(begin)
    _, has_end, after = rest.partition(end)
    if not has_begin or not has_end or begin in rest or end in after:
        raise ValueError(f"the file needs the markers {begin} and {end}, once each and in this order")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}" if block else text


def render_figures(text: str, reports: Sequence[Report], root: Path) -> dict[str, bytes]:
    """PNG of every plot that a Markdown text shows, such as ``![...](assets/quality-size.png)``.

    Args:
        text: with any number of plots.
        reports: the results to plot.
        root: folder of the reports.

    Returns:
        Path, relative to the file of the text, -> content of the PNG file.

    Raises:
        ValueError: a plot of something that was not measured.
    """
    names = "|".join(figures.NAMES)
    name_by_path = {match[0]: match[1] for match in re.finditer(rf"(?<=\]\()[\w./-]*?({names})\.png", text)}
    if not name_by_path:
        return {}
    plots = figures.build_plots(_default_model_reports(reports), lambda report: store.load_predictions(report, root))
    plot_by_name = {plot.name: plot for plot in plots}
    if missing := sorted(set(name_by_path.values()) - set(plot_by_name)):
        raise ValueError(f"it shows the plot {missing[0]}.png, for which nothing was measured")
    return {path: figures_matplotlib.to_png(plot_by_name[name]) for path, name in name_by_path.items()}


def _default_model_reports(reports: Sequence[Report]) -> list[Report]:
    """The docs show one model's results in full; ``vlmcomp report`` prints all."""
    return grid.comparable_reports(registry.DEFAULT_MODEL, reports) or list(reports)


def _headline(reports: Sequence[Report], load_predictions: PredictionLoader) -> str:
    """The table of ``_HEADLINE_RECIPES``, and what it was measured on; empty if none was measured."""
    names = [f"{registry.DEFAULT_MODEL}/{name}" for name in _HEADLINE_RECIPES]
    selected = [report for report in _default_model_reports(reports) if report.recipe in names]
    if not selected:
        return ""
    table = results_tables.results_table(selected, load_predictions, _HEADLINE_COLUMNS)
    return f"{table}\n\n{results_tables.caption(selected)}"


def _experiment_tables(root: Path) -> str:
    cost = pruning_cost.project_cost()
    return "\n\n".join(filter(None, (tables.render(log, cost, whole=False) for log in _trial_logs(root))))


def _speed_tables(root: Path) -> str:
    sections = []
    for log in _speed_logs(root):
        sections += [tables.caption(log), speed_tables.render_tables(log["cells"])]
    return "\n\n".join(sections)


def _speed_summary(root: Path) -> str:
    """Real models first, then the large and the default one."""
    order = _models_of_speed()
    cells = [(log["hardware"]["name"], cell) for log in _speed_logs(root) for cell in log["cells"]]
    return speed_tables.render_summary(sorted(cells, key=lambda pair: order.index(pair[1]["step"])))


def _models_of_speed() -> tuple[str, ...]:
    """The models whose speed the docs show; the tables of the others stand beside the results of the experiments."""
    return (*decode_speed.GPU_MODELS, decode_speed.LARGE_CPU_MODEL, registry.DEFAULT_MODEL)


def _speed_logs(root: Path) -> Iterator[dict[str, Any]]:
    """Every machine's trials of the speed experiment, of the models that the docs show."""
    models = _models_of_speed()
    for log in _trial_logs(root):
        if cells := [row for row in log["cells"] if row["part"] == "speed" and row["step"] in models]:
            yield log | {"cells": cells}


def _trial_logs(root: Path) -> Iterator[dict[str, Any]]:
    """Every machine's results of experiments."""
    return (trial_log.TrialLog(file).to_dict() for file in sorted(root.glob("*/pruning.json")))


def _size_table() -> str:
    return size_tables.render_summary(size_estimate.estimate_all())
