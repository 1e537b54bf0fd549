"""A report on one line."""

from __future__ import annotations

from vlmcomp.data.bad_rows import format_skipped
from vlmcomp.results.schema import EXACT_MATCH, Quality, Report


def summary(report: Report) -> str:
    """One line: the recipe's score by task, speed and size, or why it failed."""
    if report.error is not None or report.latency is None or report.size is None:
        return f"{report.recipe}: failed: {report.error}"
    scores = ", ".join(map(_format_scores, report.quality.values())) or report.weights
    speed = f"{report.latency.decode_ms_per_token_median:.3g} ms/token"
    return f"{report.recipe}: {scores}, {speed}, {report.size.total_bytes / 1e6:.4g} MB"


def _format_scores(quality: Quality) -> str:
    metric = "" if quality.metric == EXACT_MATCH else f" {quality.metric}"
    left_out = f" ({format_skipped(quality.skipped_rows)})" if quality.skipped_rows else ""
    return f"{quality.task} {100 * quality.score:.1f} %{metric}{left_out}"
