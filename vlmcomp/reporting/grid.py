"""The standard cells of a family: every technique its anatomy allows, with the precisions it is combined with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlmcomp.models import registry
from vlmcomp.recipe import BITS, PRECISIONS, Recipe, Step
from vlmcomp.reporting.grouping import MAIN_TASK, groups
from vlmcomp.reporting.markdown import table
from vlmcomp.results.schema import Report, speedup

_MLP = ("glu", "ffn")
_ROWS: tuple[tuple[tuple[Step, ...], tuple[str, ...]], ...] = (
    ((), PRECISIONS),
    *(((Step(kind, percent),), BITS) for percent in (20, 30) for kind in _MLP),
    ((Step("heads", 25),), BITS),
    *(((Step("heads", 25), Step(kind, 30)), BITS) for kind in _MLP),
    ((Step("vis", 50),), BITS[:2]),
)


@dataclass(frozen=True)
class Cell:
    """A recipe, or why the model's anatomy rules it out."""

    recipe: Recipe
    refused: str | None = None


def cells(model: str) -> list[Cell]:
    """All of ``model``'s cells, those that its anatomy rules out included.

    Raises:
        ValueError: no such model.
    """
    registry.find(model)
    found = []
    for steps, precisions in _ROWS:
        for precision in precisions:
            recipe = Recipe(model, steps, precision)
            try:
                registry.check(recipe)
                found.append(Cell(recipe))
            except ValueError as reason:
                found.append(Cell(recipe, str(reason)))
    return found


def recipes(model: str) -> list[Recipe]:
    """The cells of ``model`` that can be built."""
    return [cell.recipe for cell in cells(model) if cell.refused is None]


def embedded() -> list[str]:
    return [m.name for m in registry.MODELS.values() if m.embedded]


def status(models: Sequence[str], reports: Sequence[Report]) -> tuple[list[tuple[str, ...]], str]:
    """What became of every cell: a row a cell and a column a model, and a line that counts them."""
    by_recipe = {report.recipe: report for report in reports}
    counts = dict.fromkeys(("measured", "refused", "failed", "not measured"), 0)

    def word(cell: Cell) -> str:
        report = by_recipe.get(str(cell.recipe))
        if cell.refused is not None:
            what, detail = "refused", f": use {_instead(cell.recipe)}"
        elif report is None:
            what, detail = "not measured", ""
        else:
            what, detail = ("measured", "") if report.error is None else ("failed", f": {report.error}")
        counts[what] += 1
        return what + detail

    rows = _grid(models, word)
    return rows, ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "failed")


def render(models: Sequence[str], reports: Sequence[Report]) -> str:
    """The measured cells as a Markdown table: quality kept, weights and decode speed, each against the model's FP16;
    the speed only where both were timed in turns."""
    shown = {m: {r.recipe: r for r in group} for m in models if (group := of_model(m, reports))}

    def word(cell: Cell) -> str:
        if cell.refused is not None:
            return f"refused: use `{_instead(cell.recipe)}`"
        mine = shown[cell.recipe.model]
        report, dense = mine.get(str(cell.recipe)), mine.get(str(cell.recipe.baseline))
        if report is None or dense is None or dense.size is None or dense.latency is None:
            return "not measured"
        if report.size is None or report.latency is None:
            return "failed"
        if (kept := share_kept(report, dense)) is None:
            return "not measured"
        share = report.size.total_bytes / dense.size.total_bytes
        speed = speedup(dense.latency, report.latency)
        return f"{100 * kept:.1f} · {100 * share:.0f} % · " + ("–" if speed is None else f"{speed:.2f}x")

    if not shown:
        return ""
    head, *lines = _grid(list(shown), word)
    return table(head, [(f"`{line[0]}`", *line[1:]) for line in lines], 1)


def share_kept(report: Report, dense: Report, score: str = "exact_match") -> float | None:
    """A score of the main task as a share of ``dense``'s; None where one is missing or there is nothing to keep."""
    mine, whole = report.quality.get(MAIN_TASK), dense.quality.get(MAIN_TASK)
    if mine is None or whole is None or not getattr(whole, score):
        return None
    return getattr(mine, score) / getattr(whole, score)


def of_model(model: str, reports: Sequence[Report]) -> list[Report]:
    """The comparable reports of ``model`` that fill most of its cells, on the hardware that holds most models; the
    newest of equals."""
    mine = [g for g in groups(reports, timing=False) if Recipe.parse(g[0].recipe).model == model]
    models: dict[str, set[str]] = {}
    for report in reports:
        models.setdefault(report.hardware.slug, set()).add(Recipe.parse(report.recipe).model)
    standard = {str(recipe) for recipe in recipes(model)}

    def rank(group: list[Report]) -> tuple[int, int, str]:
        held = models[group[0].hardware.slug]
        return len(held), len(standard & {r.recipe for r in group}), max(r.date for r in group)

    return max(mine, key=rank, default=[])


def _instead(recipe: Recipe) -> str:
    right = registry.find(recipe.model).mlp
    return "+".join(f"{right if s.kind in _MLP else s.kind}{s.percent}" for s in recipe.steps)


def _grid(models: Sequence[str], word: Callable[[Cell], str]) -> list[tuple[str, ...]]:
    columns = [cells(model) for model in models]
    names = [cell.recipe.name for cell in columns[0]] if columns else []
    return [("Cell", *models), *((name, *map(word, row)) for name, *row in zip(names, *columns))]
