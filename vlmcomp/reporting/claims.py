"""The claims of the founding study beside the measurements of each model, and quality by share pruned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlmcomp.recipe import PruningStep, Recipe
from vlmcomp.reporting.comparison import PairedComparison
from vlmcomp.reporting.grouping import PredictionLoader, column_titles
from vlmcomp.reporting.markdown import markdown_table
from vlmcomp.reporting.model_results import ModelResults, Steps, collect_results
from vlmcomp.results.schema import Report

_HEADS = PruningStep("heads", 25)
_PRODUCT_TOLERANCE = 0.05  # relative difference to a product that still counts as multiplicative
_NONE = "–"


@dataclass(frozen=True)
class Claim:
    """A statement of the study.

    ``claimed``: the study's number. ``value``: the measurement of a model as text. ``holds``: whether the claim is true
    of a model; None if nothing was measured, or the study gave no number. ``reason`` explains the verdict.
    """

    name: str
    claimed: str
    value: Callable[[ModelResults], str]
    holds: Callable[[ModelResults], bool | None] = lambda results: None
    reason: str = ""


def _change(value: float | None) -> str:
    return _NONE if value is None else f"{100 * (value - 1):+.1f} %"


def _share_kept(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f} % kept"


def _at_most(value: float | None, bound: float) -> bool | None:
    return None if value is None else value <= bound


def _loss_text(found: PairedComparison | None) -> str:
    """Whether the interval bounds the loss by 2 %, and whether there is a significant difference."""
    return _NONE if found is None else f"{found.loss}; {found.verdict}"


def _quality_text(results: ModelResults, steps: Steps, precision: str) -> str:
    kept = results.quality(steps, precision)
    composite = results.quality(steps, precision, "composite")
    loss = _loss_text(results.compare(steps, precision))
    return f"{_share_kept(kept)}, composite {_share_kept(composite)}: {loss}"


def _int8_within_tolerance(results: ModelResults) -> bool | None:
    found = results.compare((), "int8")
    return None if found is None else found.within_tolerance


def _pruned_keeps_92_percent(results: ModelResults) -> bool | None:
    found = results.compare((results.mlp_step,), "fp16")
    return None if found is None or found.retention is None else found.retention.low >= 0.92


def _mlp_against_heads(results: ModelResults) -> str:
    """Bytes removed and quality kept by each of the two, and the difference of their scores with its 95 % interval."""
    parts = []
    for step in (results.mlp_step, _HEADS):
        parts.append(f"`{step}` {_change(results.size((step,)))}: {_share_kept(results.quality((step,)))}")
    found = results.difference((results.mlp_step,), (_HEADS,))
    text = ", ".join(parts)
    return text if found is None else "{}; {} points ({} to {})".format(text, *found.points())


def _neurons_lose_less(results: ModelResults) -> bool | None:
    found = results.difference((results.mlp_step,), (_HEADS,))
    return None if found is None else found.low > 0


def _stacked(results: ModelResults, measure: str) -> tuple[float, float] | None:
    """The combination of heads, MLP and INT4, and the product of the three."""
    value = getattr(results, measure)
    parts = [value((results.mlp_step,)), value((_HEADS,)), value((), "int4")]
    combined = value((_HEADS, results.mlp_step), "int4")
    if combined is None or None in parts or not all(parts):
        return None
    return combined, math.prod(parts)


def _stacking_claim(name: str, measure: str, reason: str) -> Claim:
    """The combination against the product of its parts: a ratio of 1.00 is exactly multiplicative."""

    def value(results: ModelResults) -> str:
        found = _stacked(results, measure)
        return _NONE if found is None else f"{found[0]:.3f} / {found[1]:.3f} = {found[0] / found[1]:.2f}"

    def holds(results: ModelResults) -> bool | None:
        found = _stacked(results, measure)
        return None if found is None else abs(found[0] / found[1] - 1) <= _PRODUCT_TOLERANCE

    return Claim(name, "1", value, holds, reason)


CLAIMS = (
    Claim(
        "INT8 size",
        "-50 %",
        lambda results: _change(results.size((), "int8")),
        lambda results: _at_most(results.size((), "int8"), 0.5),
        "true of the quantized matrices alone: embeddings, lm_head and vision tower stay 16-bit",
    ),
    Claim(
        "INT8 quality",
        "less than 2 % lost",
        lambda results: _quality_text(results, (), "int8"),
        _int8_within_tolerance,
        "judged by the 95 % interval",
    ),
    Claim(
        "INT8 ms/token",
        "-20 %",
        lambda results: _change(results.latency((), "int8")),
        lambda results: _at_most(results.latency((), "int8"), 0.8),
        "fewer bytes are read, but most of a token's time here goes to calling kernels, of which INT8 needs more",
    ),
    Claim(
        "INT4 size",
        "-74 %",
        lambda results: _change(results.size((), "int4")),
        lambda results: _at_most(results.size((), "int4"), 0.26),
        "true of the quantized matrices alone: embeddings, lm_head and vision tower stay 16-bit",
    ),
    Claim("INT4 quality", "", lambda results: _quality_text(results, (), "int4")),
    Claim(
        "INT4 ms/token",
        "-20 %",
        lambda results: _change(results.latency((), "int4")),
        lambda results: _at_most(results.latency((), "int4"), 0.8),
        "bitsandbytes unpacks weights for every token, which costs these models more than reading them",
    ),
    Claim(
        "30 % of the MLP's neurons removed: ms/token",
        "-47 %",
        lambda results: _change(results.latency((results.mlp_step,))),
        lambda results: _at_most(results.latency((results.mlp_step,)), 0.53),
        "less is multiplied, but attention, lm_head and the calling of kernels take as long as before",
    ),
    Claim(
        "30 % of the MLP's neurons removed: quality",
        "92 % kept",
        lambda results: _quality_text(results, (results.mlp_step,), "fp16"),
        _pruned_keeps_92_percent,
        "judged by the 95 % interval: least squares makes up for what is removed",
    ),
    Claim(
        "MLP neurons against heads",
        "neurons lose less",
        _mlp_against_heads,
        _neurons_lose_less,
        "judged by the 95 % interval of the paired difference, for more bytes removed",
    ),
    _stacking_claim(
        "Stacking, size: heads, MLP and INT4 together / product of the three",
        "size",
        "what stays 16-bit is counted in each of the three",
    ),
    _stacking_claim(
        "Stacking, ms/token: the same",
        "latency",
        "overheads do not multiply: it holds where one of the three makes most of the difference; "
        "medians, without an interval",
    ),
    _stacking_claim(
        "Stacking, quality: the same", "quality", "losses hardly add up; point estimates, without an interval"
    ),
)


def _verdict(claim: Claim, models: Sequence[ModelResults]) -> str:
    """How many of the models the claim holds for, and the reason."""
    measured = [holds for results in models if (holds := claim.holds(results)) is not None]
    if not measured:
        return _NONE
    return f"holds for {sum(measured)} of {len(measured)}: {claim.reason}"


def claims_table(
    models: Sequence[str], reports: Sequence[Report], load_predictions: PredictionLoader, task: str | None = None
) -> str:
    """Each claim of the study beside every model's measurement and a verdict, as a Markdown table.

    Args:
        models: one column each, if measured.
        reports: any reports.
        load_predictions: reads the predictions of a report.
        task: the task of the quality (None: of each model its headline task).
    """
    results = collect_results(models, reports, load_predictions, task)
    head = ("Claim", "The study", *_titles(results), "Verdict")
    lines = [(c.name, c.claimed or _NONE, *map(c.value, results), _verdict(c, results)) for c in CLAIMS]
    return markdown_table(head, lines, 2)


def pruning_curve_table(
    target: str,
    models: Sequence[str],
    reports: Sequence[Report],
    load_predictions: PredictionLoader,
    task: str | None = None,
) -> str:
    """The task's score in percent of FP16's, with its 95 % interval, by percent of ``target`` removed alone.

    Args:
        target: what is pruned, such as ``vis``.
        models: one column each, if measured.
        reports: any reports.
        load_predictions: reads the predictions of a report.
        task: the task of the quality (None: of each model its headline task).

    Returns:
        A Markdown table, empty if nothing of it was measured.
    """
    results = collect_results(models, reports, load_predictions, task)
    recipes = [Recipe.parse(report.recipe) for report in reports if report.error is None]
    alone = {r.steps[0] for r in recipes if r.precision == "fp16" and [s.target for s in r.steps] == [target]}
    steps = sorted(alone, key=lambda step: step.percent)
    lines = [(f"`{step}`", *(_score_interval_text(each, step) for each in results)) for step in steps]
    return markdown_table(("Removed", *_titles(results)), lines, 1) if lines else ""


def _titles(results: Sequence[ModelResults]) -> list[str]:
    return column_titles({each.model: each.task for each in results})


def _score_interval_text(results: ModelResults, step: PruningStep) -> str:
    found = results.compare((step,), "fp16")
    if found is None or found.retention is None:
        return _NONE
    kept = found.retention
    return f"{100 * kept.value:.1f} ({100 * kept.low:.1f} to {100 * kept.high:.1f})"
