"""The table of the tab Explore: one row of numbers a result."""

from __future__ import annotations

from typing import Any

from vlmcomp.app import results
from vlmcomp.app.results import ResultFilter
from vlmcomp.reporting.recommend import required_memory

COLUMNS = {  # and their widths in pixels
    "Recipe": 230,
    "Score %": 80,
    "Points to FP16": 125,
    "Composite %": 105,
    "First token ms": 125,
    "ms per token": 110,
    "Speed to FP16": 115,
    "Weights MB": 105,
    "Needs MB": 85,
    "Frontier": 80,
}
HEAD = tuple(COLUMNS)
WIDTHS = tuple(f"{width}px" for width in COLUMNS.values())


def table(view: ResultFilter) -> list[list[Any]]:
    """One row of numbers a shown report, with the columns of ``HEAD``."""
    selection = results.select(results.reports(), view)
    task = selection.task
    frontier = {r.recipe for each in results.frontiers(selection.shown, view.axis, task) for r in each}
    lines = []
    for report in selection.shown:
        assert report.size is not None and task is not None
        quality = report.quality[task]
        size = report.size
        timed = report.latency
        both, speed = results.against_fp16(report, task)
        lines.append(
            [
                report.recipe,
                round(100 * quality.score, 1),
                round(100 * both.difference.value, 1) if both else None,
                round(100 * quality.composite, 1),
                round(timed.ttft_ms_median, 1) if timed else None,
                round(timed.decode_ms_per_token_median, 2) if timed else None,
                f"{1 + speed.value:.2f}x" if speed else None,
                round(size.total_bytes / 1e6, 2),
                round(required_memory(report) / 1e6, 1),
                "yes" if report.recipe in frontier else "",
            ]
        )
    return lines
