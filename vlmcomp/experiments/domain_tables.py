"""Perplexity and answers in and out of the calibration's domain as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from vlmcomp.experiments.trial_log import DENSE
from vlmcomp.experiments.vqa_kinds import is_in_domain
from vlmcomp.feedback import format_count

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
    dense = next((row for row in rows if row["score"] == DENSE), None)
    if dense is None:
        return ""
    names = list(dense["texts"])
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row is not dense:
            method = row["score"] + (" + least squares" if row["reconstruct"] else "")
            groups.setdefault((row["step"], method, row["calibration"] or "none"), []).append(row)
    body = []
    for key in sorted(groups, key=lambda key: (key[0], statistics.fmean(out_of_domain(r, dense) for r in groups[key]))):
        worst = _mean([out_of_domain(row, dense) for row in groups[key]])
        texts = [_mean([ratios(row, dense)[name] for row in groups[key]]) for name in names]
        body.append([*key, worst, *texts])
    head = ["Step", "Method", "Calibrated on", "Worst other text", *names]
    lines = [head, ["---"] * 3 + ["---:"] * (len(head) - 3), *body]
    tokens = sum(text["held_out_tokens"] for text in dense["texts"].values())
    title = (
        "**SmolLM2-135M: perplexity as a multiple of the dense model's, out of domain and in domain** "
        f"({tokens:,} held-out tokens, {dense['calibration_tokens']:,} to calibrate)"
    )
    return title + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def vqa_domain_table(rows: Sequence[Row]) -> str:
    """One row a step, method and calibration: exact match, % of dense, on questions of other kinds and of its own."""
    dense = next((row for row in rows if row["score"] == DENSE), None)
    if dense is None:
        return ""
    kinds = list(dense["kinds"])
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row is not dense:
            method = row["score"] + (" + least squares" if row["reconstruct"] else "")
            groups.setdefault((row["step"], method, row["calibration"]), []).append(row)
    body = []
    for key, seeds in groups.items():
        own = [kind for kind in kinds if is_in_domain(kind, key[2])]
        other = [kind for kind in kinds if kind not in own]
        cells = [_mean([_kept(row, dense, part) for row in seeds], 1) if part else "–" for part in (other, own)]
        body.append([*key, *cells, *(_mean([_kept(row, dense, [kind]) for row in seeds], 1) for kind in kinds)])
    head = ["Step", "Method", "Calibrated on", "Other kinds", "Its own kinds", *kinds]
    lines = [head, ["---"] * 3 + ["---:"] * (len(head) - 3), *body]
    asked = format_count(sum(kind["samples"] for kind in dense["kinds"].values()), "question")
    title = f"**llava-shapes: exact match, % of dense, out of domain and in domain** ({asked})"
    return title + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _kept(row: Row, dense: Row, kinds: Sequence[str]) -> float:
    """Right answers to the questions of ``kinds``, in percent of the dense model's."""
    return 100 * _num_right(row, kinds) / _num_right(dense, kinds)


def _num_right(row: Row, kinds: Sequence[str]) -> float:
    return sum(row["kinds"][kind]["exact_match"] * row["kinds"][kind]["samples"] for kind in kinds)


def _mean(values: Sequence[float], digits: int = 3) -> str:
    """Mean over the seeds, with half the range if there are several."""
    spread = f" ±{(max(values) - min(values)) / 2:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"
