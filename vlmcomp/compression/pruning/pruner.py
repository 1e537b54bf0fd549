"""Removes units from every decoder layer: score, select, reconstruct, slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from vlmcomp.compression.activation_stats import ActivationStats
from vlmcomp.compression.calibration import IMAGE, CalibrationBatch, TokenWeights, summarize
from vlmcomp.compression.layerwise import LayerCallbacks, LayerEdit, RoundLinears, rounding_edits, run_layerwise
from vlmcomp.compression.pruning.heads import plan_heads
from vlmcomp.compression.pruning.importance import DEFAULT_SCORE, SCORES_BY_TARGETS, PruningUnits, select_units
from vlmcomp.compression.pruning.mlp import plan_mlp
from vlmcomp.compression.pruning.plan import PruningPlan, slice_linear
from vlmcomp.compression.pruning.reconstruction import RIDGE, least_squares
from vlmcomp.compression.visual_tokens import selection
from vlmcomp.feedback import format_count
from vlmcomp.models import architecture
from vlmcomp.recipe import PruningStep
from vlmcomp.results.schema import PruningResult

_PLANNERS = {"heads": plan_heads, "glu": plan_mlp, "ffn": plan_mlp}


@dataclass(frozen=True)
class PruningMethod:
    """How units are selected and made up for; the defaults measured best.

    Attributes:
        score: a key of ``IMPORTANCE_SCORES``.
        reconstruct: re-solve the consumers by least squares.
        ridge: how strongly re-solved weights are held to the original ones (``least_squares``).
        token_weights: of the token types in the activation statistics.
        seed: of the score "random".
    """

    score: str = DEFAULT_SCORE
    reconstruct: bool = True
    ridge: float = RIDGE
    token_weights: TokenWeights = field(default_factory=TokenWeights)
    seed: int = 0

    def __str__(self) -> str:
        return self.describe(self.score)

    def describe(self, score: str) -> str:
        """``score``, and whether and how strongly regularized the consumers are re-solved."""
        return score + (f" + least squares, ridge {self.ridge:g}" if self.reconstruct else "")


def plan_steps(model: PreTrainedModel, steps: Sequence[PruningStep]) -> list[PruningPlan]:
    """One plan for every step that narrows layers, in the order in which a layer runs.

    Raises:
        ValueError: a percentage that rounds to no removal or leaves nothing.
    """
    return [_PLANNERS[step.target](model, step) for step in steps if step.target in _PLANNERS]


def prune_decoder_(
    model: PreTrainedModel,
    steps: Sequence[PruningStep],
    batches: Sequence[CalibrationBatch],
    method: PruningMethod | None = None,
    progress: Callable[[float], None] | None = None,
    callbacks: LayerCallbacks | None = None,
    round_linears: RoundLinears | None = None,
) -> list[PruningResult]:
    """Narrow the decoder and its text config in place, layer by layer: a layer loses its heads, then its neurons.

    With reconstruction, the consumers of the units are re-solved so that each layer restores the dense model's
    residual stream. So are consumers that follow a removal: the MLP's where heads alone are removed, and the
    attention's too where image tokens are. A re-solved consumer makes up for the rounding before it too.

    Args:
        model: its decoder layers are replaced.
        steps: in the order of a recipe; none to round alone.
        batches: calibration data, without the image tokens that a "vis" step removes.
        method: how units are selected and made up for.
        progress: called with the fraction of the layers done.
        callbacks: called for every layer.
        round_linears: rounds each Linear, after it has been narrowed; None leaves the weights unrounded.

    Returns:
        One result for every step.

    Raises:
        ValueError: as ``plan_steps``, no calibration data, or so small a percentage of the image tokens that none would
            be removed; no weight has been changed then.
    """
    method = method or PruningMethod()
    plans = plan_steps(model, steps)
    if not batches:
        raise ValueError("pruning needs calibration sequences, and so does rounding by GPTQ: none were given")
    token_results = [_visual_tokens_result(step, method, batches) for step in steps if step.target == "vis"]
    all_plans = _with_reconstruction_plans(model, steps, plans) if method.reconstruct else plans
    edits = [_edit(plan, method, round_linears) for plan in all_plans]
    if round_linears is not None:
        edits = _among_rounding_edits(model, edits, round_linears)
    run_layerwise(model, batches, edits, method.token_weights, progress, callbacks)
    for plan in plans:
        plan.update_config(model.config.get_text_config())
    return token_results + [_units_result(plan, method, batches) for plan in plans]


def _with_reconstruction_plans(
    model: PreTrainedModel, steps: Sequence[PruningStep], plans: Sequence[PruningPlan]
) -> list[PruningPlan]:
    """``plans``, and plans without removal for the consumers that ``steps`` affect without narrowing their inputs."""
    targets = {step.target for step in steps}
    result = list(plans)
    if "vis" in targets and "heads" not in targets:
        result.insert(0, plan_heads(model, None))
    if targets and not targets & {"glu", "ffn"}:
        result.append(plan_mlp(model, None))
    return result


def _among_rounding_edits(
    model: PreTrainedModel, edits: Sequence[LayerEdit], round_linears: RoundLinears
) -> list[LayerEdit]:
    """``edits``, which also round their Linears, and edits that round the other Linears, in the order in which they
    run."""
    layer = architecture.decoder_layers(model)[0]
    by_linear = {edit.target_linear(layer): edit for edit in edits}
    return [by_linear.get(edit.target_linear(layer), edit) for edit in rounding_edits(round_linears)]


def _edit(plan: PruningPlan, method: PruningMethod, round_linears: RoundLinears | None) -> LayerEdit:
    def apply(layer: architecture.DecoderLayer, stats: ActivationStats) -> None:
        columns = _prune_layer_(plan, method, layer, stats)
        if round_linears is not None:
            round_linears([plan.consumer(layer)], stats.gram[columns][:, columns], stats.mean[columns])

    return LayerEdit(plan.consumer, apply, has_targets=method.reconstruct or method.score in SCORES_BY_TARGETS)


def _prune_layer_(
    plan: PruningPlan, method: PruningMethod, layer: architecture.DecoderLayer, stats: ActivationStats
) -> torch.Tensor:
    """Narrow the producers to the selected units and replace the consumer by its reconstruction.

    Returns:
        The consumer's columns that remain.
    """
    consumer = plan.consumer(layer)
    has_bias = consumer.bias is not None
    units = PruningUnits(
        weight=consumer.weight,
        stats=stats,
        num_kept=plan.num_kept,
        unit_width=plan.unit_width,
        num_groups=plan.num_groups,
        producers=plan.producers(layer),
        has_bias=has_bias,
        seed=method.seed,
    )
    kept = torch.arange(plan.num_units, device=consumer.weight.device)
    if plan.num_kept < plan.num_units:
        kept = select_units(method.score, units)
        plan.narrow_producers(layer, kept)
    columns = units.columns(kept)
    weight: torch.Tensor = consumer.weight[:, columns]
    bias: torch.Tensor | None = None  # the consumer's own
    if method.reconstruct:
        weight, bias = least_squares(consumer.weight, stats, columns, has_bias=has_bias, ridge=method.ridge)
    plan.replace_consumer(layer, slice_linear(consumer, weight=weight, bias=bias))
    return columns


def _units_result(plan: PruningPlan, method: PruningMethod, batches: Sequence[CalibrationBatch]) -> PruningResult:
    assert plan.step is not None
    return PruningResult(
        step=str(plan.step),
        asked_percent=plan.step.percent,
        real_percent=round(100 * (1 - plan.num_kept / plan.num_units), 2),
        kept=plan.num_kept * plan.heads_per_unit,
        of=plan.num_units * plan.heads_per_unit,
        unit=plan.unit,
        score=str(method),
        calibration=summarize(batches),
    )


def _visual_tokens_result(
    step: PruningStep, method: PruningMethod, batches: Sequence[CalibrationBatch]
) -> PruningResult:
    """The pruned image tokens of a calibration image; their average if images differ in number.

    Raises:
        ValueError: none were pruned.
    """
    kept = _image_token_counts(batches)
    total = _image_token_counts([batch.dense for batch in batches])
    mean_kept = float(kept.double().mean())
    mean_total = float(total.double().mean())
    if mean_kept >= mean_total:
        tokens = format_count(round(mean_total), "image token")
        raise ValueError(f"{step.percent} % of {tokens} rounds to no removal: use a larger percentage")
    is_uniform = len(kept.unique()) == 1 and len(total.unique()) == 1
    return PruningResult(
        step=str(step),
        asked_percent=step.percent,
        real_percent=round(100 * (1 - mean_kept / mean_total), 2),
        kept=round(mean_kept),
        of=round(mean_total),
        unit="image tokens" if is_uniform else "image tokens on average",
        score=method.describe(selection.DEFAULT_METHOD),
        calibration=summarize(batches),
    )


def _image_token_counts(batches: Sequence[CalibrationBatch]) -> torch.Tensor:
    """Image tokens of every sequence."""
    return torch.cat([(batch.token_types == IMAGE).sum(1) for batch in batches])
