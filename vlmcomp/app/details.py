"""One recorded result as a card: its numbers, its parts, and the questions that it loses against FP16."""

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
from vlmcomp.app.text_diff import marked
from vlmcomp.data.answer_matching import exact_match
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.grouping import MAIN_TASK, baseline_of
from vlmcomp.reporting.palette import COLORS
from vlmcomp.reporting.recommend import needs
from vlmcomp.results.schema import Report, amount

SHOWN = 6
EMPTY = (
    '<div class="empty">Click a point, take a row of the table, or choose a recipe above to see what it costs.</div>'
)


@dataclass(frozen=True)
class Loss:
    """A question that FP16 answered right and the variant did not."""

    id: str
    type: str
    question: str
    reference: str
    before: str
    after: str


def losses(report: Report) -> list[Loss]:
    """All such questions, the answers furthest from the reference first."""
    dense = baseline_of(results.group(report.hardware.slug, Recipe.parse(report.recipe).model))
    if dense is None:
        return []
    before = {(r["id"], r["question"]): r for r in results.rows(dense).get(MAIN_TASK, [])}
    found = []
    for row in results.rows(report).get(MAIN_TASK, []):
        old = before.get((row["id"], row["question"]))
        if old is None or not exact_match(old["answer"], row["reference"]):
            continue
        if not exact_match(row["answer"], row["reference"]):
            told = (row["reference"], old["answer"], row["answer"])
            found.append(Loss(row["id"], row["type"], row["question"], *told))
    return sorted(found, key=lambda loss: (_near(loss), loss.id))


def _near(loss: Loss) -> float:
    return difflib.SequenceMatcher(a=loss.reference.lower(), b=loss.after.lower(), autojunk=False).ratio()


@cache
def _samples() -> Mapping[str, object]:
    from vlmcomp.data import task_registry

    return {sample.id: sample for sample in task_registry.find(MAIN_TASK).everything}


def picture(id: str) -> Image.Image | None:
    """The image that the question was asked about, drawn anew."""
    sample = _samples().get(id)
    return None if sample is None else sample.image  # type: ignore[attr-defined]


def data_uri(image: Image.Image) -> str:
    held = io.BytesIO()
    image.save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


@cache
def details(slug: str | None, recipe: str | None) -> str:
    """The card of ``recipe`` on that machine as HTML; everything that people and models wrote is escaped."""
    report = results.find(slug, recipe)
    if report is None:
        return EMPTY
    name = Recipe.parse(report.recipe)
    head = (
        f"<header><h3>{html.escape(report.recipe)}</h3><p>{html.escape(name.label)} · {name.technique} · "
        f"{html.escape(report.hardware.name)}, {html.escape(report.date[:10])}</p></header>"
    )
    if report.error is not None or report.size is None:
        body = f'<p class="failure">It failed: {html.escape(report.error or "not measured")}</p>'
    else:
        body = f'<div class="halves"><div>{_numbers(report)}</div><div>{_parts(report)}</div></div>{_lost(report)}'
    return f'<section class="details" style="--hue:{COLORS[name.technique]}" aria-live="polite">{head}{body}</section>'


def _list(rows: list[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<div><dt>{a}</dt><dd>{html.escape(b)}</dd></div>" for a, b in rows) + "</dl>"


def _numbers(report: Report) -> str:
    quality, timed, size = report.quality.get(MAIN_TASK), report.latency, report.size
    assert size is not None
    both, speed = results.against_fp16(report)
    rows: list[tuple[str, str]] = []
    if quality is not None:
        rows.append(("Exact match", f"{100 * quality.exact_match:.1f} % of {quality.samples:,}"))
        if both is not None:
            value, low, high = both.difference.points()
            rows.append(("Points to FP16", f"{value} ({low} to {high})"))
            rows.append(("Same answer as FP16", f"{100 * both.same:.1f} %"))
        rows.append(("Composite", f"{100 * quality.composite:.1f} %"))
    if timed is not None:
        rows.append(("First token", f"{timed.ttft_ms_median:.1f} ms"))
        rows.append(("Decoding", f"{timed.decode_ms_per_token_median:.2f} ms per token"))
        told = speed.factor if speed is not None else "not timed in turns with FP16"
        rows.append(("Speed to FP16", "1.00x" if name_is_dense(report) else told))
    rows.append(("Weights", amount(size.total_bytes)))
    rows.append(("Needs to answer", amount(needs(report))))
    return f"<h4>Numbers</h4>{_list(rows)}"


def name_is_dense(report: Report) -> bool:
    return str(Recipe.parse(report.recipe).baseline) == report.recipe


def _parts(report: Report) -> str:
    """Bytes by part, each with a bar of its share."""
    assert report.size is not None
    held = {part: count for part, count in report.size.weight_bytes.items() if count}
    largest = max(held.values(), default=1)
    rows = "".join(
        f'<div><dt>{html.escape(part)}</dt><dd><span class="bar" style="width:{100 * count / largest:.0f}%"></span>'
        f"{count / 1e6:,.2f} MB</dd></div>"
        for part, count in held.items()
    )
    cut = "".join(
        f"<li>{html.escape(p.step)}: kept {p.kept} of {p.of} {html.escape(p.unit)}, {p.real_percent:.1f} % removed</li>"
        for p in report.pruned
    )
    return f'<h4>Parts</h4><dl class="parts">{rows}</dl>' + (f"<ul>{cut}</ul>" if cut else "")


def _lost(report: Report) -> str:
    if name_is_dense(report):
        return "<p>It is the FP16 model: the others are held against it.</p>"
    both = results.against_fp16(report)[0]
    if both is None:
        return "<p>Its answers, or those of FP16, are not recorded.</p>"
    found = losses(report)
    head = (
        f"<h4>What it loses against FP16</h4><p>{both.to_wrong} of {both.samples:,} answers went from right to wrong, "
        f"{both.to_right} from wrong to right."
    )
    if not found:
        return f"{head}</p>"
    worst = f" The {min(SHOWN, len(found))} furthest from right:" if len(found) > 1 else ""
    return f'{head}{worst}</p><div class="losses" role="list">{"".join(map(_loss, found[:SHOWN]))}</div>'


def _loss(loss: Loss) -> str:
    image = picture(loss.id)
    shown = f'<img src="{data_uri(image)}" alt="the scene asked about" loading="lazy">' if image is not None else ""
    return (
        f'<article role="listitem">{shown}<div><p class="q">{html.escape(loss.question)}</p>'
        f"<p><span>FP16</span> {html.escape(loss.before)}</p>"
        f"<p><span>variant</span> {marked(loss.before, loss.after)}</p></div></article>"
    )
