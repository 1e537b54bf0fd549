"""Sizes of the published models as text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from vlmcomp.compression.size_estimate import COLUMNS, SizeEstimate
from vlmcomp.reporting import markdown


def render(models: Sequence[SizeEstimate]) -> str:
    """Parameters and GB (10^9 bytes) of each model by part, and what each column saves of FP16, as plain text."""
    return "\n\n".join(map(_render_model, models))


def _render_model(model: SizeEstimate) -> str:
    rows = [("PART", "M PARAMETERS", *(f"GB {c}" for c in COLUMNS))]
    for part in filter(model.parameters.get, model.parameters):
        sizes = (f"{model.weight_bytes[c][part] / 1e9:.3f}" for c in COLUMNS)
        rows.append((part, f"{model.parameters[part] / 1e6:,.1f}", *sizes))
    totals = [model.total(c) for c in COLUMNS]
    rows.append(("total", f"{sum(model.parameters.values()) / 1e6:,.1f}", *(f"{t / 1e9:.3f}" for t in totals)))
    rows.append(("saved", "", *(f"{100 * (1 - t / totals[0]):.1f} %" for t in totals)))
    rows.append(("peak while building", "", *(f"{model.peak_build_bytes(c) / 1e9:.3f}" for c in COLUMNS)))
    title = f"{model.model}: mlp30 removes {model.removed_percent:.1f} % of the neurons"
    return f"{title}\n{markdown.text_table(rows)}"


def render_summary(models: Sequence[SizeEstimate]) -> str:
    """One Markdown row a model: parameters in 10^9, GB (10^9 bytes) in FP16, what each column saves of FP16, and the
    peak in GB on the device while building."""
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
        fp16_bytes = model.total(COLUMNS[0])
        saved = (f"{100 * (1 - model.total(c) / fp16_bytes):.1f} %" for c in COLUMNS[1:])
        count = f"{sum(model.parameters.values()) / 1e9:.3f}"
        peaks = (f"{model.peak_build_bytes(c) / 1e9:.1f}" for c in built)
        lines.append((model.model, count, f"{fp16_bytes / 1e9:.2f}", *saved, *peaks))
    return markdown.markdown_table(head, lines, 1)
