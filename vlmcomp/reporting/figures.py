"""Reports to plots as plain data: dots with their intervals, and lines. ``draw`` makes pictures of them."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from vlmcomp.recipe import Recipe
from vlmcomp.reporting.grid import of_model, share_kept
from vlmcomp.reporting.grouping import MAIN_TASK, RowsOf, baseline_of, paired
from vlmcomp.reporting.palette import COLORS, QUIET
from vlmcomp.reporting.pareto import frontier
from vlmcomp.reporting.statistics import Interval, median_interval
from vlmcomp.results.schema import Report, timed_in_turns

Bounds = tuple[float, float] | None
FRONTIER = "frontier"  # the name of its line
_REACHED = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # shares of the floor that get a line
_STEPS = {"glu": "GLU neurons", "ffn": "FFN neurons", "heads": "attention heads", "vis": "image tokens"}


@dataclass(frozen=True)
class Dot:
    """One report: its place, the 95 % intervals, and whether it is on the frontier of the two axes."""

    recipe: Recipe
    x: float
    y: float
    x_bounds: Bounds = None
    y_bounds: Bounds = None
    best: bool = False


@dataclass(frozen=True)
class Line:
    name: str
    points: tuple[tuple[float, float], ...]
    color: str
    dash: bool = False


@dataclass(frozen=True)
class Panel:
    """One model on axes of its own."""

    title: str
    dots: tuple[Dot, ...]
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Plot:
    """``name`` is that of its files. ``note`` says what was measured, on what, and what the marks mean."""

    name: str
    title: str
    x_title: str
    y_title: str
    panels: tuple[Panel, ...]
    note: str
    log: bool = False
    lines: bool = False  # what is drawn is the lines: dots bear no names, and the panels share their y axis

    @property
    def grid(self) -> tuple[int, int]:
        """Panels across and down."""
        across = min(2, len(self.panels))
        return across, math.ceil(len(self.panels) / across)

    @property
    def digest(self) -> str:
        """Changes with what is drawn, not with how: a picture that carries it can be told to be up to date."""
        seen = [(p.title, [_short(dot) for dot in p.dots]) for p in self.panels]
        return hashlib.sha256(repr((self.name, seen)).encode()).hexdigest()


def _short(dot: Dot) -> tuple[object, ...]:
    numbers = (dot.x, dot.y, *(dot.x_bounds or ()), *(dot.y_bounds or ()))
    return str(dot.recipe), dot.best, *(f"{n:.5g}" for n in numbers)


def plots(reports: Sequence[Report], rows: RowsOf) -> list[Plot]:
    """What can be drawn of one machine's reports; each model's comparable ones alone, and no plot without a dot.

    Raises:
        ValueError: the reports come from several machines.
    """
    if len({r.hardware.slug for r in reports}) > 1:
        raise ValueError("results of several machines share no axis: choose one")
    models = sorted({Recipe.parse(r.recipe).model for r in reports})
    groups = [[r for r in of_model(model, reports) if r.error is None] for model in models]
    return [plot for draw in _PLOTS if (plot := draw([g for g in groups if g], rows)) is not None]


def one_machine(reports: Sequence[Report]) -> list[Report]:
    """The reports of the machine that measured most models, and of these most recipes."""
    machines: dict[str, list[Report]] = {}
    for report in reports:
        machines.setdefault(report.hardware.slug, []).append(report)

    def rank(group: list[Report]) -> tuple[int, int, str]:
        return len({Recipe.parse(r.recipe).model for r in group}), len(group), group[0].hardware.slug

    return max(machines.values(), key=rank, default=[])


def arms(middle: float, bounds: Bounds) -> tuple[float, float]:
    """How far the interval reaches to both sides; a point without one has none."""
    return (0.0, 0.0) if bounds is None else (max(0.0, middle - bounds[0]), max(0.0, bounds[1] - middle))


_Group = list[Report]
_PanelOf = Callable[[_Group, RowsOf], Panel]


def _panels(groups: Sequence[_Group], rows: RowsOf, panel: _PanelOf) -> tuple[Panel, ...]:
    return tuple(made for group in groups if (made := panel(group, rows)).dots)


def _quality_latency(groups: Sequence[_Group], rows: RowsOf) -> Plot | None:
    def panel(group: _Group, rows: RowsOf) -> Panel:
        whole = timed_alike([r for r in group if MAIN_TASK in r.quality])
        best = {r.recipe for r in frontier(whole, rows, ["quality", "latency"])}
        dots = [_against_quality(r, decoding(r), group, rows, best) for r in whole]
        return Panel(_title(group), tuple(dots), staircase(dots) if all_in_turns(whole) else ())

    if not (panels := _panels(groups, rows, panel)):
        return None
    turns = all(all_in_turns(timed_alike([r for r in g if MAIN_TASK in r.quality])) for g in groups)
    said = _ABOVE if turns else "Times not taken in turns separate no two: no line there, and quality alone decides."
    note = f"{_circumstances(groups)} {_timing(groups)} {_QUALITY_BARS} {said}"
    return Plot("quality-latency", "Quality against latency", _DECODE, _EXACT, panels, note)


def _quality_size(groups: Sequence[_Group], rows: RowsOf) -> Plot | None:
    largest = max((r.size.total_bytes for g in groups for r in g if r.size), default=0)
    unit, name = (1e9, "GB") if largest >= 1e9 else (1e6, "MB")

    def panel(group: _Group, rows: RowsOf) -> Panel:
        whole = [r for r in group if MAIN_TASK in r.quality and r.size]
        best = {r.recipe for r in frontier(whole, rows, ["quality", "memory"])}
        dots = [_against_quality(r, (r.size.total_bytes / unit, None), group, rows, best) for r in whole]
        return Panel(_title(group), tuple(dots), staircase(dots))

    panels, note = _panels(groups, rows, panel), f"{_circumstances(groups)} {_QUALITY_BARS} {_ABOVE}"
    x_title = f"Weights, {name} (lower is better)"
    return Plot("quality-size", "Quality against size", x_title, _EXACT, panels, note) if panels else None


def _kept_pruned(groups: Sequence[_Group], rows: RowsOf) -> Plot | None:
    def panel(group: _Group, rows: RowsOf) -> Panel:
        dense, lines, dots = baseline_of(group), [], []
        if dense is None or share_kept(dense, dense) is None:
            return Panel(_title(group), ())
        for kind, name in _STEPS.items():
            pruned = [r for r in group if _only(r, kind) and r.pruned and share_kept(r, dense) is not None]
            line = sorted((_kept(r, dense, rows) for r in pruned), key=lambda dot: dot.x)
            if line:
                dots += line
                points = ((0.0, 100.0), *((dot.x, dot.y) for dot in line))
                lines.append(Line(name, points, COLORS[line[0].recipe.technique]))
        return Panel(_title(group), tuple(dots), tuple(lines))

    x_title, y_title = "Removed, %", "Exact match kept, % of FP16"
    panels = _panels(groups, rows, panel)
    note = (
        f"{_circumstances(groups)} 16-bit weights. Bars: 95 % intervals of the difference to FP16, paired by question."
    )
    return (
        Plot("kept-pruned", "Quality kept against share pruned", x_title, y_title, panels, note, lines=True)
        if panels
        else None
    )


def _floor_reached(groups: Sequence[_Group], rows: RowsOf) -> Plot | None:
    def panel(group: _Group, rows: RowsOf) -> Panel:
        dots = []
        for report in (r for r in timed_alike(group) if r.latency and r.latency.floor):
            y, bounds = decoding(report)
            x = report.latency.floor.decode_ms_per_token  # type: ignore[union-attr]
            dots.append(Dot(Recipe.parse(report.recipe), x, y, None, bounds))
        return Panel(_title(group), tuple(dots), _shares(dots))

    panels = _panels(groups, rows, panel)
    said = "The floor: reading the weights once at this machine's memory bandwidth; lines: shares of it. Bars: 95 %."
    note, x_title = f"{_circumstances(groups)} {_timing(groups)} {said}", "Floor, ms per token"
    title, y_title = "Decoding against its floor", "Measured, ms per token (lower is better)"
    return Plot("floor-reached", title, x_title, y_title, panels, note, log=True) if panels else None


_PLOTS = (_quality_latency, _quality_size, _kept_pruned, _floor_reached)
NAMES = ("quality-latency", "quality-size", "kept-pruned", "floor-reached")  # of what these make, in their order
_EXACT = "Exact match, % (higher is better)"
_DECODE = "Decoding, ms per token (lower is better)"
_ABOVE = "What lies above its line is not seen to be better."
_QUALITY_BARS = (
    "Bars: 95 % intervals, of exact match that of the difference to FP16 paired by question. "
    "Ringed: on the frontier of these two, ties inside the noise included."
)


def _title(group: _Group) -> str:
    random = group[0].weights.startswith("random")
    return Recipe.parse(group[0].recipe).model + (" (random weights)" if random else "")


def _only(report: Report, kind: str) -> bool:
    recipe = Recipe.parse(report.recipe)
    return recipe.precision == "fp16" and [s.kind for s in recipe.steps] == [kind]


def _kept(report: Report, dense: Report, rows: RowsOf) -> Dot:
    y, found, bounds = 100 * (share_kept(report, dense) or 0.0), paired(rows, report, dense), None
    if found is not None and found.before:
        bounds = around(y, found.difference, 100 / found.before)
    return Dot(Recipe.parse(report.recipe), report.pruned[0].real_percent, y, None, bounds)


def around(y: float, found: Interval, scale: float) -> Bounds:
    """The ends of ``found`` about ``y``, which stands where its value does."""
    return y + scale * (found.low - found.value), y + scale * (found.high - found.value)


def _against_quality(report: Report, x: tuple[float, Bounds], group: _Group, rows: RowsOf, best: set[str]) -> Dot:
    y, dense, bounds = 100 * report.quality[MAIN_TASK].exact_match, baseline_of(group), None
    if dense is not None and dense is not report and (found := paired(rows, report, dense)) is not None:
        bounds = around(y, found.difference, 100)
    return Dot(Recipe.parse(report.recipe), x[0], y, x[1], bounds, report.recipe in best)


def timed_alike(group: _Group) -> _Group:
    """The timed reports that asked for as many tokens on as many threads as most: others share no axis with them."""
    timed = [(r, (r.latency.new_tokens, r.latency.threads)) for r in group if r.latency]
    ways = Counter(way for _, way in timed)
    return [r for r, way in timed if way == ways.most_common(1)[0][0]]


def decoding(report: Report) -> tuple[float, Bounds]:
    """Median of the decoding times, and its interval."""
    found = median_interval(report.latency.decode_ms_per_token)  # type: ignore[union-attr]
    return found.value, (found.low, found.high)


def staircase(dots: Sequence[Dot]) -> tuple[Line, ...]:
    """The best quality that the frontier has up to each x; what ties with it lies below the line."""
    best = sorted((dot.x, dot.y) for dot in dots if dot.best)
    if not best:
        return ()
    x, y = [x for x, _ in best], list(accumulate((y for _, y in best), max))
    x, y = [*x, max(dot.x for dot in dots)], [*y, y[-1]]  # on to the right edge: nothing further is better
    return (Line(FRONTIER, tuple(zip(x, y, strict=True)), QUIET, dash=True),)


def _shares(dots: Sequence[Dot]) -> tuple[Line, ...]:
    """Where the floor, and shares of it, are reached: from 100 % to the first share below all dots."""
    if not dots:
        return ()
    left, right = min(d.x for d in dots), max(d.x for d in dots)
    lowest = min(d.x / d.y for d in dots)
    shown = [s for i, s in enumerate(_REACHED) if i == 0 or _REACHED[i - 1] > lowest]
    span = (left / 1.3, right * 1.3)
    return tuple(Line(f"{100 * s:.0f} %", tuple((x, x / s) for x in span), QUIET, dash=s < 1) for s in shown)


def all_in_turns(reports: Sequence[Report]) -> bool:
    return all(timed_in_turns(reports[0].latency, r.latency) for r in reports)  # type: ignore[arg-type]


def _circumstances(groups: Sequence[_Group]) -> str:
    every = [r for g in groups for r in g]
    days = sorted(r.date[:10] for r in every)
    parts = [f"{every[0].hardware.name} ({every[0].hardware.slug})"] if every else []
    counts = sorted({r.quality[MAIN_TASK].samples for r in every if MAIN_TASK in r.quality})
    parts += [f"{MAIN_TASK}: {' or '.join(f'{n:,}' for n in counts)} questions"] if counts else []
    parts += [f"measured {days[0]}" + (f" to {days[-1]}" if days[-1] != days[0] else "")] if days else []
    return "; ".join(parts) + "."


def _timing(groups: Sequence[_Group]) -> str:
    ways = {(len(r.latency.ttft_ms), r.latency.new_tokens) for g in groups for r in g if r.latency}
    ways_said = " or ".join(f"{runs} runs of {tokens} new tokens" for runs, tokens in sorted(ways))
    return f"Times: medians of {ways_said} at batch 1."
