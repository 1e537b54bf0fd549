"""Which reports compare: the headline task, groups of equal circumstances, their order and their baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from vlmcomp.recipe import PRECISIONS, Recipe
from vlmcomp.reporting.comparison import PairedComparison, compare
from vlmcomp.reporting.statistics import Interval
from vlmcomp.results.schema import EXACT_MATCH, GIVEN_WEIGHTS, Report, same_questions, same_timing_session
from vlmcomp.results.store import Predictions

PredictionLoader = Callable[[Report], Mapping[str, Predictions]]  # the predictions of a report, by task
_TECHNIQUES = ("FP16 baseline", "quantized", "MLP pruned", "heads pruned", "tokens pruned", "combined")


def list_tasks(reports: Sequence[Report]) -> list[str]:
    """Tasks that ``reports`` have scores of, the one that most of them share first; ties in the order of listing."""
    counts = Counter(task for report in reports for task in report.quality)
    return [task for task, _ in counts.most_common()]


def choose_headline_task(reports: Sequence[Report]) -> str | None:
    """Default task that decides quality: the first of ``list_tasks``; None if no report has a score."""
    return next(iter(list_tasks(reports)), None)


def metric_title(metric: str) -> str:
    """The name of a score as the first words of a title."""
    return metric[:1].upper() + metric[1:]


def find_metric(reports: Sequence[Report], task: str | None) -> str:
    """The score that judges ``task`` in ``reports``; exact match if none has it."""
    return next((r.quality[task].metric for r in reports if task in r.quality), EXACT_MATCH)


def headline_tasks(groups: Mapping[str, Sequence[Report]], task: str | None = None) -> dict[str, str | None]:
    """The task of every model's quality: ``task``, else the headline task of its own reports."""
    return {model: task or choose_headline_task(group) for model, group in groups.items()}


def column_titles(tasks: Mapping[str, str | None]) -> list[str]:
    """The models' names, each with its task if they do not all share one."""
    if len(set(tasks.values())) <= 1:
        return list(tasks)
    return [f"{model} ({task})" if task else model for model, task in tasks.items()]


def sort_key(recipe: Recipe) -> tuple[object, ...]:
    """Baseline, quantized, MLP pruned, heads pruned, tokens pruned, combined; less compressed first within each."""
    percents = tuple((step.target, step.percent) for step in recipe.steps)
    technique = _TECHNIQUES.index(recipe.technique)
    return recipe.model, technique, len(percents), percents, PRECISIONS.index(recipe.precision)


def sort_reports(reports: Sequence[Report]) -> list[Report]:
    """``reports`` by the ``sort_key`` of their recipes."""
    return sorted(reports, key=lambda report: sort_key(Recipe.parse(report.recipe)))


def comparable_groups(reports: Sequence[Report], timing: bool = True, task: str | None = None) -> list[list[Report]]:
    """Reports that may share a table: same machine, model and weights with their settings, same questions, metrics
    and timing settings.

    A failed report has no scores; it joins every group of its machine and model, or forms one of its own.

    Args:
        reports: any reports.
        timing: whether the timing settings must agree; False for a table without times.
        task: the only task whose questions must agree (None: those of every task).
    """
    found: dict[tuple[object, ...], list[Report]] = {}
    for report in reports:
        if report.error is None:
            found.setdefault(_circumstances(report, timing, task), []).append(report)
    for report in reports:
        if report.error is not None:
            keys = [key for key in found if key[:2] == _machine_and_model(report)] or [_machine_and_model(report)]
            for key in keys:
                found.setdefault(key, []).append(report)
    return [sort_reports(group) for _, group in sorted(found.items(), key=lambda item: str(item[0]))]


def _circumstances(report: Report, timing: bool, task: str | None) -> tuple[object, ...]:
    scores = [q for q in report.quality.values() if task in (None, q.task)]
    questions = tuple((q.task, q.version, q.task_sha256, q.samples, q.seed) for q in scores)
    metrics = tuple((q.bertscore_encoder, q.meteor_data, q.rouge1_stemmed) for q in scores)
    timings = timing and report.latency and (report.latency.new_tokens, report.latency.threads)
    # bundled weights have one state of settings; their earlier reports do not record it
    weights = (report.source, report.revision, report.weights == GIVEN_WEIGHTS and report.settings)
    return (*_machine_and_model(report), *weights, questions, metrics, timings)


def _machine_and_model(report: Report) -> tuple[str, str]:
    return report.hardware.slug, Recipe.parse(report.recipe).model


def find_baseline(reports: Sequence[Report]) -> Report | None:
    """The FP16 report that the others of one group are compared with; None if it is missing or failed."""
    complete = (report for report in reports if report.error is None)
    return next((r for r in complete if str(Recipe.parse(r.recipe).baseline) == r.recipe), None)


def compare_to_baseline(
    load_predictions: PredictionLoader, report: Report, baseline: Report, task: str | None = None
) -> PairedComparison | None:
    """Paired comparison of ``report`` with ``baseline`` on one task.

    Args:
        load_predictions: reads the predictions of a report.
        report: the compressed model's.
        baseline: the FP16 model's.
        task: the task (None: the headline task of the two).

    Returns:
        None if a score or the predictions are missing, or the questions differ.
    """
    task = task or choose_headline_task([baseline, report])
    if task is None or task not in report.quality or task not in baseline.quality:
        return None
    if not same_questions(report.quality[task], baseline.quality[task]):
        return None
    before = load_predictions(baseline).get(task, [])
    after = load_predictions(report).get(task, [])
    try:
        found = compare(before, after)
    except ValueError:
        return None
    if report is not baseline:
        return found
    return replace(found, difference=Interval(0.0, 0.0, 0.0), retention=Interval(1.0, 1.0, 1.0))  # certainly itself


def largest_machine(reports: Sequence[Report]) -> list[Report]:
    """The reports of the machine that measured most models, and of these most recipes."""
    machines: dict[str, list[Report]] = {}
    for report in reports:
        machines.setdefault(report.hardware.slug, []).append(report)

    def rank(group: list[Report]) -> tuple[int, int, str]:
        return len({Recipe.parse(r.recipe).model for r in group}), len(group), group[0].hardware.slug

    return max(machines.values(), key=rank, default=[])


def comparable_timings(reports: Sequence[Report]) -> list[Report]:
    """The timed reports with the most common number of new tokens and threads: the others share no axis with them."""
    timed = [(report, (report.latency.new_tokens, report.latency.threads)) for report in reports if report.latency]
    counts = Counter(settings for _, settings in timed)
    return [report for report, settings in timed if settings == counts.most_common(1)[0][0]]


def timed_in_one_session(reports: Sequence[Report]) -> bool:
    """Whether all of ``reports``, which have latencies, were timed in turns."""
    return all(same_timing_session(reports[0].latency, r.latency) for r in reports)  # type: ignore[arg-type]
