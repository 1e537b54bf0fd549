"""Rejects recipes that do not fit a model's shapes, before any work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from vlmcomp.compression.pruning.pruner import plan_steps
from vlmcomp.compression.quantization.torchao import GROUP_SIZE, OUT_FEATURES_MULTIPLE
from vlmcomp.models import architecture
from vlmcomp.recipe import PruningStep, precision_title

# By precision and device: the number that a matrix's inputs must be a multiple of. bitsandbytes repacks its weights for
# a CPU alone.
INT4_BLOCK_SIZES = {("int4", "cpu"): 64, ("int4-torchao", "cpu"): GROUP_SIZE, ("int4-torchao", "cuda"): GROUP_SIZE}


def check_shapes(model: PreTrainedModel, steps: Sequence[PruningStep], precision: str, device: str) -> None:
    """Check that the model's shapes allow a recipe.

    Args:
        model: its shapes are read.
        steps: of the recipe.
        precision: of the recipe.
        device: where the result is to run, for example "cuda:0".

    Raises:
        ValueError: a percentage that rounds to no removal or leaves nothing, or a width that INT4 does not support.
    """
    device_type = device.partition(":")[0]
    block_size = INT4_BLOCK_SIZES.get((precision, device_type), 1)
    for plan in plan_steps(model, steps):
        in_features = plan.num_kept * plan.unit_width
        if plan.step and in_features % block_size:
            alternative = "int8, a GPU" if precision == "int4" else "int8-torchao"
            raise ValueError(
                f"{plan.step} leaves {in_features} inputs to the Linear that reads the {plan.step.target}, and "
                f"{precision_title(precision)} on a {'CPU' if device_type == 'cpu' else 'GPU'} requires a multiple of "
                f"{block_size}: use {alternative} or another percentage"
            )
    if precision == "int4-torchao":
        _check_torchao_int4(model, device)


def _check_torchao_int4(model: PreTrainedModel, device: str) -> None:
    for path, linear in architecture.decoder_linears(model):
        if linear.in_features % GROUP_SIZE or linear.out_features % OUT_FEATURES_MULTIPLE:
            raise ValueError(
                f"{path} is {linear.out_features} x {linear.in_features}, and INT4 (torchao) requires multiples of "
                f"{OUT_FEATURES_MULTIPLE} x {GROUP_SIZE}: use int4"
            )
    if torch.device(device).type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise ValueError("INT4 (torchao) on a GPU needs compute capability 8.0 or more: use int4")
