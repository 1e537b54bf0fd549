"""The part on speed of a study as Markdown tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from vlmcomp.reporting import markdown as markdown_module
from vlmcomp.reporting.statistics import faster

Variants = Mapping[str, Mapping[str, Any]]
# Beside the first variant and fp16 decoded alike.
BASELINES = (
    "fp16, captured, stock Linears",
    "fp16, compiled, stock Linears",
    "bf16, captured",
    "bf16-mv, captured",
)
LED_BY = ("fp16", "int8", "int4-torchao", "glu30+int8", "glu30+int4-torchao")  # the summary's recipes
HEAD = (
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


def tables(cells: Sequence[Mapping[str, Any]]) -> str:
    """One table a model: every variant against the first, which is plain ``generate``; captures and kernels below.

    "By bytes alone" is how many times as fast as fp16's a token would be if both took no longer than their floors.
    """
    return "\n\n".join(_table(cell) for cell in cells)


def summary(measured: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Tokens a second in one line for each place and model: by plain ``generate`` of FP16, and by each recipe decoded
    in its fastest way, with how many times as many that is."""
    rows = []
    for place, cell in measured:
        speeds = {label: 1000 / statistics.median(v["decode_ms_per_token"]) for label, v in cell["variants"].items()}
        plain = speeds["fp16, generate"]
        best = [max((v for label, v in speeds.items() if _led(label, name)), default=None) for name in LED_BY]
        told = ["–" if value is None else f"{_three(value)} ({value / plain:.1f}x)" for value in best]
        where = f"{place}, in float32" if "bf16, captured" in speeds else place
        rows.append((where, cell["step"], _three(plain), *told))
    return markdown_module.table(("Where", "Model", "`fp16` by `generate`", *(f"`{name}`" for name in LED_BY)), rows, 2)


def _led(label: str, recipe: str) -> bool:
    """Whether a variant is ``recipe`` decoded by our own step and Linears."""
    return label in (f"{recipe}, captured", f"{recipe}, compiled")


def _three(value: float) -> str:
    """With three digits, or all before the point."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _table(cell: Mapping[str, Any]) -> str:
    variants: Variants = cell["variants"]
    first = next(iter(variants.values()))
    rows = []
    for label, variant in variants.items():
        decode, total = (speedup(first, variant, figure) for figure in ("decode_ms_per_token", "end_to_end_ms"))
        median = statistics.median(variant["decode_ms_per_token"])
        floor = f"{100 * variant['floor_ms'] / median:.0f}"
        ttft = f"{statistics.median(variant['ttft_ms']):,.0f}"
        alike = variants.get(f"fp16, {_way(label)}")
        dense = speedup(alike, variant, "decode_ms_per_token") if alike else ""
        most = f"{alike['floor_ms'] / variant['floor_ms']:.2f}x" if alike else ""
        rows.append((label, f"{median:.2f}", f"{1000 / median:.1f}", decode, dense, most, floor, ttft, total))
    rounds = len(first["ttft_ms"])
    title = (
        f"**{cell['step']}, {cell['parameters'] / 1e6:,.1f} M parameters in FP16: speed** "
        f"({rounds} rounds in turns, batch 1, {cell['threads']} threads)"
    )
    return f"{title}\n\n{markdown_module.table(HEAD, rows, 1)}\n\n{_notes(variants)}{_overhead(cell.get('overhead'))}"


def _overhead(times: Mapping[str, Sequence[float]] | None) -> str:
    if not times:
        return ""
    more = faster(times["ask_ms"], times["loop_ms"])
    low, value, high = (f"{100 * x:+.1f}" for x in (more.low, more.value, more.high))
    return f" `ask` takes {value} % ({low} to {high}) on top of the loop that it calls, from prepared inputs on."


def speedup(before: Mapping[str, Any], after: Mapping[str, Any], figure: str) -> str:
    """How many times as fast, with the bounds of its 95 % interval."""
    if before is after:
        return "1"
    return faster(times(before, figure), times(after, figure)).factor


def times(variant: Mapping[str, Any], figure: str) -> list[float]:
    """Raw milliseconds; ``prefill_ms`` is the decoder's: to the first token, less what the vision tower took."""
    if figure == "prefill_ms":
        return [first - seen for first, seen in zip(variant["ttft_ms"], variant["vision_ms"], strict=True)]
    return list(variant[figure])


def _way(label: str) -> str:
    """How a variant is decoded, by whatever Linears."""
    return label.split(", ")[1]


def _listed(names: Sequence[str]) -> str:
    """Labels have commas of their own."""
    return "; ".join(names)


def _notes(variants: Variants) -> str:
    captured = [v["capture_seconds"] for v in variants.values() if v["capture_seconds"]]
    said = []
    if captured:
        said.append(f"Capturing a step took {min(captured):.1f} to {max(captured):.1f} s, before the timed rounds.")
    for kernel in dict.fromkeys(v["kernel"] for v in variants.values() if v["kernel"] != "torch"):
        said.append(f"{_listed([n for n, v in variants.items() if v['kernel'] == kernel])}: {kernel}.")
    left = [label for label, v in variants.items() if v["decoder"] not in label.split(", ")]
    if left:
        said.append(f"Not captured, and decoded with a static cache instead: {_listed(left)}.")
    for base in BASELINES:
        small = [(label, v) for label, v in variants.items() if "int" in label and _way(label) == _way(base)]
        if small and (dense := variants.get(base)):
            against = [f"{label} comes {speedup(dense, v, 'decode_ms_per_token')}" for label, v in small]
            said.append(f"Against {base}, a token of {_listed(against)} as fast.")
    if {"int8, generate", "int8, captured"} <= variants.keys():
        own = speedup(variants["int8, generate"], variants["int8, captured"], "decode_ms_per_token")
        said.append(f"Against int8, generate, a token of int8, captured comes {own} as fast.")
    if "bf16, captured" in variants:
        said.append("fp16 computes in float32 here, bf16 in bfloat16 (its prompt in float32).")
    if "bf16-mv, captured" in variants:
        said.append("fp16 computes in bfloat16 here; bf16-mv multiplies single tokens by `torch.mv`.")
    for label in (label for label in variants if label.startswith("vis")):
        dense = f"fp16, {_way(label)}"
        if dense in variants:
            factor = speedup(variants[dense], variants[label], "prefill_ms")
            said.append(f"The decoder's prompt, without the vision tower, of {label}: {factor} as fast as of {dense}.")
    return " ".join(said)
