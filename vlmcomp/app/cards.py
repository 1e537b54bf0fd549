"""The cards of a comparison as HTML. All text from visitors and models is escaped."""

from __future__ import annotations

import html
import re
from collections import Counter
from dataclasses import replace

from vlmcomp.app.handlers import Card, Comparison
from vlmcomp.app.text_diff import highlight_changes
from vlmcomp.feedback import format_bytes, format_count
from vlmcomp.reporting.palette import COLORS
from vlmcomp.results.answer import Answer

_SEE_ABOVE = "not available: see above"
_WAY_OUT = "The small models answer without a network: choose LLaVA-shapes as the model."
_FASTEST_SHOWN = 2.0  # the factor of speed that fills its bar
EMPTY = (
    '<div class="empty"><b>Answers appear here, side by side.</b><br>'
    "Choose an example or upload an image, ask a question, and compare answer, speed and size of each variant.</div>"
)


def render(comparison: Comparison, known: str | None = None) -> str:
    """The cards side by side; ``known`` is the correct answer, if there is one."""
    baseline = next((c for c in comparison.cards if c.recipe == c.recipe.baseline), None)
    is_live = any(card.device for card in comparison.cards)
    reason = _common_error(comparison)
    shown = [replace(c, status=_SEE_ABOVE) if c.error and c.status == reason else c for c in comparison.cards]
    cards = "".join(_card(card, baseline, known, hides_times=is_live) for card in shown)
    banner = f'<p class="failure banner" role="alert">{html.escape(reason)}. {_WAY_OUT}</p>' if reason else ""
    answer = f'<p class="known">Known answer: <b>{html.escape(known)}</b></p>' if known else ""
    return (
        f'{banner}{_recorded_note(comparison)}{answer}<div class="cards" role="list" aria-live="polite">{cards}</div>'
    )


def _common_error(comparison: Comparison) -> str:
    """The error that several cards have, as without a network; empty if there is none."""
    counts = Counter(card.status for card in comparison.cards if card.error)
    return next((text for text, count in counts.most_common(1) if count > 1), "")


def _recorded_note(comparison: Comparison) -> str:
    """What the cards are, where nothing was computed here or is going to be."""
    is_recorded = all(
        card.is_over and not card.device and not card.reason and not card.error for card in comparison.cards
    )
    if not is_recorded or not any(card.recorded for card in comparison.cards):
        return ""
    return '<p class="known">Recorded answers, 1x being the original. <b>Ask</b> computes them on this machine.</p>'


def _card(card: Card, baseline: Card | None, known: str | None, hides_times: bool) -> str:
    """``hides_times``: of a recorded answer beside live ones, another machine's times would be taken for this one's."""
    done = card.status == "done" and not card.error
    state = "failed" if card.error else "done" if done else "stopped" if card.is_over else "working"
    state += " recorded" if card.recorded else ""
    origin = _origin(card) if done or card.recorded else ""
    verdicts = _verdicts(card, known) if done else ""
    color = COLORS[card.recipe.technique]
    return (
        f'<article class="card {state}" role="listitem" style="--hue:{color}" '
        f'aria-label="{html.escape(str(card.recipe))}">'
        f"<header><h3>{html.escape(card.recipe.label)}</h3><p><code>{html.escape(card.recipe.name)}</code></p></header>"
        f"{_body(card, baseline, hides_times and bool(card.recorded))}{verdicts}{origin}</article>"
    )


def _body(card: Card, baseline: Card | None, hides_times: bool) -> str:
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
    measured = _measurements(card, baseline, hides_times)
    return f'<p class="answer">{text or "(empty answer)"}</p>{measured}{_live_status(card)}'


def _live_status(card: Card) -> str:
    """The status of the live answer, below a recorded one or one that was stopped."""
    if card.status == "done" or not (card.recorded or card.is_over):
        return ""
    return _status(card, "live answer: " if card.recorded else "")


def _status(card: Card, prefix: str = "") -> str:
    """What the card waits for, or that it was stopped."""
    return f'<p class="waiting">{prefix}{html.escape(card.status)}{"" if card.is_over else "…"}</p>'


def _measurements(card: Card, baseline: Card | None, hides_times: bool) -> str:
    """Memory and speed against FP16 as bars, and the measured values below them."""
    answer = card.answer
    assert answer is not None
    bars, values = [], []
    if card.weight_bytes:
        if baseline is not None and baseline.weight_bytes:
            bars.append(_bar("Memory", card.weight_bytes / baseline.weight_bytes, 1))
        values.append(f"{format_bytes(card.weight_bytes)} of weights")
    if not hides_times:
        if speedup := _speedup(card, baseline):
            bars.append(_bar("Speed", speedup, _FASTEST_SHOWN))
        values += [f"{answer.tokens_per_second:,.1f} tokens/s", f"first token {answer.ttft_ms:,.1f} ms"]
    notes = "" if hides_times else _time_notes(answer)
    return f'{"".join(bars)}<p class="values">{" · ".join(values)}</p>{notes}'


def _speedup(card: Card, baseline: Card | None) -> float | None:
    """Decoding speed as a factor of FP16's on the same machine; None if they do not compare, or an answer has no
    second token."""
    if baseline is None or baseline.machine != card.machine:
        return None
    answers = (card.answer, baseline.answer)
    if not all(answer is not None and answer.finished and answer.new_tokens > 1 for answer in answers):
        return None
    ours, dense = (answer.decode_ms_per_token for answer in answers if answer is not None)
    return dense / ours if ours else None


def _bar(name: str, factor: float, full: float) -> str:
    """A factor of FP16 as a bar that is full at ``full``; a tick marks 1x."""
    width = 100 * min(1.0, factor / full)
    return (
        f'<p class="bar"><span>{name}</span><span class="track" style="--one:{100 / full:.0f}%">'
        f'<i style="width:{width:.0f}%"></i></span><b>{factor:.2f}x</b></p>'
    )


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
        chips.append(("plain", "the original"))
    elif card.agrees is None:
        chips.append(("plain", "add fp16 to compare"))
    else:  # agreement is no quality: both may be wrong
        chips.append(("plain", "= FP16's answer" if card.agrees else "≠ FP16's answer"))
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
    reason = "".join(f'<span class="why">{html.escape(text)}</span>' for text in (card.image_note, card.reason) if text)
    return f'<p class="badge {kind}"><span aria-hidden="true">{sign}</span> {text}</p>{reason}'
