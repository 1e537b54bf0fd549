"""One recorded result as a card: its numbers, the sizes of its parts, and its regressions against FP16."""

from __future__ import annotations

import base64
import difflib
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from PIL import Image

from vlmcomp.app import results
from vlmcomp.app.text_diff import highlight_changes
from vlmcomp.data import task_registry
from vlmcomp.data.answer_matching import choose_metric, score_answer
from vlmcomp.data.tasks import Sample
from vlmcomp.feedback import format_bytes, format_count
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.grouping import choose_headline_task, find_baseline, metric_title
from vlmcomp.reporting.palette import COLORS
from vlmcomp.reporting.recommend import required_memory
from vlmcomp.results.schema import EXACT_MATCH, Report

MAX_REGRESSIONS = 6
EMPTY = (
    '<div class="empty">Click a point, select a row of the table, or choose a recipe above to see its details.</div>'
)


@dataclass(frozen=True)
class Regression:
    """A question on which the variant scores less than FP16: by exact match it was right, and is wrong."""

    id: str
    type: str
    question: str
    reference: str
    before: str
    after: str


def regressions(report: Report, task: str | None = None) -> list[Regression]:
    """All such questions of ``task`` (None: the headline task), the answers furthest from the reference first."""
    dense = find_baseline(results.group(report.hardware.slug, Recipe.parse(report.recipe).model, task))
    if dense is None:
        return []
    task = task or choose_headline_task([dense, report]) or ""
    before = {(r["id"], r["question"]): r for r in results.rows(dense).get(task, [])}
    rows = results.rows(report).get(task, [])
    metric = choose_metric([*before.values(), *rows])
    found = []
    for row in rows:
        old = before.get((row["id"], row["question"]))
        if old is not None and score_answer(row, metric) < score_answer(old, metric):
            answers = (row["reference"], old["answer"], row["answer"])
            found.append(Regression(row["id"], row["type"], row["question"], *answers))
    return sorted(found, key=lambda regression: (_similarity(regression), regression.id))


def _similarity(regression: Regression) -> float:
    """Similarity of the variant's answer and the reference, from 0 to 1."""
    reference = regression.reference.lower()
    answer = regression.after.lower()
    return difflib.SequenceMatcher(a=reference, b=answer, autojunk=False).ratio()


@cache
def _samples(task: str) -> Mapping[str, Sample]:
    """The samples by id of a task that ships; the images of other tasks would have to be downloaded."""
    if task not in task_registry.TASKS:
        return {}
    try:
        return {sample.id: sample for sample in task_registry.TASKS[task].all_samples}
    except ValueError:  # its package is not installed
        return {}


def sample_image(task: str, id: str) -> Image.Image | None:
    """The image of a question, loaded anew; None if its task does not ship."""
    sample = _samples(task).get(id)
    return None if sample is None else sample.image


def data_uri(image: Image.Image) -> str:
    """The image as a ``data:`` URI of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@cache
def render(slug: str | None, recipe: str | None, task: str | None = None) -> str:
    """The card of a result as HTML; all text from models and reports is escaped.

    Args:
        slug: the machine.
        recipe: the recipe.
        task: the task of the quality (None: the headline task).
    """
    report = results.find(slug, recipe)
    if report is None:
        return EMPTY
    if task not in report.quality:
        task = choose_headline_task([report])
    name = Recipe.parse(report.recipe)
    head = (
        f"<header><h3>{html.escape(report.recipe)}</h3><p>{html.escape(name.label)} · {name.technique} · "
        f"{html.escape(report.hardware.name)}, {html.escape(report.date[:10])}</p></header>"
    )
    if report.error is not None or report.size is None:
        body = f'<p class="failure">Failed: {html.escape(report.error or "not measured")}</p>'
    else:
        columns = f"<div>{_numbers(report, task)}</div><div>{_parts(report)}</div>"
        body = f'<div class="halves">{columns}</div>{_regressions_section(report, task)}'
    return f'<section class="details" style="--hue:{COLORS[name.technique]}" aria-live="polite">{head}{body}</section>'


def _description_list(rows: list[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<div><dt>{a}</dt><dd>{html.escape(b)}</dd></div>" for a, b in rows) + "</dl>"


def _numbers(report: Report, task: str | None) -> str:
    quality = report.quality.get(task or "")
    timed = report.latency
    size = report.size
    assert size is not None
    both, speed = results.against_fp16(report, task)
    rows: list[tuple[str, str]] = []
    if quality is not None:
        rows.append((metric_title(quality.metric), f"{100 * quality.score:.1f} % of {quality.samples:,}"))
        if both is not None:
            value, low, high = both.difference.points()
            rows.append(("Points to FP16", f"{value} ({low} to {high})"))
            rows.append(("Same answer as FP16", f"{100 * both.agreement:.1f} %"))
        rows.append(("Composite", f"{100 * quality.composite:.1f} %"))
    if timed is not None:
        speedup = speed.speedup_text if speed is not None else "not timed together with FP16"
        rows.append(("Speed to FP16", "1.00x" if is_baseline(report) else speedup))
    if (factor := results.size_factor(report, task)) is not None:
        rows.append(("Size to FP16", f"{factor:.2f}x"))
    if timed is not None:
        rows.append(("First token", f"{timed.ttft_ms_median:.1f} ms"))
        rows.append(("Decoding", f"{timed.decode_ms_per_token_median:.2f} ms per token"))
    rows.append(("Weights", format_bytes(size.total_bytes)))
    rows.append(("Needs to answer", format_bytes(required_memory(report))))
    return f"<h4>Numbers</h4>{_description_list(rows)}"


def is_baseline(report: Report) -> bool:
    """Whether this is the uncompressed model."""
    return str(Recipe.parse(report.recipe).baseline) == report.recipe


def _parts(report: Report) -> str:
    """Bytes by part, each with a bar, and what was pruned."""
    assert report.size is not None
    bytes_by_part = {part: count for part, count in report.size.weight_bytes.items() if count}
    largest = max(bytes_by_part.values(), default=1)
    rows = "".join(
        f'<div><dt>{html.escape(part)}</dt><dd><span class="bar" style="width:{100 * count / largest:.0f}%"></span>'
        f"{count / 1e6:,.2f} MB</dd></div>"
        for part, count in bytes_by_part.items()
    )
    pruned = "".join(
        f"<li>{html.escape(p.step)}: kept {p.kept} of {p.of} {html.escape(p.unit)}, {p.real_percent:.1f} % removed</li>"
        for p in report.pruned
    )
    return f'<h4>Parts</h4><dl class="parts">{rows}</dl>' + (f"<ul>{pruned}</ul>" if pruned else "")


def _regressions_section(report: Report, task: str | None) -> str:
    if is_baseline(report):
        return "<p>This is the FP16 model, the baseline of the others.</p>"
    comparison = results.against_fp16(report, task)[0]
    if comparison is None or task is None:
        return "<p>The answers of this recipe or of FP16 are not recorded.</p>"
    found = regressions(report, task)
    changes = f"changed from right to wrong, {comparison.improvements} from wrong to right"
    if comparison.metric != EXACT_MATCH:
        changes = f"score less, {comparison.improvements} score more"
    answers = format_count(comparison.num_samples, "answer")
    head = f"<h4>Regressions against FP16</h4><p>{comparison.regressions} of {answers} {changes}."
    if not found:
        return f"{head}</p>"
    shown = found[:MAX_REGRESSIONS]
    note = f" The {len(shown)} that differ most from the reference:" if len(found) > 1 else ""
    items = "".join(_render_regression(regression, task) for regression in shown)
    return f'{head}{note}</p><div class="losses" role="list">{items}</div>'


def _render_regression(regression: Regression, task: str) -> str:
    image = sample_image(task, regression.id)
    picture = f'<img src="{data_uri(image)}" alt="image of the question" loading="lazy">' if image is not None else ""
    return (
        f'<article role="listitem">{picture}<div><p class="q">{html.escape(regression.question)}</p>'
        f"<p><span>FP16</span> {html.escape(regression.before)}</p>"
        f"<p><span>variant</span> {highlight_changes(regression.before, regression.after)}</p></div></article>"
    )
