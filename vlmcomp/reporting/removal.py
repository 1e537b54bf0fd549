"""How much of the quality is left by how much of one kind is removed, family by family."""

from __future__ import annotations

from collections.abc import Sequence

from vlmcomp.recipe import Recipe, Step
from vlmcomp.reporting.claims import Family
from vlmcomp.reporting.grid import of_model
from vlmcomp.reporting.grouping import RowsOf
from vlmcomp.reporting.markdown import table
from vlmcomp.results.schema import Report


def render(kind: str, models: Sequence[str], reports: Sequence[Report], rows: RowsOf) -> str:
    """Exact match on the main task in percent of FP16's, with its 95 % interval, by percent of ``kind`` removed alone,
    as a Markdown table; nothing where nothing of it is measured."""
    families = [Family(model, group, rows) for model in models if (group := of_model(model, reports))]
    recipes = [Recipe.parse(report.recipe) for report in reports if report.error is None]
    alone = {r.steps[0] for r in recipes if r.precision == "fp16" and [s.kind for s in r.steps] == [kind]}
    steps = sorted(alone, key=lambda step: step.percent)
    lines = [(f"`{step}`", *(_kept(family, step) for family in families)) for step in steps]
    return table(("Removed", *(family.model for family in families)), lines, 1) if lines else ""


def _kept(family: Family, step: Step) -> str:
    found = family.paired((step,), "fp16")
    if not found or not found.before:
        return "–"
    change = found.difference
    value, low, high = (100 * (1 + x / found.before) for x in (change.value, change.low, change.high))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"
