"""Plans the removal of MLP neurons (GLU or FFN): the same number from every decoder layer."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from vlmcomp.compression.pruning.plan import PruningPlan, num_kept, round_to, slice_linear
from vlmcomp.models import architecture
from vlmcomp.models.architecture import DecoderLayer
from vlmcomp.recipe import PruningStep


def plan_mlp(model: PreTrainedModel, step: PruningStep | None) -> PruningPlan:
    """Remove ``step.percent`` percent of the neurons of every MLP, rounded to a multiple of ``round_to``.

    Args:
        model: its shapes are read.
        step: None plans no removal.

    Raises:
        ValueError: the percentage rounds to no removal or leaves nothing.
    """
    names = architecture.get_architecture(model)
    width = getattr(model.config.get_text_config(), names.mlp_width)
    kept_width = num_kept(width, step.percent, round_to(width)) if step else width

    def replace_consumer(layer: DecoderLayer, linear: nn.Linear) -> None:
        setattr(layer.mlp, names.mlp_output, linear)

    def narrow_producers(layer: DecoderLayer, units: torch.Tensor) -> None:
        for name in names.mlp_inputs:
            setattr(layer.mlp, name, slice_linear(getattr(layer.mlp, name), kept_rows=units))
        if hasattr(layer.mlp, "intermediate_size"):
            setattr(layer.mlp, "intermediate_size", len(units))  # noqa: B010 - modules are typed as tensors

    def update_config(text_config: PretrainedConfig) -> None:
        setattr(text_config, names.mlp_width, kept_width)

    return PruningPlan(
        step=step,
        num_units=width,
        num_kept=kept_width,
        unit="MLP neurons a layer",
        heads_per_unit=1,
        unit_width=1,
        num_groups=1,
        consumer=lambda layer: layer.down_proj,
        producers=lambda layer: tuple(getattr(layer.mlp, name).weight for name in names.mlp_inputs),
        replace_consumer=replace_consumer,
        narrow_producers=narrow_producers,
        update_config=update_config,
    )
