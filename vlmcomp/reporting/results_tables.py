"""Reports as Markdown tables: results, scores by question type, other tasks, and their circumstances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vlmcomp.data.bad_rows import format_skipped
from vlmcomp.data.hub_tasks import HUB_TASKS
from vlmcomp.data.task_registry import TASKS
from vlmcomp.feedback import format_count
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.grouping import (
    PredictionLoader,
    choose_headline_task,
    comparable_groups,
    compare_to_baseline,
    find_baseline,
    find_metric,
    metric_title,
    sort_reports,
)
from vlmcomp.reporting.markdown import markdown_table
from vlmcomp.reporting.statistics import Interval, percentile_95, speed_interval
from vlmcomp.results.schema import EXACT_MATCH, GIVEN_WEIGHTS, RANDOM_WEIGHTS, VQA_ACCURACY, Latency, Quality, Report

_NONE = "–"
_VQA_RULE = "VQA accuracy: that of the challenge; of up to four answers a question the share that agrees"
_NUM_LEFT = 2  # the first columns, of words, are left-aligned


def results_table(
    reports: Sequence[Report],
    load_predictions: PredictionLoader,
    columns: Sequence[str] | None = None,
    task: str | None = None,
) -> str:
    """One row a recipe of one group; changes are to the group's own FP16 baseline, with 95 % intervals.

    Args:
        reports: one of the ``comparable_groups``.
        load_predictions: reads the predictions of a report.
        columns: titles of the columns to show, as of a task of exact match, in the table's order (None: all).
        task: the headline task (None: the one that most of ``reports`` share).
    """
    task = task or choose_headline_task(reports)
    second = _second_task(reports, task)
    head = _head(find_metric(reports, task), second, find_metric(reports, second))
    names = _head(EXACT_MATCH, second, EXACT_MATCH)
    baseline = find_baseline(reports)
    lines = []
    for report in sort_reports(reports):
        cells = _result_cells(report, baseline, load_predictions, task, second)
        lines.append([f"`{report.recipe}`", *(cells or _failure_cells(report, len(head)))])
    shown = [i for i, title in enumerate(names) if columns is None or title in columns]
    table = [[line[i] for i in shown] for line in (head, *lines)]
    return markdown_table(table[0], table[1:], sum(i < _NUM_LEFT for i in shown))


def question_type_table(reports: Sequence[Report], task: str | None = None) -> str:
    """Scores of one group by question type; the first row always gives the type's most frequent answer."""
    task = task or choose_headline_task(reports)
    scored = [(r, r.quality[task]) for r in sort_reports(reports) if r.error is None and task in r.quality]
    if not scored:
        return ""
    first = scored[0][1]
    types = list(first.samples_by_type)
    head = ("Recipe", *(f"{name} ({first.samples_by_type[name]})" for name in types))
    by_type = [_scores_by_type(quality, _type_metric(reports, task)) for _, quality in scored]
    lines = [["always the commonest answer", *(_percent(by_type[0][1].get(t)) for t in types)]]
    for (report, _), (scores, _) in zip(scored, by_type, strict=True):
        lines.append([f"`{report.recipe}`", *(_percent(scores.get(t)) for t in types)])
    return markdown_table(head, lines, 1)


def _type_metric(reports: Sequence[Report], task: str | None) -> str:
    """The metric that is known by question type: exact match if a report of VQA accuracy has it of the whole alone."""
    scores = [report.quality[task] for report in reports if task in report.quality]
    return VQA_ACCURACY if all(quality.vqa_accuracy_by_type is not None for quality in scores) else EXACT_MATCH


def _scores_by_type(quality: Quality, metric: str) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """The scores of a report, and those of always giving the commonest answer."""
    if metric == VQA_ACCURACY:
        return quality.vqa_accuracy_by_type or {}, quality.commonest_answer_vqa_by_type or {}
    return quality.exact_match_by_type, quality.commonest_answer_by_type


def other_tasks_table(reports: Sequence[Report], task: str | None = None) -> str:
    """Scores that ``results_table`` lacks: of other tasks, and exact match where another score judges the task."""
    task = task or choose_headline_task(reports)
    shown = (task, _second_task(reports, task))
    complete = [r for r in sort_reports(reports) if r.error is None]
    first = {q.task: q for r in complete for q in r.quality.values()}
    columns: list[tuple[str, str, Callable[[Quality], float | None]]] = []
    for name, quality in first.items():
        if name not in shown:
            columns.append((name, f"{name} {quality.metric} % ({quality.samples:,})", lambda q: q.score))
        if quality.metric != EXACT_MATCH:
            columns.append((name, f"{name} exact match %", lambda q: q.exact_match))
    if not columns:
        return ""
    lines = []
    for report in complete:
        scores = (score(report.quality[name]) if name in report.quality else None for name, _, score in columns)
        lines.append([f"`{report.recipe}`", *map(_percent, scores)])
    return markdown_table(("Recipe", *(title for _, title, _ in columns)), lines, 1)


def caption(reports: Sequence[Report]) -> str:
    """What one group was measured on and with, as a sentence."""
    report = next((r for r in sort_reports(reports) if r.error is None), reports[0])
    machine = report.hardware
    parts = [
        f"{machine.name} ({machine.device}, {format_count(machine.cores, 'core')}, {machine.memory_bytes / 1e9:.0f} GB)"
    ]
    if report.weights == RANDOM_WEIGHTS:
        parts.append("random weights: the architecture alone, without a quality score")
    parts.append(f"weights {report.source}" + (f" ({report.revision})" if report.revision else ""))
    if report.weights == GIVEN_WEIGHTS and report.settings:
        parts.append(f"settings {report.settings}")
    parts += [_questions(q) for q in report.quality.values()]
    if any(quality.metric == VQA_ACCURACY for quality in report.quality.values()):
        parts.append(_VQA_RULE)
    parts += _timing_facts(report)
    if report.quality:
        scores = next(iter(report.quality.values()))
        parts += [f"BERTScore: {scores.bertscore_encoder}", f"METEOR: {scores.meteor_data}"]
    dates = sorted(r.date[:10] for r in reports)
    parts.append(f"measured {dates[0]}" + (f" to {dates[-1]}" if dates[-1] != dates[0] else ""))
    return f"{'; '.join(parts)}."


def _questions(quality: Quality) -> str:
    left_out = f" ({format_skipped(quality.skipped_rows)})" if quality.skipped_rows else ""
    return f"{quality.task} {quality.version}: {format_count(quality.samples, 'question')}{left_out}"


def results_section(reports: Sequence[Report], load_predictions: PredictionLoader, task: str | None = None) -> str:
    """Every group as Markdown: caption, results, scores by question type, and the other tasks.

    Args:
        reports: any reports.
        load_predictions: reads the predictions of a report.
        task: the headline task (None: of each group the one that most of its reports share).
    """
    parts = []
    for group in comparable_groups(reports):
        headline = task or choose_headline_task(group)
        parts += [caption(group), results_table(group, load_predictions, task=headline)]
        if types := question_type_table(group, headline):
            metric = metric_title(_type_metric(group, headline))
            parts += [f"{metric} on {headline} in percent by type of question (number of questions):", types]
        if others := other_tasks_table(group, headline):
            parts += ["The other tasks (number of questions):", others]
    return "\n\n".join(parts) or "Nothing has been measured yet."


def _second_task(reports: Sequence[Report], task: str | None) -> str | None:
    """The first listed task of a group besides the headline task; it has a column beside it."""
    names = (name for report in sort_reports(reports) for name in report.quality)
    return next((name for name in names if name != task), None)


def _task_title(task: str) -> str:
    known = TASKS.get(task) or HUB_TASKS.get(task)
    return known.title.partition(",")[0] if known else task


def _head(metric: str, second_task: str | None, second_metric: str) -> list[str]:
    """The titles of the columns; ``metric`` and ``second_metric`` judge the headline task and the second one."""
    return [
        "Recipe",
        "What",
        f"{metric_title(metric)} %",
        "Points to FP16 (95 %)",
        "Same answer as FP16 %",
        "Right to wrong, wrong to right" if metric == EXACT_MATCH else "Score less, more",
        "Composite %",
        "METEOR %",
        "ROUGE-1 %",
        "BERTScore %",
        *([f"{_task_title(second_task)} {second_metric} %"] if second_task else []),
        "Words an answer",
        "TTFT ms",
        "ms/token",
        "p95",
        "Decode speed to FP16 (95 %)",
        "Floor reached %",
        "Weights MB",
        "% of FP16",
    ]


def _failure_cells(report: Report, num_columns: int) -> list[str]:
    """The cells of a report without measurements, after its recipe."""
    reason = " ".join((report.error or "not measured").split())
    label = Recipe.parse(report.recipe).label
    return [f"{label}; failed: {reason}", *[_NONE] * (num_columns - _NUM_LEFT)]


def _result_cells(
    report: Report,
    baseline: Report | None,
    load_predictions: PredictionLoader,
    task: str | None,
    second_task: str | None,
) -> list[str] | None:
    """The cells of a report after its recipe; None if it failed."""
    if report.error is not None or report.size is None or report.latency is None:
        return None
    share = None
    if baseline is not None and baseline.size is not None and baseline.latency is not None:
        share = report.size.total_bytes / baseline.size.total_bytes
    return [
        Recipe.parse(report.recipe).label,
        *_quality_cells(report, baseline, load_predictions, task, second_task),
        *_latency_cells(report.latency, report is baseline, baseline),
        f"{report.size.total_bytes / 1e6:,.2f}",
        _percent(share),
    ]


def _quality_cells(
    report: Report,
    baseline: Report | None,
    load_predictions: PredictionLoader,
    task: str | None,
    second_task: str | None,
) -> list[str]:
    quality = report.quality.get(task) if task else None
    found = compare_to_baseline(load_predictions, report, baseline, task) if quality and baseline else None
    second = report.quality.get(second_task) if second_task else None
    return [
        _percent(quality.score if quality else None),
        _NONE if found is None else _points(found.difference),
        _percent(found.agreement if found else None),
        _NONE if found is None else f"{found.regressions}, {found.improvements}",
        *map(_percent, _text_scores(quality)),
        *([_percent(second.score if second else None)] if second_task else []),
        f"{quality.answer_words:.2f}" if quality else _NONE,
    ]


def _latency_cells(latency: Latency, is_baseline: bool, baseline: Report | None) -> list[str]:
    speed = _speed(baseline.latency, latency) if baseline is not None and baseline.latency is not None else None
    return [
        f"{latency.ttft_ms_median:.1f}",
        f"{latency.decode_ms_per_token_median:.2f}",
        f"{percentile_95(latency.decode_ms_per_token):.2f}",
        "1.00x" if is_baseline else speed or _NONE,
        _percent(_roofline_share(latency)),
    ]


def _timing_facts(report: Report) -> list[str]:
    timed = report.latency
    if timed is None:
        return []
    facts = [
        f"times: median of {format_count(len(timed.ttft_ms), 'run')} at batch 1, "
        f"{format_count(timed.new_tokens, 'new token')}, {format_count(timed.threads, 'thread')}, "
        f"computed in {report.dtype_computed}"
    ]
    if timed.floor is not None:
        speed = f"{timed.floor.bandwidth_bytes_s / 1e9:.1f} GB/s"
        facts.append(f"floor: the weights that a token reads, at {speed} as copied in memory here")
    return facts


def _points(difference: Interval) -> str:
    value, low, high = difference.points()
    return f"{value} ({low} to {high})"


def _speed(before: Latency, after: Latency) -> str | None:
    found = speed_interval(before, after)
    if found is None:  # not timed in turns
        return None
    return found.speedup_text if found.significant else "no difference seen"


def _roofline_share(latency: Latency) -> float | None:
    """Share of the memory bandwidth's limit that decoding reaches on this device."""
    if latency.floor is None:
        return None
    return latency.floor.decode_ms_per_token / latency.decode_ms_per_token_median


def _text_scores(quality: Quality | None) -> list[float | None]:
    if quality is None:
        return [None] * 4
    return [quality.composite, quality.meteor, quality.rouge1, quality.bertscore_f1]


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{100 * share:.1f}"
