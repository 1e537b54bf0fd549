"""The standard recipes of every model: each technique that its architecture supports, at the standard precisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlmcomp.models import registry
from vlmcomp.recipe import BASE_PRECISIONS, PRECISIONS, W4A16, W8A16, PruningStep, Recipe, precision_title
from vlmcomp.reporting.grouping import choose_headline_task, column_titles, comparable_groups, headline_tasks
from vlmcomp.reporting.markdown import markdown_table
from vlmcomp.results.schema import Report, speedup


@dataclass(frozen=True)
class GridRow:
    """One compression, the same for every model: percent removed of each kind of part, and a precision."""

    visual_tokens: int = 0
    heads: int = 0
    mlp: int = 0
    precision: str = "fp16"

    @property
    def label(self) -> str:
        """For people: ``25 % of heads and 30 % of MLP neurons, INT8``."""
        removed = {"image tokens": self.visual_tokens, "heads": self.heads, "MLP neurons": self.mlp}
        parts = [f"{percent} % of {name}" for name, percent in removed.items() if percent]
        return ", ".join(filter(None, (" and ".join(parts), precision_title(self.precision))))

    def recipe(self, model: str) -> Recipe:
        """The recipe in the spelling of ``model``, whose MLP is either gated (``glu``) or not (``ffn``)."""
        percents = {"vis": self.visual_tokens, "heads": self.heads, registry.get_model_spec(model).mlp: self.mlp}
        steps = tuple(PruningStep(target, percent) for target, percent in percents.items() if percent)
        return Recipe(model, steps, self.precision)


@dataclass(frozen=True)
class GridCell:
    """A recipe, or the reason why the model's architecture does not support it."""

    row: GridRow
    recipe: Recipe
    refused: str | None = None


# Those whose results are published; the others are measured when they are named.
MEASURED_PRECISIONS = tuple(precision for precision in PRECISIONS if precision not in (W8A16, W4A16))
ROWS: tuple[GridRow, ...] = (
    *(GridRow(precision=precision) for precision in MEASURED_PRECISIONS),
    *(GridRow(mlp=percent, precision=precision) for percent in (20, 30) for precision in BASE_PRECISIONS),
    *(GridRow(heads=25, precision=precision) for precision in BASE_PRECISIONS),
    *(GridRow(heads=25, mlp=30, precision=precision) for precision in BASE_PRECISIONS),
    *(GridRow(visual_tokens=50, precision=precision) for precision in BASE_PRECISIONS[:2]),
)


def recipe_grid(model: str) -> list[GridCell]:
    """The cells of ``model``, one for each of ``ROWS``, unsupported ones included.

    Raises:
        ValueError: no such model.
    """
    registry.get_model_spec(model)
    cells = []
    for row in ROWS:
        recipe = row.recipe(model)
        try:
            registry.validate_recipe(recipe)
            cells.append(GridCell(row, recipe))
        except ValueError as error:
            cells.append(GridCell(row, recipe, str(error)))
    return cells


def buildable_recipes(model: str) -> list[Recipe]:
    """The recipes of ``recipe_grid(model)`` that its architecture supports."""
    return [cell.recipe for cell in recipe_grid(model) if cell.refused is None]


def bundled_models() -> list[str]:
    """Names of the models that ship with their weights."""
    return [spec.name for spec in registry.MODELS.values() if spec.bundled]


def coverage(models: Sequence[str], reports: Sequence[Report]) -> tuple[list[tuple[str, ...]], str]:
    """The state of every cell: one row a compression and one column a model, and a line that counts the states."""
    by_recipe = {report.recipe: report for report in reports}
    counts: Counter[str] = Counter()

    def text(cell: GridCell) -> str:
        state, detail = _cell_state(cell, by_recipe.get(str(cell.recipe)))
        counts[state] += 1
        return f"{state}: {detail}" if detail else state

    rows = _grid(models, models, text)
    states = ("measured", "refused", "failed", "not measured")
    return rows, ", ".join(f"{counts[state]} {state}" for state in states if counts[state] or state == "failed")


def _cell_state(cell: GridCell, report: Report | None) -> tuple[str, str]:
    """The state of a cell, and its reason if there is one."""
    if cell.refused is not None:
        return "refused", cell.refused
    if report is None:
        return "not measured", ""
    return ("measured", "") if report.error is None else ("failed", report.error)


def grid_table(models: Sequence[str], reports: Sequence[Report], task: str | None = None) -> str:
    """The measured cells as a Markdown table: quality, weights and decode speed, each relative to the model's FP16.

    Args:
        models: one column each, if measured.
        reports: any reports.
        task: the task of the quality (None: of each model its headline task, named where these differ).
    """
    shown = {model: group for model in models if (group := comparable_reports(model, reports, task))}
    if not shown:
        return ""
    tasks = headline_tasks(shown, task)
    by_recipe = {report.recipe: report for group in shown.values() for report in group}

    def text(cell: GridCell) -> str:
        if cell.refused is not None:
            return f"refused: {cell.refused}"
        report = by_recipe.get(str(cell.recipe))
        baseline = by_recipe.get(str(cell.recipe.baseline))
        return _relative_results(report, baseline, tasks[cell.recipe.model])

    head, *lines = _grid(list(shown), column_titles(tasks), text)
    return markdown_table(head, lines, 1)


def _relative_results(report: Report | None, baseline: Report | None, task: str | None) -> str:
    if report is None or baseline is None or baseline.size is None or baseline.latency is None:
        return "not measured"
    if report.size is None or report.latency is None:
        return "failed"
    score = relative_score(report, baseline, task)
    if score is None:
        return "not measured"
    weights = report.size.total_bytes / baseline.size.total_bytes
    speed = speedup(baseline.latency, report.latency)
    return f"{100 * score:.1f} · {100 * weights:.0f} % · " + ("–" if speed is None else f"{speed:.2f}x")


def relative_score(report: Report, baseline: Report, task: str | None = None, score: str = "score") -> float | None:
    """A score as a share of the baseline's; None if one is missing or another metric, or the baseline's is 0.

    Args:
        report: the compressed model's.
        baseline: the FP16 model's.
        task: the task (None: the headline task of the two).
        score: the name of the score in ``Quality`` (default: the one that judges the task).
    """
    task = task or choose_headline_task([baseline, report])
    if task not in report.quality or task not in baseline.quality:
        return None
    mine, other = report.quality[task], baseline.quality[task]
    if mine.metric != other.metric or not getattr(other, score):
        return None
    return getattr(mine, score) / getattr(other, score)


def comparable_reports(model: str, reports: Sequence[Report], task: str | None = None) -> list[Report]:
    """The group of ``model`` with most cells, on the machine that measured most models; the newest of equals.

    Args:
        model: the model's name.
        reports: any reports.
        task: the only task whose questions must agree; groups that have it come first (None: those of every task).
    """
    candidates = comparable_groups(reports, timing=False, task=task)
    candidates = [group for group in candidates if Recipe.parse(group[0].recipe).model == model]
    models: dict[str, set[str]] = {}
    for report in reports:
        models.setdefault(report.hardware.slug, set()).add(Recipe.parse(report.recipe).model)
    standard = {str(recipe) for recipe in buildable_recipes(model)}

    def rank(group: list[Report]) -> tuple[bool, int, int, str]:
        has_task = any(task in report.quality for report in group)
        num_models = len(models[group[0].hardware.slug])
        return has_task, num_models, len(standard & {r.recipe for r in group}), max(r.date for r in group)

    return max(candidates, key=rank, default=[])


def _grid(models: Sequence[str], titles: Sequence[str], text: Callable[[GridCell], str]) -> list[tuple[str, ...]]:
    """A head and one line for each of ``ROWS``; ``titles`` are those of the models' columns."""
    columns = [recipe_grid(model) for model in models]
    lines = [(row.label, *map(text, cells)) for row, *cells in zip(ROWS, *columns, strict=True)]
    return [("Compression", *titles), *lines]
