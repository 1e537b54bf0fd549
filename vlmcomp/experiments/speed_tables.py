"""Results of the decode speed experiment as Markdown tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlmcomp.feedback import format_count
from vlmcomp.reporting.markdown import markdown_table
from vlmcomp.reporting.statistics import speedup_interval

Variants = Mapping[str, Mapping[str, Any]]
# Besides the first variant, and fp16 in the same decode mode.
BASELINES = (
    "fp16, captured, stock Linears",
    "fp16, compiled, stock Linears",
    "bf16, captured",
    "bf16-mv, captured",  # in results that were measured earlier
)
SUMMARY_RECIPES = ("fp16", "int8", "int4-torchao", "glu30+int8", "glu30+int4-torchao")  # columns of the summary
HEADER = (
    "Variant, decoded by",
    "ms/token",
    "tokens/s",
    "against the first (95 %)",
    "against fp16 decoded alike",
    "by bytes alone",
    "% of floor",
    "first token ms",
    "end to end",
)


def render_tables(cells: Sequence[Mapping[str, Any]]) -> str:
    """One table a model: every variant against the first, which is plain ``generate``; notes on kernels follow.

    "By bytes alone" is the speedup over fp16 if both decoded at their roofline.
    """
    return "\n\n".join(_table(cell) for cell in cells)


def render_summary(measured: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Tokens per second, one row for each machine and model: FP16 by plain ``generate``, and each recipe in its fastest
    decode mode with the speedup over that.

    Args:
        measured: title of the machine and row of the trial log.
    """
    rows = []
    for machine, cell in measured:
        speeds = {label: 1000 / statistics.median(v["decode_ms_per_token"]) for label, v in cell["variants"].items()}
        plain = speeds["fp16, generate"]
        best = [
            max((v for label, v in speeds.items() if _uses_own_kernels(label, name)), default=None)
            for name in SUMMARY_RECIPES
        ]
        speedups = ["–" if value is None else f"{_three_digits(value)} ({value / plain:.1f}x)" for value in best]
        where = f"{machine}, in float32" if "bf16, captured" in speeds else machine
        rows.append((where, cell["step"], _three_digits(plain), *speedups))
    return markdown_table(
        ("Where", "Model", "`fp16` by `generate`", *(f"`{name}`" for name in SUMMARY_RECIPES)), rows, 2
    )


def _uses_own_kernels(label: str, recipe: str) -> bool:
    """Whether a variant is ``recipe`` with our decode step and Linears."""
    return label in (f"{recipe}, captured", f"{recipe}, compiled")


def _three_digits(value: float) -> str:
    """Three significant digits, or all digits before the decimal point."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _table(cell: Mapping[str, Any]) -> str:
    variants: Variants = cell["variants"]
    first = next(iter(variants.values()))
    rows = []
    for label, variant in variants.items():
        decode, total = (speedup(first, variant, metric) for metric in ("decode_ms_per_token", "end_to_end_ms"))
        median = statistics.median(variant["decode_ms_per_token"])
        floor = f"{100 * variant['floor_ms'] / median:.0f}"
        ttft = f"{statistics.median(variant['ttft_ms']):,.0f}"
        dense = variants.get(f"fp16, {_decode_mode(label)}")
        to_dense = speedup(dense, variant, "decode_ms_per_token") if dense else ""
        by_bytes = f"{dense['floor_ms'] / variant['floor_ms']:.2f}x" if dense else ""
        rows.append((label, f"{median:.2f}", f"{1000 / median:.1f}", decode, to_dense, by_bytes, floor, ttft, total))
    rounds = len(first["ttft_ms"])
    title = (
        f"**{cell['step']}, {cell['parameters'] / 1e6:,.1f} M parameters in FP16: speed** "
        f"({format_count(rounds, 'round')} in turns, batch 1, {format_count(cell['threads'], 'thread')})"
    )
    table = markdown_table(HEADER, rows, 1)
    return f"{title}\n\n{table}\n\n{_notes(variants)}{_overhead(cell.get('overhead'))}"


def _overhead(times: Mapping[str, Sequence[float]] | None) -> str:
    if not times:
        return ""
    overhead = speedup_interval(times["ask_ms"], times["loop_ms"])
    low, value, high = (f"{100 * x:+.1f}" for x in (overhead.low, overhead.value, overhead.high))
    return f" `ask` takes {value} % ({low} to {high}) on top of the loop that it calls, from prepared inputs on."


def speedup(before: Mapping[str, Any], after: Mapping[str, Any], metric: str) -> str:
    """Speedup with its 95 % interval."""
    if before is after:
        return "1"
    return speedup_interval(milliseconds(before, metric), milliseconds(after, metric)).speedup_text


def milliseconds(variant: Mapping[str, Any], metric: str) -> list[float]:
    """Raw milliseconds; ``prefill_ms`` is the time to the first token without the vision tower."""
    if metric == "prefill_ms":
        return [ttft - vision for ttft, vision in zip(variant["ttft_ms"], variant["vision_ms"], strict=True)]
    return list(variant[metric])


def _decode_mode(label: str) -> str:
    """Decode mode of a variant, whatever its Linears."""
    return label.split(", ")[1]


def _join(names: Sequence[str]) -> str:
    """Separated by semicolons, since labels contain commas."""
    return "; ".join(names)


def _notes(variants: Variants) -> str:
    """Sentences below a table: captures, kernels, and further speedups."""
    notes = [*_capture_notes(variants), *_baseline_notes(variants)]
    if "bf16, captured" in variants:
        notes.append("fp16 computes in float32 here, bf16 in bfloat16 (its prompt in float32).")
    if "bf16-mv, captured" in variants:
        notes.append("fp16 computes in bfloat16 here; bf16-mv multiplies single tokens by `torch.mv`.")
    return " ".join([*notes, *_prefill_notes(variants)])


def _capture_notes(variants: Variants) -> Iterator[str]:
    seconds = [v["capture_seconds"] for v in variants.values() if v["capture_seconds"]]
    if seconds:
        yield f"Capturing a step took {min(seconds):.1f} to {max(seconds):.1f} s, before the timed rounds."
    for kernel in dict.fromkeys(v["kernel"] for v in variants.values() if v["kernel"] != "torch"):
        labels = [label for label, v in variants.items() if v["kernel"] == kernel]
        yield f"{_join(labels)}: {kernel}."
    not_captured = [label for label, v in variants.items() if v["decoder"] not in label.split(", ")]
    if not_captured:
        yield f"Not captured, and decoded with a static cache instead: {_join(not_captured)}."


def _baseline_notes(variants: Variants) -> Iterator[str]:
    for baseline in BASELINES:
        quantized = [label for label in variants if "int" in label and _decode_mode(label) == _decode_mode(baseline)]
        if quantized and baseline in variants:
            speedups = [f"{label} comes {_decode_speedup(variants, baseline, label)}" for label in quantized]
            yield f"Against {baseline}, a token of {_join(speedups)} as fast."
    if {"int8, generate", "int8, captured"} <= variants.keys():
        own = _decode_speedup(variants, "int8, generate", "int8, captured")
        yield f"Against int8, generate, a token of int8, captured comes {own} as fast."


def _decode_speedup(variants: Variants, before: str, after: str) -> str:
    return speedup(variants[before], variants[after], "decode_ms_per_token")


def _prefill_notes(variants: Variants) -> Iterator[str]:
    for label in (label for label in variants if label.startswith("vis")):
        dense = f"fp16, {_decode_mode(label)}"
        if dense in variants:
            factor = speedup(variants[dense], variants[label], "prefill_ms")
            yield f"The decoder's prompt, without the vision tower, of {label}: {factor} as fast as of {dense}."
