"""Remove units from every decoder layer in one walk: score, choose, reconstruct, cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from vlmcomp.compression.activation_stats import Moments
from vlmcomp.compression.calibration import IMAGE, Tokens, Weights, size
from vlmcomp.compression.layerwise import Care, Edit, walk
from vlmcomp.compression.pruning import heads
from vlmcomp.compression.pruning import mlp as mlp_neurons
from vlmcomp.compression.pruning.importance import DEFAULT, Units, choose
from vlmcomp.compression.pruning.plan import Plan, narrow
from vlmcomp.compression.pruning.reconstruction import least_squares
from vlmcomp.compression.visual_tokens import selection
from vlmcomp.models import architecture
from vlmcomp.recipe import Step
from vlmcomp.results.schema import Pruned

_PLANNERS = {"heads": heads.plan, "glu": mlp_neurons.plan, "ffn": mlp_neurons.plan}


@dataclass(frozen=True)
class Method:
    """How units are chosen (``importance.SCORES``) and made up for; the defaults are what measured best."""

    score: str = DEFAULT
    reconstruct: bool = True
    weights: Weights = field(default_factory=Weights)
    seed: int = 0  # of a random order

    def __str__(self) -> str:
        return self.named(self.score)

    def named(self, score: str) -> str:
        """``score``, and whether least squares made up for what went."""
        return score + (" + least squares" if self.reconstruct else "")


def plans(model: PreTrainedModel, steps: Sequence[Step]) -> list[Plan]:
    """One plan for every step that narrows layers, in the order in which a layer runs.

    Raises:
        ValueError: a percentage that rounds to nothing removed or nothing left.
    """
    return [_PLANNERS[step.kind](model, step) for step in steps if step.kind in _PLANNERS]


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
    the dense model's. Matrices that come after what a step removes are re-solved all the same: the MLP's where only
    heads go, and the attention's too where image tokens go, which the sequences of ``calibration`` lack. The text
    config follows.

    Raises:
        ValueError: as ``plans``, an empty calibration, or so small a share of the image tokens that none would go; no
            weight has been touched then.
    """
    method, todo = method or Method(), plans(model, steps)
    if not calibration:
        raise ValueError("pruning needs calibration sequences: none were given")
    unseen = [_unseen(step, method, calibration) for step in steps if step.kind not in _PLANNERS]
    done = [*todo]
    if method.reconstruct and unseen and not any(plan.step.kind == "heads" for plan in todo):
        done.insert(0, heads.plan(model, None))
    if method.reconstruct and all(step.kind in ("vis", "heads") for step in steps):
        done.append(mlp_neurons.plan(model, None))
    edits = [Edit(plan.reader, lambda layer, moments, plan=plan: _cut(plan, method, layer, moments)) for plan in done]
    walk(model, calibration, edits, method.weights, progress, care)
    for plan in todo:
        plan.settle(model.config.get_text_config())
    return unseen + [_fact(plan, method, calibration) for plan in todo]


def _cut(plan: Plan, method: Method, layer: architecture.Layer, moments: Moments) -> None:
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


def _unseen(step: Step, method: Method, calibration: Sequence[Tokens]) -> Pruned:
    """The image tokens of a calibration image that were left out; on average, where images have different numbers.

    Raises:
        ValueError: none were.
    """
    counts = [torch.cat([(t.kinds == IMAGE).sum(1) for t in batches]) for batches in (calibration, _whole(calibration))]
    kept, total = (float(count.double().mean()) for count in counts)
    if kept >= total:
        raise ValueError(f"{step.percent} % of {total:.0f} image tokens rounds to no removal: ask for more")
    alike = all(len(count.unique()) == 1 for count in counts)
    return Pruned(
        step=str(step),
        asked_percent=step.percent,
        real_percent=round(100 * (1 - kept / total), 2),
        kept=round(kept),
        of=round(total),
        unit="image tokens" if alike else "image tokens on average",
        score=method.named(selection.DEFAULT),
        calibration=size(calibration),
    )


def _whole(calibration: Sequence[Tokens]) -> list[Tokens]:
    return [t.dense for t in calibration]
