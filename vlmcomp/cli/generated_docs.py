"""The generated blocks and plots of the README: nothing in them is made by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmcomp.models import registry
from vlmcomp.reporting import claims, grid, removal, results_tables
from vlmcomp.results import store
from vlmcomp.results.schema import Report


def update_blocks(text: str, reports: Sequence[Report], root: Path) -> str:
    """``text`` with every block that it has markers for written anew from ``reports`` and the studies in ``root``.

    Raises:
        ValueError: a block is opened and not closed, or there is none at all.
    """

    def rows(report: Report) -> dict[str, store.Rows]:
        return store.load_rows(report, root)

    blocks: dict[str, Callable[[], str]] = {
        "matrix": lambda: grid.render(grid.embedded(), reports),
        "claims": lambda: claims.render(grid.embedded(), reports, rows),
        "image-tokens": lambda: removal.render("vis", grid.embedded(), reports, rows),
        "results": lambda: results_tables.block(_shown(reports), rows),
        "study": lambda: _studies(root),
        "speed-summary": lambda: _speed_summary(root),
        "speed": lambda: _speeds(root),
        "sizes": _sizes,
    }
    wanted = [name for name in blocks if has_block(text, name)] or ["results"]
    for name in wanted:
        if content := blocks[name]():
            text = replace_block(text, content, name)
    return text


def render_figures(text: str, reports: Sequence[Report], root: Path) -> dict[str, bytes]:
    """The PNG of every plot that ``text`` shows, such as ``![...](assets/quality-size.png)``, by its path there.

    Raises:
        ValueError: a plot is shown for which nothing was measured.
    """
    from vlmcomp.reporting import figures, figures_matplotlib

    shown = {found[1]: found[0] for found in re.finditer(rf"(?<=\]\()[\w./-]*?({'|'.join(figures.NAMES)})\.png", text)}
    if not shown:
        return {}
    made = {plot.name: plot for plot in figures.plots(_shown(reports), lambda report: store.load_rows(report, root))}
    if missing := sorted(set(shown) - set(made)):
        raise ValueError(f"it shows the plot {missing[0]}.png, for which nothing was measured")
    return {path: figures_matplotlib.png(made[name]) for name, path in shown.items()}


def _shown(reports: Sequence[Report]) -> list[Report]:
    """The README shows one model's results in full; ``vlmcomp report`` prints all."""
    return grid.of_model(registry.DEFAULT, reports) or list(reports)


def _studies(root: Path) -> str:
    from vlmcomp.experiments import pruning_cost
    from vlmcomp.experiments import tables as study_tables

    told = (study_tables.render(found, pruning_cost.projection(), whole=False) for found in _ledgers(root))
    return "\n\n".join(filter(None, told))


def _speeds(root: Path) -> str:
    from vlmcomp.experiments import speed_tables
    from vlmcomp.experiments import tables as study_tables

    told = []
    for study in _timed(root):
        told += [study_tables.caption(study), speed_tables.tables(study["cells"])]
    return "\n\n".join(told)


def _speed_summary(root: Path) -> str:
    """Real models first, then the large and the default one."""
    from vlmcomp.experiments import decode_speed, speed_tables

    order = (*decode_speed.REAL, decode_speed.LARGE, registry.DEFAULT)
    cells = [(study["hardware"]["name"], cell) for study in _timed(root) for cell in study["cells"]]
    return speed_tables.summary(sorted(cells, key=lambda pair: order.index(pair[1]["step"])))


def _timed(root: Path) -> Iterator[dict[str, Any]]:
    """What every machine's study holds on the speed of the large models and the default one; the others' tables are
    beside the studies."""
    from vlmcomp.experiments import decode_speed

    shown = (*decode_speed.REAL, decode_speed.LARGE, registry.DEFAULT)
    for study in _ledgers(root):
        if cells := [row for row in study["cells"] if row["part"] == "speed" and row["step"] in shown]:
            yield study | {"cells": cells}


def _ledgers(root: Path) -> Iterator[dict[str, Any]]:
    """What every machine's study holds."""
    from vlmcomp.experiments import ledger

    return (ledger.Ledger(file).content() for file in sorted(root.glob("*/pruning.json")))


def _sizes() -> str:
    from vlmcomp.cli import size_tables
    from vlmcomp.compression import size_estimate

    return size_tables.summary(size_estimate.published())


def has_block(text: str, name: str) -> bool:
    """Whether ``text`` has a place for the block ``name``."""
    return f"<!-- {name}:begin -->" in text


def replace_block(text: str, block: str, name: str = "results") -> str:
    """``text`` with what stands between the two markers of ``name`` replaced by ``block``.

    Raises:
        ValueError: the markers are not there once each, in order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed or begin in rest or end in after:
        raise ValueError(f"the file needs the markers {begin} and {end}, once each and in this order")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"
