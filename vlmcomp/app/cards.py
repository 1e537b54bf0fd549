"""The cards of a comparison as HTML. All text from visitors and models is escaped."""

from __future__ import annotations

import html
import re

from vlmcomp.app.handlers import Card, Comparison
from vlmcomp.app.text_diff import highlight_changes
from vlmcomp.feedback import format_bytes, format_count
from vlmcomp.reporting.palette import COLORS
from vlmcomp.results.answer import Answer

EMPTY = (
    '<div class="empty"><b>Answers appear here, side by side.</b><br>'
    "Choose an example or upload an image, ask a question, and compare answer, speed and size of each variant.</div>"
)


def render(comparison: Comparison, known: str | None = None) -> str:
    """The cards side by side; ``known`` is the correct answer, if there is one."""
    baseline = next((c for c in comparison.cards if c.recipe == c.recipe.baseline), None)
    cards = "".join(_card(card, baseline, known) for card in comparison.cards)
    answer = f'<p class="known">Known answer: <b>{html.escape(known)}</b></p>' if known else ""
    return f'{answer}<div class="cards" role="list" aria-live="polite">{cards}</div>'


def _card(card: Card, baseline: Card | None, known: str | None) -> str:
    done = card.status == "done" and not card.error
    state = "failed" if card.error else "done" if done else "stopped" if card.is_over else "working"
    origin = _origin(card) if done or card.recorded else ""
    verdicts = _verdicts(card, known) if done else ""
    color = COLORS[card.recipe.technique]
    return (
        f'<article class="card {state}" role="listitem" style="--hue:{color}" '
        f'aria-label="{html.escape(str(card.recipe))}">'
        f"<header><h3>{html.escape(card.recipe.name)}</h3><p>{html.escape(card.recipe.label)}</p></header>"
        f"{_body(card, baseline)}{verdicts}{origin}</article>"
    )


def _body(card: Card, baseline: Card | None) -> str:
    if card.error:
        return f'<p class="failure" role="alert">{html.escape(card.status)}</p>'
    answer = card.answer
    if answer is None:
        return _status(card)
    text = html.escape(answer.text)
    if card.agrees is False and baseline is not None and baseline.answer is not None:
        text = highlight_changes(baseline.answer.text, answer.text)
    if answer.is_cut:
        text += f"… <small>(cut at {format_count(answer.new_tokens, 'token')})</small>"
    return f'<p class="answer">{text or "(empty answer)"}</p>{_measurements(card)}{_live_status(card)}'


def _live_status(card: Card) -> str:
    """The status of the live answer, below a recorded one or one that was stopped."""
    if card.status == "done" or not (card.recorded or card.is_over):
        return ""
    return _status(card, "live answer: " if card.recorded else "")


def _status(card: Card, prefix: str = "") -> str:
    """What the card waits for, or that it was stopped."""
    return f'<p class="waiting">{prefix}{html.escape(card.status)}{"" if card.is_over else "…"}</p>'


def _measurements(card: Card) -> str:
    answer = card.answer
    assert answer is not None
    size = format_bytes(card.weight_bytes) if card.weight_bytes else "–"
    rows = (
        ("First token", f"{answer.ttft_ms:,.1f} ms"),
        ("Speed", f"{answer.tokens_per_second:,.1f} tokens/s"),
        ("Total", f"{answer.total_ms:,.1f} ms"),
        ("Weights", size),
    )
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    return f"<dl>{items}</dl>{_time_notes(answer)}"


def _time_notes(answer: Answer) -> str:
    """What the times include although it was not spent, and what may have lengthened them."""
    notes = []
    if answer.shared_ms:
        ms = f"{answer.shared_ms:,.1f} ms"
        notes.append(f"The times include {ms} for encoding the image, which was done only once for all variants.")
    if answer.beside:
        notes.append(f"Meanwhile {html.escape(answer.beside)}, which may have slowed this answer.")
    return "".join(f'<p class="shared">{note}</p>' for note in notes)


def _verdicts(card: Card, known: str | None) -> str:
    assert card.answer is not None
    chips = []
    if card.recipe == card.recipe.baseline:
        chips.append(("plain", "FP16 baseline"))
    elif card.agrees is None:
        chips.append(("plain", "add fp16 to compare"))
    else:
        chips.append(("same", "same as FP16") if card.agrees else ("differs", "changed from FP16"))
    if known:
        is_correct = contains_answer(card.answer.text, known)
        chips.append(("same", "✓ right") if is_correct else ("differs", "✗ wrong"))
    return '<p class="chips">' + "".join(f'<span class="chip {kind}">{text}</span>' for kind, text in chips) + "</p>"


def contains_answer(answer: str, known: str) -> bool:
    """Whether an answer contains the words of the known one, in order and without gaps."""
    words, known_words = (f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} " for text in (answer, known))
    return known_words in words


def _origin(card: Card) -> str:
    """Where the answer was computed, and why it is not live."""
    kind, sign = ("recorded", "◷") if card.recorded else ("live", "●")
    text = html.escape(card.recorded or f"live on {card.device}")
    reason = f'<span class="why">{html.escape(card.reason)}</span>' if card.reason else ""
    return f'<p class="badge {kind}"><span aria-hidden="true">{sign}</span> {text}</p>{reason}'
