"""Remove units from every decoder layer in one walk: score, choose, reconstruct, cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from vlmcomp import anatomy
from vlmcomp.calibrate import Care, Edit, Tokens, Weights, size, walk
from vlmcomp.moments import Moments
from vlmcomp.prune import heads, neurons
from vlmcomp.prune.importance import DEFAULT, Units, choose
from vlmcomp.prune.reconstruct import least_squares
from vlmcomp.prune.surgery import Plan, narrow
from vlmcomp.recipe import Step
from vlmcomp.report import Pruned


@dataclass(frozen=True)
class Method:
    """How units are chosen (``importance.SCORES``) and made up for; the defaults are what measured best."""

    score: str = DEFAULT
    reconstruct: bool = True
    weights: Weights = field(default_factory=Weights)
    seed: int = 0  # of a random order

    def __str__(self) -> str:
        return self.score + (" + least squares" if self.reconstruct else "")


def plans(model: PreTrainedModel, steps: Sequence[Step]) -> list[Plan]:
    """One plan a step, in the order in which a layer runs.

    Raises:
        ValueError: a percentage that rounds to nothing removed or nothing left.
    """
    return [(heads if step.kind == "heads" else neurons).plan(model, step) for step in steps]


def prune(
    model: PreTrainedModel,
    steps: Sequence[Step],
    calibration: Sequence[Tokens],
    method: Method | None = None,
    progress: Callable[[float], None] | None = None,
    care: Care | None = None,
) -> list[Pruned]:
    """Narrow the decoder in place. All steps happen in one walk: a layer loses its heads, then its neurons.

    With reconstruction, what reads the units is re-solved so that the layer brings the residual stream back to
    the dense model's. Where only heads go, the MLP's reading matrix is re-solved all the same: it makes up for
    much of what the heads took with them. The text config follows.

    Raises:
        ValueError: as ``plans``, or an empty calibration; no weight has been touched then.
    """
    method, todo = method or Method(), plans(model, steps)
    if not calibration:
        raise ValueError("pruning needs calibration sequences: none were given")
    heads_only = all(step.kind == "heads" for step in steps)
    mend = [neurons.plan(model, None)] if method.reconstruct and heads_only else []
    edits = [
        Edit(plan.reader, lambda layer, moments, plan=plan: _cut(plan, method, layer, moments))
        for plan in (*todo, *mend)
    ]
    walk(model, calibration, edits, method.weights, progress, care)
    for plan in todo:
        plan.settle(model.config.get_text_config())
    return [_fact(plan, method, calibration) for plan in todo]


def _cut(plan: Plan, method: Method, layer: anatomy.Layer, moments: Moments) -> None:
    reader = plan.reader(layer)
    biased = reader.bias is not None
    units = Units(reader.weight, moments, plan.kept, plan.size, plan.runs, plan.writers(layer), biased, method.seed)
    kept = torch.arange(plan.total, device=reader.weight.device)
    if plan.kept < plan.total:
        kept = choose(method.score, units)
        plan.shrink(layer, kept)
    columns = units.columns(kept)
    weight, bias = reader.weight[:, columns], None
    if method.reconstruct:
        weight, bias = least_squares(reader.weight, moments, columns, bias=biased)
    plan.replace(layer, narrow(reader, weight=weight, bias=bias))


def _fact(plan: Plan, method: Method, calibration: Sequence[Tokens]) -> Pruned:
    return Pruned(
        step=str(plan.step),
        asked_percent=plan.step.percent,
        real_percent=round(100 * (1 - plan.kept / plan.total), 2),
        kept=plan.kept * plan.each,
        of=plan.total * plan.each,
        unit=plan.unit,
        score=str(method),
        calibration=size(calibration),
    )
