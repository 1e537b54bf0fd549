"""The texts shown when the pointer is over a point of the chart, as Plotly's HTML."""

from __future__ import annotations

import html

from vlmcomp.app import results
from vlmcomp.app.relative import LivePoint
from vlmcomp.feedback import format_bytes, format_count
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.grouping import metric_title
from vlmcomp.reporting.recommend import required_memory
from vlmcomp.results.schema import Report


def recorded(report: Report, task: str) -> str:
    """The text over a recorded result, which has a score of ``task``."""
    quality = report.quality[task]
    timed = report.latency
    size = report.size
    assert size is not None
    both, speed = results.against_fp16(report, task)
    lines = [f"<b>{report.recipe}</b>", Recipe.parse(report.recipe).label, ""]
    lines.append(
        f"{metric_title(quality.metric)}: {100 * quality.score:.1f} % of {format_count(quality.samples, 'question')}"
    )
    if both is not None:
        value, low, high = both.difference.points()
        lines.append(f"To FP16: {value} points ({low} to {high})")
    lines.append(f"Composite: {100 * quality.composite:.1f} %")
    if timed is not None:
        lines.append(f"First token: {timed.ttft_ms_median:.2f} ms")
        lines.append(f"Decoding: {timed.decode_ms_per_token_median:.2f} ms per token")
        lines.append(f"End to end: {timed.end_to_end_ms_median:.2f} ms for {format_count(timed.new_tokens, 'token')}")
    if speed is not None:
        lines.append(f"Speed to FP16: {speed.speedup_text}")
    factor = results.size_factor(report, task)
    relative = f", {factor:.2f}x of FP16" if factor is not None else ""
    lines.append(f"Weights: {size.total_bytes / 1e6:,.2f} MB{relative}; needs {format_bytes(required_memory(report))}")
    lines.append(f"{html.escape(report.hardware.name)}, {html.escape(report.date[:10])}")
    return "<br>".join(lines)


def live(point: LivePoint) -> str:
    """The text over a live answer."""
    answer = point.measurement
    return "<br>".join(
        [
            f"<b>{answer.recipe}</b>, measured now",
            f"Speed to the live FP16: {point.x:.2f}x",
            f"First token: {answer.ttft_ms:.2f} ms",
            f"Decoding: {answer.decode_ms_per_token:.2f} ms per token",
            f"End to end: {answer.total_ms:.2f} ms for {format_count(answer.new_tokens, 'token')}",
            "One question on this machine; the quality is the recorded one",
        ]
    )
