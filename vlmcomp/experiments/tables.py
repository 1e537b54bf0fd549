"""A study as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmcomp.compression.pruning.importance import DEFAULT
from vlmcomp.experiments import speed_tables as speed
from vlmcomp.experiments.ledger import DENSE, unpacked
from vlmcomp.reporting.statistics import mcnemar, mean_interval

Row = dict[str, Any]
KINDS = {"glu": "GLU neurons", "heads": "Attention heads"}
HEADLINE = (("shapes-vqa", "exact_match", "exact match, % of dense"),)
MEASURES = (
    *HEADLINE,
    ("shapes-vqa", "composite", "composite, % of dense"),
    ("shapes-vqa", "agreement", "same answer as dense, %"),
    ("easy-vqa", "exact_match", "exact match, % of dense"),
)
DUEL = (("right", "exact match"), ("same", "the same answer as the dense model"))
SIGNIFICANT = 0.05
EQUAL_BYTES = (("glu10", "heads25"), ("glu20", "heads50"))  # of llava-shapes


def _lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


def _method(row: Row) -> tuple[str, bool]:
    return row["score"], row["reconstruct"]


def _named(method: tuple[str, bool]) -> str:
    score, reconstruct = method
    name = score + (" + least squares" if reconstruct else "")
    return f"**{name}**" if method == (DEFAULT, True) else name


def _cell(values: Sequence[float]) -> str:
    """Mean over the seeds, with the half range where there are several."""
    if not values:
        return "–"
    spread = f" ±{(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def _grid(rows: list[Row], value: Callable[[Row], float]) -> str:
    """Methods down, steps across."""
    steps = sorted({r["step"] for r in rows})
    methods = list(dict.fromkeys(_method(r) for r in rows))
    methods.sort(key=lambda m: -statistics.fmean(value(r) for r in rows if _method(r) == m and r["step"] == steps[0]))

    def line(method: tuple[str, bool]) -> list[str]:
        mine = [r for r in rows if _method(r) == method]
        return [_named(method), *(_cell([value(r) for r in mine if r["step"] == s]) for s in steps)]

    return _lines(["Method", *steps], map(line, methods))


def _percents(dense: Row, task: str, measure: str) -> Callable[[Row], float]:
    """A measure in percent of the dense model's; agreement with it is a percentage already."""
    whole = 1.0 if measure == "agreement" else dense[task][measure]
    return lambda row: 100 * row[task][measure] / whole


def _dense(rows: Sequence[Row]) -> Row | None:
    return next((r for r in rows if r["score"] == DENSE), None)


def shapes(rows: Sequence[Row], measures: Sequence[tuple[str, str, str]] = MEASURES) -> str:
    """A table a measure, for MLPs and for heads: methods down, steps across, means over the calibration sets."""
    dense = _dense(rows)
    if dense is None:
        return ""
    blocks = []
    for task, measure, text in measures:
        for kind, name in KINDS.items():
            mine = [r for r in rows if r["step"].startswith(kind)]
            if mine:
                title = f"**{name}: {text}** ({task}, {dense[task]['samples']:,} questions)"
                blocks.append(f"{title}\n\n{_grid(mine, _percents(dense, task, measure))}")
    return "\n\n".join(blocks)


def duel(rows: Sequence[Row], task: str = "shapes-vqa") -> str:
    """Ours against each setting of the peer on the same questions: points, and how often McNemar's test tells."""
    ours = {(r["step"], r["seed"]): r for r in rows if _method(r) == (DEFAULT, True)}
    others = [r for r in rows if r["score"] not in (DENSE, DEFAULT)]
    if not ours or not others:
        return ""
    steps, blocks = sorted({step for step, _ in ours}), []
    for kept, text in DUEL:
        body = []
        for name in dict.fromkeys(r["score"] for r in others):
            theirs = {(r["step"], r["seed"]): r for r in others if r["score"] == name}
            body.append([name, *(str(outcome(step, ours, theirs, task, kept) or "–") for step in steps)])
        blocks.append(
            f"**{DEFAULT} + least squares against the peer, points of {text}** ({task})\n\n"
            + _lines(["Peer", *steps], body)
        )
    seeds = len({seed for _, seed in ours})
    note = (
        f"In brackets: on how many of the {seeds} calibration sets ours is ahead and behind by McNemar's exact test at "
        f"p < {SIGNIFICANT}; nothing is corrected for the many comparisons. A setting that looks at no data is held "
        "against all of them."
    )
    return "\n\n".join([*blocks, note])


@dataclass(frozen=True)
class Outcome:
    """Mean difference in points, and on how many calibration sets it is more than chance either way."""

    points: float
    ahead: int
    behind: int

    def __str__(self) -> str:
        return f"{self.points:+.1f} ({self.ahead}, {self.behind})"


def outcome(step: str, ours: Mapping, theirs: Mapping, task: str, kept: str) -> Outcome | None:
    """Ours against theirs, both by (step, seed); what looks at no data is there for the first seed alone."""
    points, ahead, behind = [], 0, 0
    for (mine, seed), row in ours.items():
        other = theirs.get((step, seed)) or theirs.get((step, min(s for _, s in ours)))
        if mine != step or other is None:
            continue
        pairs = list(zip(unpacked(row[task][kept]), unpacked(other[task][kept]), strict=True))
        won, lost = pairs.count((True, False)), pairs.count((False, True))
        points.append(100 * (won - lost) / len(pairs))
        told = mcnemar(won, lost) < SIGNIFICANT
        ahead, behind = ahead + (told and won > lost), behind + (told and lost > won)
    return Outcome(statistics.fmean(points), ahead, behind) if points else None


def equal_bytes(rows: Sequence[Row]) -> str:
    """MLP neurons against heads where both remove the same number of weights, with our default on both sides."""
    dense = _dense(rows)
    if dense is None:
        return ""
    value, body = _percents(dense, "shapes-vqa", "exact_match"), []
    for pair in EQUAL_BYTES:
        for reconstruct in (True, False):
            found = [
                [value(r) for r in rows if _method(r) == (DEFAULT, reconstruct) and r["step"] == step] for step in pair
            ]
            body.append([_named((DEFAULT, reconstruct)), *(f"{s}: {_cell(v)}" for s, v in zip(pair, found))])
    title = "**As many weights removed from the MLPs as from the attention: exact match, % of dense** (shapes-vqa)"
    return f"{title}\n\n{_lines(['Method', 'MLP neurons', 'Heads'], body)}"


def language(rows: Sequence[Row]) -> str:
    """Perplexity as a multiple of the dense model's."""
    dense = _dense(rows)
    if dense is None:
        return ""
    steps = sorted({r["step"] for r in rows if r is not dense})
    methods = list(dict.fromkeys(_method(r) for r in rows if r is not dense))
    found = {(_method(r), r["step"]): r["perplexity"] / dense["perplexity"] for r in rows}
    body = [
        [_named(m), *(f"{found[m, s]:.3f}" if (m, s) in found else "–" for s in steps)]
        for m in sorted(methods, key=lambda m: min(found.get((m, s), float("inf")) for s in steps))
    ]
    title = (
        f"**SmolLM2-135M: perplexity as a multiple of the dense model's {dense['perplexity']:.2f}** "
        f"({dense['held_out_tokens']:,} held-out tokens, {dense['calibration_tokens']:,} to calibrate)"
    )
    return f"{title}\n\n{_lines(['Method', *steps], body)}"


def cost(rows: Sequence[Row], projected: dict[str, float]) -> str:
    """Seconds and peak memory against size, and the 7B projection."""
    if not rows:
        return ""
    body = [
        [
            r["step"],
            f"{r['parameters'] / 1e6:.1f} M",
            f"{r['prune_seconds']:.1f}",
            f"{r['peak_bytes'] / 1e6:.0f}",
            f"{r['moments_bytes'] / 1e6:.0f}",
        ]
        for r in rows
    ]
    body.append(
        [
            "7B on an RTX 3090, by arithmetic",
            f"{projected['parameters'] / 1e6:.0f} M",
            f"{projected['prune_seconds']:.0f}",
            f"{projected['peak_bytes'] / 1e6:.0f} with the weights",
            f"{projected['moments_bytes'] / 1e6:.0f}",
        ]
    )
    title = "**What removing 30 % of the GLU neurons costs**"
    head = ["Decoder", "Layer parameters", "Seconds", "Peak MB above the weights", "of which statistics and solving MB"]
    return f"{title}\n\n{_lines(head, body)}"


def timing(rows: Sequence[Row]) -> str:
    """Our clock beside the peer's: medians, and the mean of the ratios taken round by round."""
    if not rows:
        return ""
    body = []
    for r in rows:
        ratio = mean_interval([a / b for a, b in zip(r["ours_ms"], r["peer_ms"], strict=True)])
        medians = (f"{statistics.median(r[name]):.2f}" for name in ("ours_ms", "peer_ms"))
        body.append([r["step"], *medians, f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"])
    title = f"**ms/token by our clock and by {rows[0]['score']}** ({len(rows[0]['ours_ms'])} rounds in turns, batch 1)"
    return f"{title}\n\n{_lines(['Precision', 'ask', 'plain generate', 'ratio (95 %)'], body)}"


_LIBRARIES = ("torch", "transformers", "optipfair")


def caption(study: Mapping[str, Any]) -> str:
    """What a study's numbers were measured on and with."""
    machine, versions, rows = study["hardware"], study["versions"], study["cells"]
    place = f"{machine['name']} ({machine['device']}, {machine['cores']} cores)"
    used = {name: {r.get("versions", {}).get(name, versions.get(name, "")) for r in rows} - {""} for name in _LIBRARIES}
    with_ = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in used.items() if found)
    seeds, dates = len({r["seed"] for r in rows}), sorted(r["measured"][:10] for r in rows)
    sets = f"{seeds} calibration sets, mean ± half the range" if seeds > 1 else "one calibration set"
    days = dates[0] + (f" to {dates[-1]}" if dates[-1] != dates[0] else "")
    return f"{place}; {with_}; {sets}; measured {days}."


def render(study: Mapping[str, Any], projected: dict[str, float], *, whole: bool) -> str:
    """All of a study as Markdown; unless ``whole``, of the measures on shapes only the headline, and nothing on speed,
    which has a section of its own."""
    rows = [r for r in study["cells"] if whole or r["part"] != "speed"]
    if not rows:
        return ""
    part = {
        name: [r for r in rows if r["part"] == name]
        for name in ("shapes", "peer", "language", "cost", "timing", "speed")
    }
    blocks = [
        caption(study | {"cells": rows}),
        shapes(part["shapes"], MEASURES if whole else HEADLINE),
        equal_bytes(part["shapes"]),
        duel(part["peer"]),
        language(part["language"]),
        cost(part["cost"], projected),
        timing(part["timing"]),
        speed.tables(part["speed"]),
    ]
    return "\n\n".join(filter(None, blocks))
