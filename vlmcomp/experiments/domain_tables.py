"""Perplexity and answers in and out of the calibration's domain as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from vlmcomp.experiments.trial_log import DENSE, method_name
from vlmcomp.experiments.vqa_kinds import is_in_domain
from vlmcomp.feedback import format_count
from vlmcomp.reporting.markdown import markdown_table

Row = dict[str, Any]


def ratios(row: Row, dense: Row) -> dict[str, float]:
    """Perplexity of each text as a multiple of the dense model's."""
    return {name: text["perplexity"] / dense["texts"][name]["perplexity"] for name, text in row["texts"].items()}


def out_of_domain(row: Row, dense: Row) -> float:
    """The largest multiple among the texts that are no part of the calibration."""
    seen = row["calibration"].split(" + ")
    return max(ratio for name, ratio in ratios(row, dense).items() if name not in seen)


def domain_table(rows: Sequence[Row]) -> str:
    """One row a step, method and calibration: the worst text out of domain first, then every text."""
    dense = _find_dense(rows)
    if dense is None:
        return ""
    names = list(dense["texts"])
    groups = _by_method(rows)
    body = []
    for key in sorted(groups, key=lambda key: (key[0], statistics.fmean(out_of_domain(r, dense) for r in groups[key]))):
        worst = mean_and_spread([out_of_domain(row, dense) for row in groups[key]], 3)
        texts = [mean_and_spread([ratios(row, dense)[name] for row in groups[key]], 3) for name in names]
        body.append([*key, worst, *texts])
    head = ["Step", "Method", "Calibrated on", "Worst other text", *names]
    tokens = sum(text["held_out_tokens"] for text in dense["texts"].values())
    title = (
        "**SmolLM2-135M: perplexity as a multiple of the dense model's, out of domain and in domain** "
        f"({tokens:,} held-out tokens, {dense['calibration_tokens']:,} to calibrate, half as many "
        "more where text is added)"
    )
    return f"{title}\n\n{markdown_table(head, body, left=3)}"


def vqa_domain_table(rows: Sequence[Row]) -> str:
    """One row a step, method and calibration: exact match, % of dense, on questions of other kinds and of its own."""
    dense = _find_dense(rows)
    if dense is None:
        return ""
    kinds = list(dense["kinds"])
    body = []
    for key, seeds in _by_method(rows).items():
        own = [kind for kind in kinds if is_in_domain(kind, key[2])]
        other = [kind for kind in kinds if kind not in own]
        columns = [other, own, *([kind] for kind in kinds)]
        cells = [[_kept(row, dense, column) for row in seeds if column] for column in columns]
        body.append([*key, *map(mean_and_spread, cells)])
    head = ["Step", "Method", "Calibrated on", "Other kinds", "Its own kinds", *kinds]
    asked = format_count(sum(kind["samples"] for kind in dense["kinds"].values()), "question")
    title = f"**llava-shapes: exact match, % of dense, out of domain and in domain** ({asked})"
    return f"{title}\n\n{markdown_table(head, body, left=3)}"


def _find_dense(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row["score"] == DENSE), None)


def _by_method(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """The rows of every seed, by step, method and calibration; the dense model's are left out."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["score"] != DENSE:
            method = method_name(row["score"], row["reconstruct"])
            groups.setdefault((row["step"], method, row["calibration"] or "none"), []).append(row)
    return groups


def _kept(row: Row, dense: Row, kinds: Sequence[str]) -> float:
    """Right answers to the questions of ``kinds``, in percent of the dense model's."""
    return 100 * _num_right(row, kinds) / _num_right(dense, kinds)


def _num_right(row: Row, kinds: Sequence[str]) -> float:
    return sum(row["kinds"][kind]["exact_match"] * row["kinds"][kind]["samples"] for kind in kinds)


def mean_and_spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean over the seeds, with half the range if there are several; a dash if there are none."""
    if not values:
        return "–"
    spread = f" ±{(max(values) - min(values)) / 2:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"
