"""Reports as Markdown tables: what does not compare stands in tables apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vlmcomp.recipe import PRECISIONS, Recipe
from vlmcomp.reporting.comparison import Paired, compare
from vlmcomp.results.schema import Report
from vlmcomp.results.store import Rows

MAIN_TASK, SIDE_TASK = "shapes-vqa", "easy-vqa"
RowsOf = Callable[[Report], Mapping[str, Rows]]  # the per-sample rows of a report, by task
_GROUPS = ("FP16 baseline", "quantized", "MLP pruned", "heads pruned", "tokens pruned", "combined")


def place(recipe: Recipe) -> tuple[object, ...]:
    """Where a recipe stands among others: baseline, quantized, MLP, heads and tokens pruned, combined; less compressed
    first within each."""
    percents = tuple((s.kind, s.percent) for s in recipe.steps)
    group, precision = _GROUPS.index(recipe.technique), PRECISIONS.index(recipe.precision)
    return recipe.model, group, len(percents), percents, precision


def order(reports: Sequence[Report]) -> list[Report]:
    """By the places of their recipes."""
    return sorted(reports, key=lambda report: place(Recipe.parse(report.recipe)))


def groups(reports: Sequence[Report], timing: bool = True) -> list[list[Report]]:
    """Reports that may share a table: same machine, model and weights, same questions, metrics and way of timing.

    ``timing`` False: the table shows no times, so they need not be taken alike.
    A failed report has no scores; it joins every table of its machine and model, or makes one of its own.
    """
    found: dict[tuple[object, ...], list[Report]] = {}
    failed = [r for r in reports if r.error is not None]
    for report in reports:
        if report.error is None:
            asked = tuple((q.task, q.version, q.task_sha256, q.samples, q.seed) for q in report.quality.values())
            means = tuple((q.bertscore_encoder, q.meteor_data, q.rouge1_stemmed) for q in report.quality.values())
            timed = timing and report.latency and (report.latency.new_tokens, report.latency.threads)
            found.setdefault((*_place(report), report.source, report.revision, asked, means, timed), []).append(report)
    for report in failed:
        homes = [k for k in found if k[:2] == _place(report)] or [_place(report)]
        for home in homes:
            found.setdefault(home, []).append(report)
    return [order(group) for _, group in sorted(found.items(), key=lambda item: str(item[0]))]


def _place(report: Report) -> tuple[str, str]:
    return report.hardware.slug, Recipe.parse(report.recipe).model


def paired(rows: RowsOf, report: Report, baseline: Report, task: str = MAIN_TASK) -> Paired | None:
    """What changed against the baseline on one task; None where the answers to it are not recorded."""
    before, after = (rows(r).get(task, []) for r in (baseline, report))
    try:
        return compare(before, after)
    except ValueError:
        return None


def baseline_of(reports: Sequence[Report]) -> Report | None:
    """The FP16 report that the others of one group are held against; None where it is missing or failed."""
    whole = (r for r in reports if r.error is None)
    return next((r for r in whole if str(Recipe.parse(r.recipe).baseline) == r.recipe), None)
