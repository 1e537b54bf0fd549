"""Reports as Markdown: results, exact match by type of question, other tasks, and their circumstances."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlmcomp.recipe import Recipe
from vlmcomp.reporting.grouping import MAIN_TASK, SIDE_TASK, RowsOf, baseline_of, groups, order, paired
from vlmcomp.reporting.markdown import table
from vlmcomp.reporting.statistics import Interval, speed_interval
from vlmcomp.results.schema import RANDOM, Latency, Quality, Report, p95

_NONE = "–"


_HEAD = (
    "Recipe",
    "What",
    "Exact match %",
    "Points to FP16 (95 %)",
    "Same answer as FP16 %",
    "Right to wrong, wrong to right",
    "Composite %",
    "METEOR %",
    "ROUGE-1 %",
    "BERTScore %",
    "easy-VQA exact match %",
    "Words an answer",
    "TTFT ms",
    "ms/token",
    "p95",
    "Decode speed to FP16 (95 %)",
    "Floor reached %",
    "Weights MB",
    "% of FP16",
)


_LEFT = 2  # the first columns, of words, are aligned to the left


def results(reports: Sequence[Report], rows: RowsOf) -> str:
    """One group as a table, a row a recipe; changes are to the group's own FP16 baseline, with bootstrap intervals."""
    baseline = baseline_of(reports)
    lines = [_results_row(report, baseline, rows) for report in order(reports)]
    return table(_HEAD, lines, _LEFT)


def by_type(reports: Sequence[Report], task: str = MAIN_TASK) -> str:
    """Exact match of one group by type of question; the first row always says the type's commonest answer."""
    scored = [(r, r.quality[task]) for r in order(reports) if r.error is None and task in r.quality]
    if not scored:
        return ""
    first = scored[0][1]
    kinds = list(first.samples_by_type)
    head = ("Recipe", *(f"{kind} ({first.samples_by_type[kind]})" for kind in kinds))
    lines = [["always the commonest answer", *(_percent(first.commonest_answer_by_type.get(k)) for k in kinds)]]
    lines += [[f"`{r.recipe}`", *(_percent(q.exact_match_by_type.get(k)) for k in kinds)] for r, q in scored]
    return table(head, lines, 1)


def other_tasks(reports: Sequence[Report]) -> str:
    """One group's scores on the tasks that the results leave out; VQA accuracy where several people answered."""
    whole = [r for r in order(reports) if r.error is None]
    first = {q.task: q for r in whole for q in r.quality.values() if q.task not in (MAIN_TASK, SIDE_TASK)}
    columns: list[tuple[str, str, Callable[[Quality], float | None]]] = []
    for task, q in first.items():
        columns.append((task, f"{task} exact match % ({q.samples:,})", lambda q: q.exact_match))
        if q.vqa_accuracy is not None:
            columns.append((task, f"{task} VQA accuracy %", lambda q: q.vqa_accuracy))
    lines = [
        [f"`{r.recipe}`"]
        + [_percent(score(r.quality[task]) if task in r.quality else None) for task, _, score in columns]
        for r in whole
    ]
    return table(("Recipe", *(name for _, name, _ in columns)), lines, 1) if columns else ""


def caption(reports: Sequence[Report]) -> str:
    """What a group's numbers were measured on and with."""
    report = next((r for r in order(reports) if r.error is None), reports[0])
    machine = report.hardware
    parts = [f"{machine.name} ({machine.device}, {machine.cores} cores, {machine.memory_bytes / 1e9:.0f} GB)"]
    if report.weights == RANDOM:
        parts.append("random weights: the architecture alone, quality is not asked about")
    parts.append(f"weights {report.source}" + (f" ({report.revision})" if report.revision else ""))
    parts += [f"{q.task} {q.version}: {q.samples:,} questions" for q in report.quality.values()]
    if (timed := report.latency) is not None:
        parts.append(
            f"times: median of {len(timed.ttft_ms)} runs at batch 1, {timed.new_tokens} new tokens, "
            f"{timed.threads} thread{'s' * (timed.threads != 1)}, computed in {report.dtype_computed}"
        )
        if timed.floor is not None:
            speed = f"{timed.floor.bandwidth_bytes_s / 1e9:.1f} GB/s"
            parts.append(f"floor: the weights that a token reads, at {speed} as copied in memory here")
    if report.quality:
        scores = next(iter(report.quality.values()))
        parts += [f"BERTScore: {scores.bertscore_encoder}", f"METEOR: {scores.meteor_data}"]
    dates = sorted(r.date[:10] for r in reports)
    parts.append(f"measured {dates[0]}" + (f" to {dates[-1]}" if dates[-1] != dates[0] else ""))
    return f"{'; '.join(parts)}."


def block(reports: Sequence[Report], rows: RowsOf) -> str:
    """Every group as Markdown: caption, results, exact match by type of question, and the other tasks."""
    parts = []
    for group in groups(reports):
        parts += [caption(group), results(group, rows)]
        if types := by_type(group):
            parts += [f"Exact match on {MAIN_TASK} in percent by type of question (number of questions):", types]
        if others := other_tasks(group):
            parts += ["The other tasks (number of questions):", others]
    return "\n\n".join(parts) or "Nothing has been measured yet."


def _results_row(report: Report, baseline: Report | None, rows: RowsOf) -> list[str]:
    recipe = Recipe.parse(report.recipe)
    name = f"`{report.recipe}`"
    if report.error is not None or report.size is None or report.latency is None:
        reason = " ".join((report.error or "not measured").split()).replace("|", "\\|")
        return [name, f"{recipe.label}; failed: {reason}"] + [_NONE] * (len(_HEAD) - _LEFT)
    main, side = report.quality.get(MAIN_TASK), report.quality.get(SIDE_TASK)
    found = speed = share = None
    if baseline is not None and baseline.size is not None and baseline.latency is not None:
        if main is not None and MAIN_TASK in baseline.quality:
            found = paired(rows, report, baseline)
        speed = _speed(baseline.latency, report.latency)
        share = report.size.total_bytes / baseline.size.total_bytes
    return [
        name,
        recipe.label,
        _percent(main.exact_match if main else None),
        _NONE if found is None else _points(found.difference),
        _percent(found and found.same),
        _NONE if found is None else f"{found.to_wrong}, {found.to_right}",
        *map(_percent, _text_scores(main)),
        _percent(side.exact_match if side else None),
        f"{main.answer_words:.2f}" if main else _NONE,
        f"{report.latency.ttft_ms_median:.1f}",
        f"{report.latency.decode_ms_per_token_median:.2f}",
        f"{p95(report.latency.decode_ms_per_token):.2f}",
        "1.00x" if report is baseline else speed or _NONE,
        _percent(_reached(report.latency)),
        f"{report.size.total_bytes / 1e6:,.2f}",
        _percent(share),
    ]


def _points(difference: Interval) -> str:
    value, low, high = difference.points()
    return f"{value} ({low} to {high})"


def _speed(before: Latency, after: Latency) -> str | None:
    found = speed_interval(before, after)
    if found is None:  # not timed in turns
        return None
    return found.factor if found.seen else "no difference seen"


def _reached(latency: Latency) -> float | None:
    """How near decoding comes to the time that reading the weights alone takes on this device."""
    return latency.floor and latency.floor.decode_ms_per_token / latency.decode_ms_per_token_median


def _text_scores(quality: Quality | None) -> list[float | None]:
    if quality is None:
        return [None] * 4
    return [quality.composite, quality.meteor, quality.rouge1, quality.bertscore_f1]


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{100 * share:.1f}"
