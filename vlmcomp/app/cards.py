"""The cards of a comparison as HTML. Everything that a person or a model wrote is escaped."""

from __future__ import annotations

import html
import re

from vlmcomp.app.handlers import Card, Comparison
from vlmcomp.app.text_diff import highlight_changes
from vlmcomp.feedback import format_bytes
from vlmcomp.reporting.palette import COLORS

EMPTY = (
    '<div class="empty"><b>Answers appear here, side by side.</b><br>'
    "Take an example or your own image, ask, and see what each compressed variant says, how fast, and how large it is."
    "</div>"
)


def render(comparison: Comparison, known: str | None = None) -> str:
    """The cards side by side; ``known`` is the right answer, where there is one."""
    dense = next((c for c in comparison.cards if c.recipe == c.recipe.baseline), None)
    shown = "".join(_card(card, dense, known) for card in comparison.cards)
    told = f'<p class="known">Known answer: <b>{html.escape(known)}</b></p>' if known else ""
    return f'{told}<div class="cards" role="list" aria-live="polite">{shown}</div>'


def _card(card: Card, dense: Card | None, known: str | None) -> str:
    done = card.status == "done" and not card.error
    state = "failed" if card.error else "done" if done else "working"
    origin = _origin(card) if done or card.recorded else ""
    color, name = COLORS[card.recipe.technique], html.escape(str(card.recipe))
    return (
        f'<article class="card {state}" role="listitem" style="--hue:{color}" aria-label="{name}">'
        f"<header><h3>{html.escape(card.recipe.name)}</h3><p>{html.escape(card.recipe.label)}</p></header>"
        f"{_body(card, dense)}{_verdicts(card, known) if done else ''}{origin}</article>"
    )


def _body(card: Card, dense: Card | None) -> str:
    if card.error:
        return f'<p class="failure" role="alert">{html.escape(card.status)}</p>'
    answer = card.answer
    if answer is None:
        return f'<p class="waiting">{html.escape(card.status)}…</p>'
    text = html.escape(answer.text) or "(no words)"
    if card.agrees is False and dense is not None and dense.answer is not None:
        text = highlight_changes(dense.answer.text, answer.text) or "(no words)"
    return f'<p class="answer">{text}</p>{_measurements(card)}{_live_status(card)}'


def _live_status(card: Card) -> str:
    """What a recorded answer waits for."""
    waits = card.recorded and card.status != "done"
    return f'<p class="waiting">the live answer: {html.escape(card.status)}…</p>' if waits else ""


def _measurements(card: Card) -> str:
    answer = card.answer
    assert answer is not None
    held = format_bytes(card.weight_bytes) if card.weight_bytes else "–"
    rows = (
        ("First token", f"{answer.ttft_ms:,.1f} ms"),
        ("Speed", f"{answer.tokens_per_second:,.1f} tokens/s"),
        ("Total", f"{answer.total_ms:,.1f} ms"),
        ("Memory", f"{held} of weights"),
    )
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    return f"<dl>{shown}</dl>{_shared_vision_note(answer.shared_ms)}"


def _shared_vision_note(ms: float) -> str:
    """What an answer's figures count and did not cost."""
    said = f"The image was looked at once for all variants: {ms:,.1f} ms are counted here that were not spent."
    return f'<p class="shared">{said}</p>' if ms else ""


def _verdicts(card: Card, known: str | None) -> str:
    assert card.answer is not None
    said = []
    if card.recipe == card.recipe.baseline:
        said.append(("plain", "the FP16 baseline"))
    elif card.agrees is None:
        said.append(("plain", "add fp16 to compare"))
    else:
        said.append(("same", "same as FP16") if card.agrees else ("differs", "changed from FP16"))
    if known:
        said.append(("same", "✓ right") if contains_answer(card.answer.text, known) else ("differs", "✗ wrong"))
    return '<p class="chips">' + "".join(f'<span class="chip {kind}">{text}</span>' for kind, text in said) + "</p>"


def contains_answer(answer: str, known: str) -> bool:
    """Whether an answer is the known one, or a sentence that holds it."""
    said, wanted = (f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} " for text in (answer, known))
    return wanted in said


def _origin(card: Card) -> str:
    kind, sign = ("recorded", "◷") if card.recorded else ("live", "●")
    text = html.escape(card.recorded or f"live on {card.device}")
    why = f'<span class="why">{html.escape(card.reason)}</span>' if card.reason else ""
    return f'<p class="badge {kind}"><span aria-hidden="true">{sign}</span> {text}</p>{why}'
