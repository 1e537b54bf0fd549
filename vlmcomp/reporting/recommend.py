"""The best recipe for a device's memory, a maximum accuracy drop and an objective, from reports or size estimates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vlmcomp.feedback import format_bytes, format_count
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import grouping
from vlmcomp.reporting.constraints import GOALS as GOALS
from vlmcomp.reporting.constraints import Constraints
from vlmcomp.reporting.constraints import parse_bytes as parse_bytes
from vlmcomp.reporting.grid import comparable_reports
from vlmcomp.reporting.grouping import PredictionLoader, metric_title
from vlmcomp.reporting.statistics import Interval, fewest_questions, speed_interval
from vlmcomp.results.schema import Report

_MAY_LOSE = "it may lose"
SizeEstimator = Callable[[str], tuple[Mapping[str, int], Mapping[str, int]]]  # model -> weight and peak build bytes


@dataclass(frozen=True)
class Candidate:
    """One recipe and what is known of it.

    ``required_bytes``: what must fit. ``difference``: of the score to FP16, a share. ``speed``: of decoding relative
    to FP16, minus 1. Both are None if unknown. ``refused``: why it violates the constraints; empty if it does not.
    """

    recipe: Recipe
    weight_bytes: int
    required_bytes: int
    difference: Interval | None = None
    speed: Interval | None = None
    refused: str = ""


@dataclass(frozen=True)
class Recommendation:
    """The ``best`` candidate, None if nothing satisfies the constraints. ``basis``: which measurements it rests on."""

    constraints: Constraints
    best: Candidate | None
    candidates: tuple[Candidate, ...]
    reason: str
    cost: str
    basis: str
    measured: bool

    @property
    def command(self) -> str:
        """The shell command that builds it."""
        return f"vlmcomp compress {self.best.recipe} --out {self.best.recipe.slug}" if self.best else ""

    @property
    def python(self) -> str:
        """Python that loads the built model and generates an answer."""
        if self.best is None:
            return ""
        return (
            "import vlmcomp\n\n"
            f'model = vlmcomp.load("{self.best.recipe.slug}")\n'
            'print(model.ask("photo.png", "What is in the picture?").text)'
        )


def required_memory(report: Report) -> int:
    """Bytes needed to generate answers: the measured peak, and never less than the weights."""
    assert report.size is not None
    return max(report.size.total_bytes, report.memory.peak_answer_bytes if report.memory else 0)


def recommend(
    constraints: Constraints,
    reports: Sequence[Report],
    load_predictions: PredictionLoader,
    estimate_sizes: SizeEstimator,
    task: str | None = None,
) -> Recommendation:
    """``recommend_from_reports`` if the model was measured, else ``recommend_from_size_estimates``.

    Args:
        constraints: what the recipe must satisfy.
        reports: any reports.
        load_predictions: reads the predictions of a report.
        estimate_sizes: weight and peak build bytes by recipe of an unmeasured model.
        task: the task of the accuracy drop (None: the headline task of the model's reports).

    Raises:
        ValueError: the model was measured on other tasks only, or its FP16 was not measured.
    """
    mine = comparable_reports(constraints.model, reports, task)
    tasks = grouping.list_tasks(mine)
    if not tasks and not registry.get_model_spec(constraints.model).bundled:
        return recommend_from_size_estimates(constraints, *estimate_sizes(constraints.model))
    if tasks and task is not None and task not in tasks:
        raise ValueError(f"{constraints.model} was not measured on {task}: choose {' or '.join(tasks)}")
    return recommend_from_reports(constraints, mine, load_predictions, task)


def recommend_from_reports(
    constraints: Constraints,
    reports: Sequence[Report],
    load_predictions: PredictionLoader,
    task: str | None = None,
) -> Recommendation:
    """The best measured recipe of comparable ``reports`` (``grid.comparable_reports``).

    A drop is accepted only if the 95 % interval of the paired difference to FP16 stays within it. Speed counts only
    between reports that were timed in turns, and only if the difference is significant. For memory the fewest weight
    bytes win; for speed the fastest recipe that is significantly faster than FP16, else FP16 if it fits, else the
    least slow.

    Args:
        constraints: what the recipe must satisfy.
        reports: of one machine; those of other models are ignored.
        load_predictions: reads the predictions of a report.
        task: the task of the accuracy drop (None: the headline task of the model's reports).

    Raises:
        ValueError: there is no FP16 report with a score to compare with.
    """
    mine = [r for r in reports if Recipe.parse(r.recipe).model == constraints.model]
    task = task or grouping.choose_headline_task(mine)
    baseline = grouping.find_baseline(mine)
    if baseline is None or task not in baseline.quality:
        on = f" on {task}" if task and baseline is not None else ""
        raise ValueError(f"{constraints.model}/fp16 was not measured{on}: there is no baseline to compare with")
    complete = [r for r in mine if r.error is None and r.size is not None and task in r.quality]
    candidates = tuple(_candidate(constraints, r, baseline, load_predictions, task) for r in complete)
    allowed = [c for c in candidates if not c.refused]
    machine, samples, metric = baseline.hardware, baseline.quality[task].samples, baseline.quality[task].metric
    basis = f"measured on {machine.name} ({machine.slug}), {format_count(samples, 'question')} of {task}"
    doubt = _doubt(constraints, samples) if any(_MAY_LOSE in c.refused for c in candidates) else ""
    if not baseline.quality[task].score:
        doubt = f" FP16 gives no right answer to {task}: choose a task that the model knows."
    if not allowed:
        reason = _no_candidate(constraints, candidates) + doubt
        return Recommendation(constraints, None, candidates, reason, "", basis, True)
    best = min(allowed, key=_memory_key if constraints.optimize_for == "memory" else _speed_key)
    reason = _reason(constraints, best, len(allowed), len(candidates)) + doubt
    return Recommendation(constraints, best, candidates, reason, _cost(best, metric), basis, True)


def recommend_from_size_estimates(
    constraints: Constraints, weight_bytes: Mapping[str, int], build_bytes: Mapping[str, int]
) -> Recommendation:
    """The first recipe that fits, for a model without measurements: its accuracy drop is unknown.

    Args:
        constraints: what the recipe must satisfy.
        weight_bytes: of each recipe's result; those that change the model least come first.
        build_bytes: peak on the device while each recipe is built (``compression.size_estimate``).
    """
    memory = format_bytes(constraints.memory_bytes)
    candidates = []
    for text, size in weight_bytes.items():
        peak = max(size, build_bytes[text])
        refused = f"building it takes {format_bytes(peak)}" if peak > constraints.memory_bytes else ""
        candidates.append(Candidate(Recipe.parse(text), size, peak, refused=refused))
    basis = f"arithmetic from published shapes: no weights of {constraints.model} were measured here"
    best = next((c for c in candidates if not c.refused), None)
    if best is None:
        nearest = _no_candidate(constraints, candidates)
        return Recommendation(constraints, None, tuple(candidates), nearest, "", basis, False)
    reason = f"Of the recipes that fit in {memory} it changes the model least: quantizing before pruning."
    if best is candidates[0]:
        reason = f"It fits in {memory} as it is: without a measurement nothing speaks for compressing it."
    cost = (
        f"Its weights take {format_bytes(best.weight_bytes)}, building it {format_bytes(best.required_bytes)}; what "
        f"answers need on top is not counted. Loss and speed are not known: run 'vlmcomp bench {best.recipe}'."
    )
    return Recommendation(constraints, best, tuple(candidates), reason, cost, basis, False)


def _candidate(
    constraints: Constraints, report: Report, baseline: Report, load_predictions: PredictionLoader, task: str
) -> Candidate:
    assert report.size is not None
    required = required_memory(report)
    unchanged = Interval(0.0, 0.0, 0.0)
    difference: Interval | None = unchanged
    if report is not baseline:
        compared = grouping.compare_to_baseline(load_predictions, report, baseline, task)
        difference = compared.difference if compared else None
    speed = None
    if report.latency is not None and baseline.latency is not None:
        timed_baseline = report is baseline and bool(report.latency.session)
        speed = unchanged if timed_baseline else speed_interval(baseline.latency, report.latency)
    refused = _refusal(constraints, required, difference, speed)
    return Candidate(Recipe.parse(report.recipe), report.size.total_bytes, required, difference, speed, refused)


def _refusal(constraints: Constraints, required: int, difference: Interval | None, speed: Interval | None) -> str:
    if required > constraints.memory_bytes:
        return f"it takes {format_bytes(required)}"
    if difference is None:
        return "its answers are not recorded, so its loss is not known"
    if 100 * difference.low < -constraints.max_accuracy_drop:
        return f"{_MAY_LOSE} {-100 * difference.low:.1f} points"
    if constraints.optimize_for == "speed" and speed is None:
        return "it was not timed in turns with FP16, so its speed is not known"
    return ""


def _memory_key(candidate: Candidate) -> tuple[float, ...]:
    assert candidate.difference is not None
    return candidate.weight_bytes, -candidate.difference.value, len(candidate.recipe.steps)


def _speed_key(candidate: Candidate) -> tuple[float, ...]:
    """Significantly faster than FP16 first, then FP16, then the others by their speed."""
    assert candidate.speed is not None
    faster = candidate.speed.low > 0
    is_baseline = candidate.recipe == candidate.recipe.baseline
    return not faster, not faster and not is_baseline, -candidate.speed.value, candidate.weight_bytes


def _reason(constraints: Constraints, best: Candidate, num_allowed: int, num_candidates: int) -> str:
    subject, verb = ("it", "fits and stays") if num_allowed == 1 else ("this one", "fit and stay")
    count = f"Of {format_count(num_candidates, 'measured recipe')} {num_allowed}"
    head = f"{count} {verb} within {_points(constraints)}, by the 95 % interval"
    if constraints.optimize_for == "memory":
        return f"{head}; {subject} takes the fewest bytes."
    assert best.speed is not None
    if best.speed.low > 0:
        return f"{head}; {subject} decodes fastest."
    if best.recipe == best.recipe.baseline:
        return f"{head}; none is seen to decode faster than FP16."
    return f"{head}; none of them is seen to decode faster than FP16, and this one is the least slow."


def _doubt(constraints: Constraints, samples: int) -> str:
    """A sentence if so few questions cannot show that any compressed model stays within the drop."""
    if not constraints.max_accuracy_drop:
        return " That nothing at all is lost no number of questions shows."
    fewest = fewest_questions(constraints.max_accuracy_drop / 100)
    if samples >= fewest:
        return ""
    few = f"{format_count(samples, 'question')} {'is' if samples == 1 else 'are'} too few"
    return f" {few} to show a loss within {_points(constraints)}: it takes {fewest:,}."


def _points(constraints: Constraints) -> str:
    return f"{constraints.max_accuracy_drop:g} point{'s' * (constraints.max_accuracy_drop != 1)}"


def _cost(best: Candidate, metric: str) -> str:
    assert best.difference is not None
    weights, peak = format_bytes(best.weight_bytes), format_bytes(best.required_bytes)
    memory = f"Weights {weights}; answering took {peak} at its peak."
    if best.recipe == best.recipe.baseline:
        return f"{memory} It is the FP16 model itself: nothing is lost."
    value, low, high = best.difference.points()
    quality = f"{metric_title(metric)} {value} points (95 %: {low} to {high})."
    speed = "Its speed is not known: it was not timed in turns with FP16."
    if best.speed is not None:
        bounds = f"95 %: {1 + best.speed.low:.2f} to {1 + best.speed.high:.2f}"
        speed = f"Decoding {1 + best.speed.value:.2f}x FP16's speed ({bounds})."
    return f"{memory} {quality} {speed}"


def _no_candidate(constraints: Constraints, candidates: Sequence[Candidate]) -> str:
    """Which constraint rules most candidates out, and the nearest one to it."""
    fitting = [c for c in candidates if c.required_bytes <= constraints.memory_bytes]
    if not fitting:
        least = min(candidates, key=lambda c: c.required_bytes)
        memory = format_bytes(constraints.memory_bytes)
        return f"Nothing fits in {memory}: {least.recipe} needs least, {format_bytes(least.required_bytes)}."
    drops = {c.recipe: -100 * c.difference.low for c in fitting if c.difference is not None}
    if drops and all(drop > constraints.max_accuracy_drop for drop in drops.values()):
        recipe, drop = min(drops.items(), key=lambda item: item[1])
        return f"What fits may lose more than {_points(constraints)}: {recipe} loses least, at most {drop:.1f}."
    if constraints.optimize_for == "speed" and drops:
        return "No recipe that fits was timed in turns with FP16 (bench --latency-only): choose for memory instead."
    return "The answers of what fits are not recorded: measure it with 'vlmcomp bench'."
