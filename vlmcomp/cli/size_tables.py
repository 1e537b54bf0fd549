"""Sizes of the published models as text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from vlmcomp.compression.size_estimate import COLUMNS, Sizes
from vlmcomp.reporting import markdown


def render(models: Sequence[Sizes]) -> str:
    """Each model's parameters and GB (10^9 bytes) by part, and what each column saves of FP16, as plain text."""
    blocks = []
    for model in models:
        rows = [("PART", "M PARAMETERS", *(f"GB {c}" for c in COLUMNS))]
        for part in filter(model.parameters.get, model.parameters):
            held = (f"{model.weight_bytes[c][part] / 1e9:.3f}" for c in COLUMNS)
            rows.append((part, f"{model.parameters[part] / 1e6:,.1f}", *held))
        totals = [model.total(c) for c in COLUMNS]
        rows.append(("total", f"{sum(model.parameters.values()) / 1e6:,.1f}", *(f"{t / 1e9:.3f}" for t in totals)))
        rows.append(("saved", "", *(f"{100 * (1 - t / totals[0]):.1f} %" for t in totals)))
        rows.append(("peak of building", "", *(f"{model.building(c) / 1e9:.3f}" for c in COLUMNS)))
        head = f"{model.model}: mlp30 removes {model.removed_percent:.1f} % of the neurons"
        blocks.append(f"{head}\n{markdown.aligned(rows)}")
    return "\n\n".join(blocks)


def summary(models: Sequence[Sizes]) -> str:
    """A Markdown row a model: parameters in 10^9, GB (10^9 bytes) in FP16, what each column saves of that, and the
    GB on the device at the peak of building."""
    built = ("int4", "mlp30+int4")
    head = (
        "Model",
        "B parameters",
        "FP16 GB",
        *(f"{c} saves" for c in COLUMNS[1:]),
        *(f"{c} builds in GB" for c in built),
    )
    lines = []
    for model in models:
        whole = model.total(COLUMNS[0])
        saved = (f"{100 * (1 - model.total(c) / whole):.1f} %" for c in COLUMNS[1:])
        count = f"{sum(model.parameters.values()) / 1e9:.3f}"
        peaks = (f"{model.building(c) / 1e9:.1f}" for c in built)
        lines.append((model.model, count, f"{whole / 1e9:.2f}", *saved, *peaks))
    return markdown.table(head, lines, 1)
