"""A study as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vlmcomp.prune.importance import DEFAULT

Row = dict[str, Any]


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


def shapes(rows: Sequence[Row]) -> str:
    """Exact match, composite and agreement on shapes-vqa in percent of the dense model; easy-VQA's exact match."""
    dense = next((r for r in rows if r["score"] == "dense"), None)
    if dense is None:
        return ""
    rows, blocks = [r for r in rows if r is not dense], []
    for task, measure, text in (
        ("shapes-vqa", "exact_match", "exact match, % of dense"),
        ("shapes-vqa", "composite", "composite, % of dense"),
        ("shapes-vqa", "agreement", "same answer as dense, %"),
        ("easy-vqa", "exact_match", "exact match, % of dense"),
    ):

        def percent(row: Row, task: str = task, measure: str = measure) -> float:
            return 100 * row[task][measure] / (1.0 if measure == "agreement" else dense[task][measure])

        for kind in ("glu", "heads"):
            mine = [r for r in rows if r["step"].startswith(kind)]
            if mine:
                title = f"**{kind}, {task}: {text}** ({dense[task]['samples']} questions)"
                blocks.append(f"{title}\n\n{_grid(mine, percent)}")
    return "\n\n".join(blocks)


def language(rows: Sequence[Row]) -> str:
    """Perplexity as a multiple of the dense model's."""
    dense = next((r for r in rows if r["score"] == "dense"), None)
    if dense is None:
        return ""
    steps = sorted({r["step"] for r in rows if r is not dense})
    methods = list(dict.fromkeys(_method(r) for r in rows if r is not dense))
    found = {(_method(r), r["step"]): r["perplexity"] / dense["perplexity"] for r in rows}
    body = [
        [_named(m), *(f"{found[m, s]:.3f}" if (m, s) in found else "–" for s in steps)]
        for m in sorted(methods, key=lambda m: min(found.get((m, s), float("inf")) for s in steps))
    ]
    title = f"**SmolLM2-135M: perplexity as a multiple of the dense model's {dense['perplexity']:.2f}**"
    return f"{title}\n\n{_lines(['Method', *steps], body)}"


def cost(rows: Sequence[Row], projected: dict[str, float]) -> str:
    """Seconds and peak memory against size, and the 7B projection."""
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
            "7B, RTX 3090, by arithmetic",
            f"{projected['parameters'] / 1e6:.0f} M",
            f"{projected['prune_seconds']:.0f}",
            f"{projected['peak_bytes'] / 1e6:.0f} with weights",
            f"{projected['moments_bytes'] / 1e6:.0f}",
        ]
    )
    return _lines(["Decoder", "Layer parameters", "Seconds", "Peak MB", "of which statistics and solving MB"], body)
