"""The plots of one machine's reports: quality against latency, size and share pruned, and decoding speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlmcomp.feedback import format_count
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.grid import comparable_reports, relative_score
from vlmcomp.reporting.grouping import (
    PredictionLoader,
    column_titles,
    comparable_timings,
    compare_to_baseline,
    find_baseline,
    find_metric,
    headline_tasks,
    metric_title,
    timed_in_one_session,
)
from vlmcomp.reporting.palette import COLORS, MUTED
from vlmcomp.reporting.pareto import pareto_frontier
from vlmcomp.reporting.plot import Bounds, Line, Panel, Plot, Point, pareto_line, quality_point, shifted_interval
from vlmcomp.reporting.statistics import decode_interval
from vlmcomp.results.schema import RANDOM_WEIGHTS, Report

NAMES = ("quality-latency", "quality-size", "kept-pruned", "floor-reached")
_ROOFLINE_SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # each has a line
_TARGETS = {"MLP neurons": ("glu", "ffn"), "attention heads": ("heads",), "image tokens": ("vis",)}
_DECODING = "Decoding, ms per token (lower is better)"
_ABOVE_LINE = "Points above their line are not significantly better."
_QUALITY_BARS = (
    "Bars: 95 % intervals, of quality that of the difference to FP16 paired by question. "
    "Ringed: on the frontier of these two, ties inside the noise included."
)


@dataclass(frozen=True)
class _ModelGroup:
    """Comparable reports of one model, none failed, and the task of their quality."""

    title: str
    reports: list[Report]
    baseline: Report | None
    task: str | None
    load_predictions: PredictionLoader

    @property
    def scored(self) -> list[Report]:
        return [report for report in self.reports if self.task in report.quality]

    def frontier(self, reports: Sequence[Report], *goals: str) -> set[str]:
        """Recipes on the frontier of ``reports``."""
        return {r.recipe for r in pareto_frontier(reports, self.load_predictions, goals, self.task)}


def build_plots(reports: Sequence[Report], load_predictions: PredictionLoader, task: str | None = None) -> list[Plot]:
    """Every plot that has a point, of one machine's reports; each model's comparable ones form a panel.

    Args:
        reports: of one machine.
        load_predictions: reads the predictions of a report.
        task: the task of the quality (None: of each model its headline task, named where these differ).

    Raises:
        ValueError: the reports come from several machines.
    """
    if len({r.hardware.slug for r in reports}) > 1:
        raise ValueError("results of several machines share no axis: choose one")
    models = sorted({Recipe.parse(r.recipe).model for r in reports})
    by_model = {model: comparable_reports(model, reports, task) for model in models}
    by_model = {model: found for model, group in by_model.items() if (found := [r for r in group if r.error is None])}
    tasks = headline_tasks(by_model, task)
    groups = []
    for title, (model, group) in zip(column_titles(tasks), by_model.items(), strict=True):
        title += " (random weights)" if group[0].weights == RANDOM_WEIGHTS else ""
        groups.append(_ModelGroup(title, group, find_baseline(group), tasks[model], load_predictions))
    return [plot for build in _BUILDERS if (plot := build(groups)) is not None]


def _panels(groups: Sequence[_ModelGroup], build: Callable[[_ModelGroup], Panel]) -> tuple[Panel, ...]:
    return tuple(panel for group in groups if (panel := build(group)).points)


def _quality_latency(groups: Sequence[_ModelGroup]) -> Plot | None:
    panels = _panels(groups, _quality_latency_panel)
    if not panels:
        return None
    line_note = _ABOVE_LINE
    if not all(timed_in_one_session(comparable_timings(group.scored)) for group in groups):
        line_note = "Times not taken in turns do not compare: there is no line, and quality alone decides."
    note = f"{_circumstances(groups)} {_timing_facts(groups)} {_QUALITY_BARS} {line_note}"
    return Plot("quality-latency", "Quality against latency", _DECODING, _score_title(groups), panels, note)


def _quality_latency_panel(group: _ModelGroup) -> Panel:
    timed = comparable_timings(group.scored)
    frontier = group.frontier(timed, "quality", "latency")
    points = []
    for report in timed:
        x = decode_interval(report.latency)  # type: ignore[arg-type]
        points.append(_scored_point(group, report, x.value, (x.low, x.high), report.recipe in frontier))
    return Panel(group.title, tuple(points), pareto_line(points) if timed_in_one_session(timed) else ())


def _metrics(groups: Sequence[_ModelGroup]) -> str:
    found = [find_metric(group.reports, group.task) for group in groups]
    return metric_title(" or ".join(dict.fromkeys(found)))


def _score_title(groups: Sequence[_ModelGroup]) -> str:
    return f"{_metrics(groups)}, % (higher is better)"


def _quality_size(groups: Sequence[_ModelGroup]) -> Plot | None:
    largest = max((r.size.total_bytes for group in groups for r in group.reports if r.size), default=0)
    unit, unit_name = (1e9, "GB") if largest >= 1e9 else (1e6, "MB")

    def panel(group: _ModelGroup) -> Panel:
        sized = [report for report in group.scored if report.size]
        frontier = group.frontier(sized, "quality", "memory")
        points = []
        for report in sized:
            x = report.size.total_bytes / unit  # type: ignore[union-attr]
            points.append(_scored_point(group, report, x, None, report.recipe in frontier))
        return Panel(group.title, tuple(points), pareto_line(points))

    panels = _panels(groups, panel)
    note = f"{_circumstances(groups)} {_QUALITY_BARS} {_ABOVE_LINE}"
    x_title = f"Weights, {unit_name} (lower is better)"
    return Plot("quality-size", "Quality against size", x_title, _score_title(groups), panels, note) if panels else None


def _scored_point(group: _ModelGroup, report: Report, x: float, x_bounds: Bounds, on_frontier: bool) -> Point:
    assert group.task is not None
    found = None
    if group.baseline is not None and group.baseline is not report:
        found = compare_to_baseline(group.load_predictions, report, group.baseline, group.task)
    y = 100 * report.quality[group.task].score
    return quality_point(report, x, x_bounds, y, found.difference if found else None, on_frontier)


def _quality_pruned(groups: Sequence[_ModelGroup]) -> Plot | None:
    panels = _panels(groups, _quality_pruned_panel)
    if not panels:
        return None
    bars = "16-bit weights. Bars: 95 % intervals, paired by question."
    note = f"{_circumstances(groups)} {bars}"
    y_title = f"{_metrics(groups)} kept, % of FP16"
    return Plot("kept-pruned", "Quality kept against share pruned", "Removed, %", y_title, panels, note, lines=True)


def _quality_pruned_panel(group: _ModelGroup) -> Panel:
    points: list[Point] = []
    lines = []
    for name, targets in _TARGETS.items():
        pruned = [_pruned_point(group, report) for report in group.reports if _prunes_only(report, targets)]
        curve = sorted((point for point in pruned if point is not None), key=lambda point: point.x)
        if curve:
            points += curve
            vertices = ((0.0, 100.0), *((point.x, point.y) for point in curve))
            lines.append(Line(name, vertices, COLORS[curve[0].recipe.technique]))
    return Panel(group.title, tuple(points), tuple(lines))


def _prunes_only(report: Report, targets: Sequence[str]) -> bool:
    recipe = Recipe.parse(report.recipe)
    return recipe.precision == "fp16" and len(recipe.steps) == 1 and recipe.steps[0].target in targets


def _pruned_point(group: _ModelGroup, report: Report) -> Point | None:
    """Relative quality against the percent that was removed; None if one of the two is unknown."""
    if group.baseline is None or not report.pruned:
        return None
    score = relative_score(report, group.baseline, group.task)
    if score is None:
        return None
    found = compare_to_baseline(group.load_predictions, report, group.baseline, group.task)
    y = 100 * score
    bounds = None
    if found is not None and found.retention is not None:
        bounds = shifted_interval(y, found.retention, 100)
    return Point(Recipe.parse(report.recipe), report.pruned[0].real_percent, y, None, bounds)


def _roofline(groups: Sequence[_ModelGroup]) -> Plot | None:
    panels = _panels(groups, _roofline_panel)
    if not panels:
        return None
    legend = "The floor: reading the weights once at this machine's memory bandwidth; lines: shares of it. Bars: 95 %."
    note = f"{_circumstances(groups)} {_timing_facts(groups)} {legend}"
    y_title = "Measured, ms per token (lower is better)"
    return Plot("floor-reached", "Decoding against its floor", "Floor, ms per token", y_title, panels, note, log=True)


def _roofline_panel(group: _ModelGroup) -> Panel:
    points = []
    for report in comparable_timings(group.reports):
        if report.latency and report.latency.floor:
            y = decode_interval(report.latency)
            x = report.latency.floor.decode_ms_per_token
            points.append(Point(Recipe.parse(report.recipe), x, y.value, None, (y.low, y.high)))
    return Panel(group.title, tuple(points), _roofline_lines(points))


def _roofline_lines(points: Sequence[Point]) -> tuple[Line, ...]:
    """Where the floor and shares of it are reached: from 100 % to the first share below all points."""
    if not points:
        return ()
    left = min(point.x for point in points)
    right = max(point.x for point in points)
    lowest = min(point.x / point.y for point in points)
    shown = [s for i, s in enumerate(_ROOFLINE_SHARES) if i == 0 or _ROOFLINE_SHARES[i - 1] > lowest]
    ends = (left / 1.3, right * 1.3)
    return tuple(Line(f"{100 * s:.0f} %", tuple((x, x / s) for x in ends), MUTED, dash=s < 1) for s in shown)


_BUILDERS = (_quality_latency, _quality_size, _quality_pruned, _roofline)  # of NAMES, in their order


def _circumstances(groups: Sequence[_ModelGroup]) -> str:
    """Machine, tasks with their numbers of questions, and dates, as a sentence."""
    reports = [report for group in groups for report in group.reports]
    days = sorted(report.date[:10] for report in reports)
    parts = [f"{reports[0].hardware.name} ({reports[0].hardware.slug})"] if reports else []
    for task in dict.fromkeys(group.task for group in groups if group.task):
        counts = sorted({r.quality[task].samples for group in groups if group.task == task for r in group.scored})
        parts.append(f"{task}: {' or '.join(f'{n:,}' for n in counts)} question{'s' * (counts != [1])}")
    parts += [f"measured {days[0]}" + (f" to {days[-1]}" if days[-1] != days[0] else "")] if days else []
    return "; ".join(parts) + "."


def _timing_facts(groups: Sequence[_ModelGroup]) -> str:
    settings = {(len(r.latency.ttft_ms), r.latency.new_tokens) for g in groups for r in g.reports if r.latency}
    texts = [
        f"{format_count(num_runs, 'run')} of {format_count(num_tokens, 'new token')}"
        for num_runs, num_tokens in sorted(settings)
    ]
    return f"Times: medians of {' or '.join(texts)} at batch 1."
