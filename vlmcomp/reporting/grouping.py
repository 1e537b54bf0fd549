"""Reports as Markdown tables: what does not compare stands in tables apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vlmcomp.recipe import PRECISIONS, Recipe
from vlmcomp.reporting.statistics import Interval, Paired, compare, speed_interval
from vlmcomp.results.schema import RANDOM, Latency, Pruned, Quality, Report, p95
from vlmcomp.results.store import Rows

MAIN_TASK, SIDE_TASK = "shapes-vqa", "easy-vqa"
RowsOf = Callable[[Report], Mapping[str, Rows]]  # the per-sample rows of a report, by task
_GROUPS = ("FP16 baseline", "quantized", "MLP pruned", "heads pruned", "tokens pruned", "combined")
_DECODER = ("decoder attention", "decoder MLP")
_CHANGED = {"vis": _DECODER, "heads": _DECODER[:1], "glu": _DECODER[1:], "ffn": _DECODER[1:]}  # the parts, by step
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


def place(recipe: Recipe) -> tuple[object, ...]:
    """Where a recipe stands among others: baseline, quantized, MLP, heads and tokens pruned, combined; less compressed
    first within each."""
    percents = tuple((s.kind, s.percent) for s in recipe.steps)
    group, precision = _GROUPS.index(recipe.technique), PRECISIONS.index(recipe.precision)
    return recipe.model, group, len(percents), percents, precision


def order(reports: Sequence[Report]) -> list[Report]:
    """By the places of their recipes."""
    return sorted(reports, key=lambda report: place(Recipe.parse(report.recipe)))


def groups(reports: Sequence[Report], timing: bool = True) -> list[list[Report]]:
    """Reports that may share a table: same machine, model and weights, same questions, metrics and way of timing.

    ``timing`` False: the table shows no times, so they need not be taken alike.
    A failed report has no scores; it joins every table of its machine and model, or makes one of its own.
    """
    found: dict[tuple[object, ...], list[Report]] = {}
    failed = [r for r in reports if r.error is not None]
    for report in reports:
        if report.error is None:
            asked = tuple((q.task, q.version, q.task_sha256, q.samples, q.seed) for q in report.quality.values())
            means = tuple((q.bertscore_encoder, q.meteor_data, q.rouge1_stemmed) for q in report.quality.values())
            timed = timing and report.latency and (report.latency.new_tokens, report.latency.threads)
            found.setdefault((*_place(report), report.source, report.revision, asked, means, timed), []).append(report)
    for report in failed:
        homes = [k for k in found if k[:2] == _place(report)] or [_place(report)]
        for home in homes:
            found.setdefault(home, []).append(report)
    return [order(group) for _, group in sorted(found.items(), key=lambda item: str(item[0]))]


def _place(report: Report) -> tuple[str, str]:
    return report.hardware.slug, Recipe.parse(report.recipe).model


def paired(rows: RowsOf, report: Report, baseline: Report, task: str = MAIN_TASK) -> Paired | None:
    """What changed against the baseline on one task; None where the answers to it are not recorded."""
    before, after = (rows(r).get(task, []) for r in (baseline, report))
    try:
        return compare(before, after)
    except ValueError:
        return None


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


def marked(text: str, name: str) -> bool:
    """Whether ``text`` has a place for the block ``name``."""
    return f"<!-- {name}:begin -->" in text


def rewrite(text: str, block: str, name: str = "results") -> str:
    """``text`` with what stands between the two markers of ``name`` replaced by ``block``.

    Raises:
        ValueError: the markers are not there once each, in order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed or begin in rest or end in after:
        raise ValueError(f"the file needs the markers {begin} and {end}, once each and in this order")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"


def account(recipe: Recipe, pruned: Sequence[Pruned], held: Mapping[str, int], counted: Mapping[str, int]) -> str:
    """What building ``recipe`` removed, and each part's bytes, parameters and changes, as plain text.

    ``held`` and ``counted`` are bytes and logical parameters by part (``report.PARTS``); empty parts are left out.
    """
    lines = [
        f"{p.step}: kept {p.kept} of {p.of} {p.unit}, {p.real_percent:.1f} % removed, {p.asked_percent:g} % asked for "
        f"({p.score}; {p.calibration})"
        for p in pruned
    ] or ["nothing was removed"]
    rows = [("PART", "MB", "PARAMETERS", "")]
    for part in filter(held.get, held):
        done = [str(s) for s in recipe.steps if part in _CHANGED[s.kind]]
        if part in _DECODER and recipe.precision != "fp16":
            done.append(recipe.precision)
        rows.append((part, f"{held[part] / 1e6:,.3f}", f"{counted[part]:,}", ", ".join(done) or "left alone"))
    rows.append(("total", f"{sum(held.values()) / 1e6:,.3f}", f"{sum(counted.values()):,}", ""))
    return "\n".join([*lines, "", aligned(rows)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as plain text in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def baseline_of(reports: Sequence[Report]) -> Report | None:
    """The FP16 report that the others of one group are held against; None where it is missing or failed."""
    whole = (r for r in reports if r.error is None)
    return next((r for r in whole if str(Recipe.parse(r.recipe).baseline) == r.recipe), None)


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


def table(head: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table whose first ``left`` columns are aligned to the left, the others to the right."""
    rule = [":--" if i < left else "--:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))
