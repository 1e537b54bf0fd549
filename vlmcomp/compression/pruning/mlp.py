"""MLP neurons (GLU or FFN): the same number goes from every decoder layer."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from vlmcomp.compression.pruning.plan import Plan, kept_count, narrow, width_multiple
from vlmcomp.models import architecture
from vlmcomp.models.architecture import Layer
from vlmcomp.recipe import Step


def plan(model: PreTrainedModel, step: Step | None) -> Plan:
    """Remove ``step.percent`` percent of the neurons of every MLP, rounded to ``width_multiple``.

    Raises:
        ValueError: the percentage rounds to nothing removed or nothing left.
    """
    names = architecture.of(model)
    total = getattr(model.config.get_text_config(), names.mlp_width)

    def replace(layer: Layer, linear: nn.Linear) -> None:
        setattr(layer.mlp, names.mlp_out, linear)

    def shrink(layer: Layer, units: torch.Tensor) -> None:
        for name in names.mlp_in:
            setattr(layer.mlp, name, narrow(getattr(layer.mlp, name), outputs=units))
        if hasattr(layer.mlp, "intermediate_size"):
            layer.mlp.intermediate_size = len(units)

    def settle(text: PretrainedConfig) -> None:
        setattr(text, names.mlp_width, kept)

    kept = kept_count(total, step.percent, width_multiple(total)) if step else total
    return Plan(
        step=step,
        total=total,
        kept=kept,
        unit="MLP neurons a layer",
        each=1,
        size=1,
        runs=1,
        reader=lambda layer: layer.down,
        writers=lambda layer: tuple(getattr(layer.mlp, name).weight for name in names.mlp_in),
        replace=replace,
        shrink=shrink,
        settle=settle,
    )
