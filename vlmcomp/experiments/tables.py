"""Results of the experiments as Markdown tables."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmcomp.compression.pruning.importance import DEFAULT_SCORE
from vlmcomp.experiments import domain_tables, speed_tables
from vlmcomp.experiments.domain_tables import mean_and_spread
from vlmcomp.experiments.trial_log import DENSE, decode_flags, method_name
from vlmcomp.feedback import format_count
from vlmcomp.reporting.statistics import mcnemar_p_value, mean_interval

Row = dict[str, Any]
TARGET_TITLES = {"glu": "GLU neurons", "heads": "Attention heads"}
HEADLINE = (("shapes-vqa", "exact_match", "exact match, % of dense"),)
MEASURES = (
    *HEADLINE,
    ("shapes-vqa", "composite", "composite, % of dense"),
    ("shapes-vqa", "agreement", "same answer as dense, %"),
    ("easy-vqa", "exact_match", "exact match, % of dense"),
)
HEAD_TO_HEAD_MEASURES = (("right", "exact match"), ("same", "the same answer as the dense model"))
SIGNIFICANT = 0.05
EQUAL_BYTES = (("glu10", "heads25"), ("glu20", "heads50"))  # of llava-shapes
_LIBRARIES = ("torch", "transformers", "optipfair")


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


def _method(row: Row) -> tuple[str, bool]:
    return row["score"], row["reconstruct"]


def _method_title(method: tuple[str, bool]) -> str:
    name = method_name(*method)
    return f"**{name}**" if method == (DEFAULT_SCORE, True) else name


def _method_table(rows: list[Row], value: Callable[[Row], float]) -> str:
    """One row a method and one column a step; the best method at the first step comes first."""
    steps = sorted({row["step"] for row in rows})

    def values(method: tuple[str, bool], step: str) -> list[float]:
        return [value(row) for row in rows if _method(row) == method and row["step"] == step]

    methods = list(dict.fromkeys(_method(row) for row in rows))
    methods.sort(key=lambda method: -statistics.fmean(values(method, steps[0])))
    body = [[_method_title(method), *(mean_and_spread(values(method, step)) for step in steps)] for method in methods]
    return _markdown_table(["Method", *steps], body)


def _percents(dense: Row, task: str, measure: str) -> Callable[[Row], float]:
    """Function that expresses a measure in percent of the dense model's; agreement is relative to it already."""
    whole = 1.0 if measure == "agreement" else dense[task][measure]
    return lambda row: 100 * row[task][measure] / whole


def _dense_row(rows: Sequence[Row]) -> Row | None:
    return next((r for r in rows if r["score"] == DENSE), None)


def quality_tables(rows: Sequence[Row], measures: Sequence[tuple[str, str, str]] = MEASURES) -> str:
    """One table for each measure and pruning target: methods by steps, means over the calibration sets."""
    dense = _dense_row(rows)
    if dense is None:
        return ""
    blocks = []
    for task, measure, text in measures:
        for kind, name in TARGET_TITLES.items():
            of_target = [row for row in rows if row["step"].startswith(kind)]
            if of_target:
                title = f"**{name}: {text}** ({task}, {format_count(dense[task]['samples'], 'question')})"
                blocks.append(f"{title}\n\n{_method_table(of_target, _percents(dense, task, measure))}")
    return "\n\n".join(blocks)


def head_to_head_tables(rows: Sequence[Row], task: str = "shapes-vqa") -> str:
    """Ours against each setting of optipfair on the same questions: points, and McNemar's test by calibration set."""
    ours = {(r["step"], r["seed"]): r for r in rows if _method(r) == (DEFAULT_SCORE, True)}
    others = [r for r in rows if r["score"] not in (DENSE, DEFAULT_SCORE)]
    if not ours or not others:
        return ""
    steps = sorted({step for step, _ in ours})
    blocks = []
    for measure, text in HEAD_TO_HEAD_MEASURES:
        body = []
        for name in dict.fromkeys(r["score"] for r in others):
            theirs = {(r["step"], r["seed"]): r for r in others if r["score"] == name}
            body.append([name, *(str(compare_methods(step, ours, theirs, task, measure) or "–") for step in steps)])
        blocks.append(
            f"**{DEFAULT_SCORE} + least squares against the peer, points of {text}** ({task})\n\n"
            + _markdown_table(["Peer", *steps], body)
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
    """Mean difference in points, and the number of calibration sets on which ours is significantly ahead or behind."""

    points: float
    ahead: int
    behind: int

    def __str__(self) -> str:
        return f"{self.points:+.1f} ({self.ahead}, {self.behind})"


def compare_methods(
    step: str,
    ours: Mapping[tuple[str, int], Row],
    theirs: Mapping[tuple[str, int], Row],
    task: str,
    measure: str,
) -> Outcome | None:
    """Ours against theirs at one step.

    Args:
        step: pruning step.
        ours: rows by step and seed.
        theirs: rows by step and seed; methods without calibration data have the first seed alone.
        task: name of the task.
        measure: "right" or "same", whose flags are compared question by question.

    Returns:
        The outcome, or None if there is nothing to compare.
    """
    first_seed = min((seed for _, seed in ours), default=0)
    points: list[float] = []
    ahead = behind = 0
    for (our_step, seed), row in ours.items():
        other = theirs.get((step, seed)) or theirs.get((step, first_seed))
        if our_step != step or other is None:
            continue
        pairs = list(zip(decode_flags(row[task][measure]), decode_flags(other[task][measure]), strict=True))
        won = pairs.count((True, False))
        lost = pairs.count((False, True))
        points.append(100 * (won - lost) / len(pairs))
        if mcnemar_p_value(won, lost) < SIGNIFICANT:
            ahead += won > lost
            behind += lost > won
    return Outcome(statistics.fmean(points), ahead, behind) if points else None


def equal_bytes_table(rows: Sequence[Row]) -> str:
    """Pruning MLP neurons against heads, both removing the same number of weights, by our default score."""
    dense = _dense_row(rows)
    if dense is None:
        return ""
    value = _percents(dense, "shapes-vqa", "exact_match")
    body = []
    for pair in EQUAL_BYTES:
        for reconstruct in (True, False):
            method = (DEFAULT_SCORE, reconstruct)
            cells = [_method_title(method)]
            for step in pair:
                values = [value(row) for row in rows if _method(row) == method and row["step"] == step]
                cells.append(f"{step}: {mean_and_spread(values)}")
            body.append(cells)
    title = "**As many weights removed from the MLPs as from the attention: exact match, % of dense** (shapes-vqa)"
    return f"{title}\n\n{_markdown_table(['Method', 'MLP neurons', 'Heads'], body)}"


def perplexity_table(rows: Sequence[Row]) -> str:
    """Perplexity as a multiple of the dense model's."""
    dense = _dense_row(rows)
    if dense is None:
        return ""
    steps = sorted({row["step"] for row in rows if row is not dense})
    ratios = {(_method(row), row["step"]): row["perplexity"] / dense["perplexity"] for row in rows}

    def best_ratio(method: tuple[str, bool]) -> float:
        return min(ratios.get((method, step), float("inf")) for step in steps)

    body = []
    for method in sorted(dict.fromkeys(_method(row) for row in rows if row is not dense), key=best_ratio):
        cells = [f"{ratios[method, step]:.3f}" if (method, step) in ratios else "–" for step in steps]
        body.append([_method_title(method), *cells])
    title = (
        f"**SmolLM2-135M, in domain: perplexity as a multiple of the dense model's {dense['perplexity']:.2f}** "
        f"({dense['held_out_tokens']:,} held-out tokens, {dense['calibration_tokens']:,} to calibrate)"
    )
    return f"{title}\n\n{_markdown_table(['Method', *steps], body)}"


def cost_table(rows: Sequence[Row], projected: dict[str, float]) -> str:
    """Seconds and peak memory by model size, with the estimate for 7B.

    Args:
        rows: of the part "cost".
        projected: of ``pruning_cost.project_cost``.
    """
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
    head = ["Decoder", "Layer parameters", "Seconds", "Peak MB above the weights", "of which statistics and solving MB"]
    return f"**What removing 30 % of the GLU neurons costs**\n\n{_markdown_table(head, body)}"


def timing_table(rows: Sequence[Row]) -> str:
    """Our clock and PyTorch's: medians, and the mean of the ratios by round."""
    if not rows:
        return ""
    body = []
    for r in rows:
        ratio = mean_interval([a / b for a, b in zip(r["ours_ms"], r["peer_ms"], strict=True)])
        medians = (f"{statistics.median(r[name]):.2f}" for name in ("ours_ms", "peer_ms"))
        body.append([r["step"], *medians, f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"])
    rounds = format_count(len(rows[0]["ours_ms"]), "round")
    title = f"**ms/token by our clock and by {rows[0]['score']}** ({rounds} in turns, batch 1)"
    return f"{title}\n\n{_markdown_table(['Precision', 'ask', 'plain generate', 'ratio (95 %)'], body)}"


def caption(log: Mapping[str, Any]) -> str:
    """Hardware, versions, seeds and dates of the trials in ``log`` (of ``TrialLog.to_dict``)."""
    machine = log["hardware"]
    rows = log["cells"]
    name = f"{machine['name']} ({machine['device']}, {format_count(machine['cores'], 'core')})"
    libraries = ", ".join(filter(None, (_versions(library, log) for library in _LIBRARIES)))
    num_seeds = len({row["seed"] for row in rows})
    sets = f"{num_seeds} calibration sets, mean ± half the range" if num_seeds > 1 else "one calibration set"
    dates = sorted(row["measured"][:10] for row in rows)
    days = dates[0] + (f" to {dates[-1]}" if dates[-1] != dates[0] else "")
    return f"{name}; {libraries}; {sets}; measured {days}."


def _versions(library: str, log: Mapping[str, Any]) -> str:
    """``torch 2.9 and 2.10``; empty if no trial used the library."""
    default = log["versions"].get(library, "")
    found = {row.get("versions", {}).get(library, default) for row in log["cells"]} - {""}
    return f"{library} {' and '.join(sorted(found))}" if found else ""


def render(log: Mapping[str, Any], projected: dict[str, float], *, whole: bool) -> str:
    """All results in a log as Markdown.

    Args:
        log: of ``TrialLog.to_dict``.
        projected: of ``pruning_cost.project_cost``.
        whole: False leaves out decode speed, which the README shows elsewhere, and all measures but the headline.
    """
    rows = [row for row in log["cells"] if whole or row["part"] != "speed"]
    if not rows:
        return ""
    part: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        part[row["part"]].append(row)
    blocks = [
        caption({**log, "cells": rows}),
        domain_tables.vqa_domain_table(part["vqa-domains"]),
        domain_tables.domain_table(part["domains"]),
        quality_tables(part["shapes"], MEASURES if whole else HEADLINE),
        equal_bytes_table(part["shapes"]),
        head_to_head_tables(part["peer"]),
        perplexity_table(part["language"]),
        cost_table(part["cost"], projected),
        timing_table(part["timing"]),
        speed_tables.render_tables(part["speed"]),
    ]
    return "\n\n".join(filter(None, blocks))
