"""Which recipe to take, for a memory, a loss that can be borne and a goal: from reports, or from arithmetic alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.grid import of_model
from vlmcomp.reporting.grouping import MAIN_TASK, RowsOf, baseline_of, paired
from vlmcomp.reporting.statistics import Interval, speed_interval
from vlmcomp.results.schema import Report, amount

GOALS = ("memory", "speed")
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?b)", re.IGNORECASE)


def read_amount(text: str) -> int:
    """Bytes of ``8GB`` or ``4.5 MB``, in powers of ten.

    Raises:
        ValueError: it is not so written, or nothing.
    """
    found = _AMOUNT.fullmatch(text.strip()) if isinstance(text, str) and len(text) < 40 else None
    if found is None or float(found[1]) <= 0:
        raise ValueError(f"'{str(text)[:40]}' is not an amount of memory: write for example 8GB or 500MB")
    return max(1, int(float(found[1]) * _UNITS[found[2].lower()]))


@dataclass(frozen=True)
class Wish:
    """``memory_bytes`` of the device, ``loss_points`` of exact match (percentage points) that may go, and a goal."""

    model: str
    memory_bytes: int
    loss_points: float
    goal: str

    def __post_init__(self) -> None:
        registry.find(self.model)
        if self.memory_bytes <= 0:
            raise ValueError("the memory must be more than nothing: write for example 8GB")
        if not (math.isfinite(self.loss_points) and 0 <= self.loss_points <= 100):
            raise ValueError(f"a loss of {self.loss_points:g} points cannot be: give 0 to 100")
        if self.goal not in GOALS:
            raise ValueError(f"'{self.goal}' is not a goal: use one of {', '.join(GOALS)}")


@dataclass(frozen=True)
class Option:
    """One recipe and what is known of it. ``refused`` says why it is not for this wish; empty if it is.

    ``needs_bytes``: what must fit. ``difference``: of exact match to FP16, a share; ``speed``: of decoding to FP16,
    0 is the same; both None where they are not known.
    """

    recipe: Recipe
    weight_bytes: int
    needs_bytes: int
    difference: Interval | None = None
    speed: Interval | None = None
    refused: str = ""


@dataclass(frozen=True)
class Advice:
    """``best`` is None where nothing will do. ``basis``: what the numbers are, and of which machine."""

    wish: Wish
    best: Option | None
    options: tuple[Option, ...]
    why: str
    cost: str
    basis: str
    measured: bool

    @property
    def command(self) -> str:
        """What builds it."""
        return f"vlmcomp build {self.best.recipe} --out {self.best.recipe.slug}" if self.best else ""

    @property
    def python(self) -> str:
        """What loads and asks it."""
        if self.best is None:
            return ""
        return (
            "from vlmcomp import checkpoint\nfrom vlmcomp.ask import ask\nfrom vlmcomp.question import open_image\n\n"
            f'vlm = checkpoint.load("{self.best.recipe.slug}")\n'
            'print(ask(vlm, open_image("photo.png"), "What is in the picture?").text)'
        )


def needs(report: Report) -> int:
    """Bytes that answering with it takes: what was measured at its peak, and never less than its weights."""
    assert report.size is not None
    return max(report.size.total_bytes, report.memory.peak_answer_bytes if report.memory else 0)


def recommend(wish: Wish, reports: Sequence[Report], rows: RowsOf) -> Advice:
    """The best recipe for ``wish`` by ``reports`` of one machine and model that compare (``matrix.of_model``).

    A loss is accepted only if the 95 % interval of the difference to FP16, paired by question, stays within it. Speed
    counts only between recipes that were timed in turns, and nothing is called faster that is not seen to be. For
    memory the fewest weight bytes win; for speed the fastest that is seen to beat FP16, else FP16 where it fits, else
    the least slow.

    Raises:
        ValueError: there is no FP16 report to hold the others against.
    """
    mine = [r for r in reports if Recipe.parse(r.recipe).model == wish.model]
    dense = baseline_of(mine)
    if dense is None or MAIN_TASK not in dense.quality:
        raise ValueError(f"{wish.model}/fp16 was not measured: there is nothing to hold the other recipes against")
    whole = [r for r in mine if r.error is None and r.size is not None and MAIN_TASK in r.quality]
    options = tuple(_option(wish, r, dense, rows) for r in whole)
    good = [o for o in options if not o.refused]
    machine = dense.hardware
    basis = (
        f"measured on {machine.name} ({machine.slug}), {dense.quality[MAIN_TASK].samples:,} questions of {MAIN_TASK}"
    )
    if not good:
        return Advice(wish, None, options, _nothing(wish, options), "", basis, True)
    best = min(good, key=_lightest if wish.goal == "memory" else _fastest)
    return Advice(wish, best, options, _why(wish, best, len(good), len(options)), _cost(best), basis, True)


def by_arithmetic(wish: Wish, weights: Mapping[str, int], building: Mapping[str, int]) -> Advice:
    """The first recipe that fits, where no weights of the model were measured: what it loses is not known.

    ``weights`` and ``building`` are bytes by recipe, those that change the model least first: of the result, and on the
    device at the peak of building it (``measure.sizes``).
    """
    options = []
    for text, held in weights.items():
        peak = max(held, building[text])
        reason = f"building it takes {amount(peak)}" if peak > wish.memory_bytes else ""
        options.append(Option(Recipe.parse(text), held, peak, refused=reason))
    basis = f"arithmetic from published shapes: no weights of {wish.model} were measured here"
    best = next((o for o in options if not o.refused), None)
    if best is None:
        return Advice(wish, None, tuple(options), _nothing(wish, options), "", basis, False)
    why = (
        f"Of the recipes that fit in {amount(wish.memory_bytes)} it changes the model least: quantizing before pruning."
    )
    if best is options[0]:
        why = (
            f"It fits in {amount(wish.memory_bytes)} as it is: without a measurement nothing speaks for compressing it."
        )
    cost = (
        f"Its weights take {amount(best.weight_bytes)}, building it {amount(best.needs_bytes)}; what answers need on "
        f"top is not counted. Loss and speed are not known: run 'vlmcomp bench {best.recipe}'."
    )
    return Advice(wish, best, tuple(options), why, cost, basis, False)


def _option(wish: Wish, report: Report, dense: Report, rows: RowsOf) -> Option:
    recipe, size = Recipe.parse(report.recipe), report.size
    assert size is not None
    found = Interval(0.0, 0.0, 0.0) if report is dense else None
    if found is None and (both := paired(rows, report, dense)) is not None:
        found = both.difference
    speed = None
    if report.latency is not None and dense.latency is not None:
        same = report is dense and report.latency.session
        speed = Interval(0.0, 0.0, 0.0) if same else speed_interval(dense.latency, report.latency)
    return Option(recipe, size.total_bytes, needs(report), found, speed, _refused(wish, needs(report), found, speed))


def _refused(wish: Wish, needed: int, found: Interval | None, speed: Interval | None) -> str:
    if needed > wish.memory_bytes:
        return f"it takes {amount(needed)}"
    if found is None:
        return "its answers are not recorded, so its loss is not known"
    if 100 * found.low < -wish.loss_points:
        return f"it may lose {-100 * found.low:.1f} points"
    if wish.goal == "speed" and speed is None:
        return "it was not timed in turns with FP16, so its speed is not known"
    return ""


def _lightest(option: Option) -> tuple[float, ...]:
    assert option.difference is not None
    return option.weight_bytes, -option.difference.value, len(option.recipe.steps)


def _fastest(option: Option) -> tuple[float, ...]:
    """Seen to be faster than FP16, then FP16, then the others by their speed."""
    assert option.speed is not None
    faster = option.speed.low > 0
    dense = option.recipe == option.recipe.baseline
    return 0 if faster else 1 if dense else 2, -option.speed.value, option.weight_bytes


def _why(wish: Wish, best: Option, good: int, of: int) -> str:
    one = good == 1
    verb = "fits and stays" if one else "fit and stay"
    head = f"Of {of} measured recipes {good} {verb} within {_points(wish)}, by the 95 % interval"
    if wish.goal == "memory":
        return f"{head}; {'it' if one else 'this one'} takes the fewest bytes."
    assert best.speed is not None
    if best.speed.low > 0:
        return f"{head}; {'it' if one else 'this one'} decodes fastest."
    if best.recipe == best.recipe.baseline:
        return f"{head}; none is seen to decode faster than FP16."
    return f"{head}; none of them is seen to decode faster than FP16, and this one is the least slow."


def _points(wish: Wish) -> str:
    return f"{wish.loss_points:g} point{'s' * (wish.loss_points != 1)}"


def _cost(best: Option) -> str:
    assert best.difference is not None
    value, low, high = best.difference.points()
    said = [f"Weights {amount(best.weight_bytes)}; answering took {amount(best.needs_bytes)} at its peak."]
    if best.recipe == best.recipe.baseline:
        return f"{said[0]} It is the FP16 model itself: nothing is lost."
    said.append(f"Exact match {value} points (95 %: {low} to {high}).")
    if best.speed is None:
        said.append("Its speed is not known: it was not timed in turns with FP16.")
    else:
        speed = best.speed
        said.append(
            f"Decoding {1 + speed.value:.2f}x FP16's speed (95 %: {1 + speed.low:.2f} to {1 + speed.high:.2f})."
        )
    return " ".join(said)


def _nothing(wish: Wish, options: Sequence[Option]) -> str:
    """What stands in the way of most, and what would have to give."""
    if all(o.needs_bytes > wish.memory_bytes for o in options):
        least = min(options, key=lambda o: o.needs_bytes)
        return f"Nothing fits in {amount(wish.memory_bytes)}: {least.recipe} needs least, {amount(least.needs_bytes)}."
    fitting = [o for o in options if o.needs_bytes <= wish.memory_bytes]
    lost = [o for o in fitting if o.difference is not None]
    if lost and all(100 * o.difference.low < -wish.loss_points for o in lost):
        best = max(lost, key=lambda o: o.difference.low)  # type: ignore[union-attr]
        return (
            f"What fits may lose more than {_points(wish)}: {best.recipe} loses least, at most "
            f"{-100 * best.difference.low:.1f}."  # type: ignore[union-attr]
        )
    if wish.goal == "speed" and lost:
        return "No recipe that fits was timed in turns with FP16 (bench --retime): choose for memory instead."
    return "The answers of what fits are not recorded: measure it with 'vlmcomp bench'."


Arithmetic = Callable[[str], tuple[Mapping[str, int], Mapping[str, int]]]


def advise(wish: Wish, reports: Sequence[Report], rows: RowsOf, arithmetic: Arithmetic) -> Advice:
    """``recommend`` where the model was measured, else ``by_arithmetic`` of what ``arithmetic`` says of it.

    Raises:
        ValueError: as these two.
    """
    mine = of_model(wish.model, reports)
    if any(MAIN_TASK in r.quality for r in mine) or registry.find(wish.model).embedded:
        return recommend(wish, mine, rows)
    return by_arithmetic(wish, *arithmetic(wish.model))
