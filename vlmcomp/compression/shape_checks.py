"""Rejects recipes that do not fit a model's shapes, before any work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from vlmcomp.compression.pruning.pruner import plan_steps
from vlmcomp.compression.quantization import gptq
from vlmcomp.compression.quantization.torchao import GROUP_SIZE, OUT_FEATURES_MULTIPLE
from vlmcomp.models import architecture
from vlmcomp.recipe import W4A16, W8A16, PruningStep, precision_title

# By precision and device: the number that a matrix's inputs must be a multiple of. bitsandbytes repacks its weights for
# a CPU alone.
_GROUPED = {"int4-torchao": "int4", W4A16: W8A16}  # precisions with the tinygemm kernels, and what to use instead
INT4_BLOCK_SIZES = {("int4", "cpu"): 64} | {(p, device): GROUP_SIZE for p in _GROUPED for device in ("cpu", "cuda")}


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
            alternative = {"int4": "int8, a GPU", W4A16: W8A16}.get(precision, "int8-torchao")
            raise ValueError(
                f"{plan.step} leaves {in_features} inputs to the Linear that reads the {plan.step.target}, and "
                f"{precision_title(precision)} on a {'CPU' if device_type == 'cpu' else 'GPU'} requires a multiple of "
                f"{block_size}: use {alternative} or another percentage"
            )
    if precision in _GROUPED:
        _check_grouped_int4(model, precision, device)


def _check_grouped_int4(model: PreTrainedModel, precision: str, device: str) -> None:
    title, alternative = precision_title(precision), _GROUPED[precision]
    for path, linear in architecture.decoder_linears(model):
        if linear.in_features % GROUP_SIZE or linear.out_features % OUT_FEATURES_MULTIPLE:
            raise ValueError(
                f"{path} is {linear.out_features} x {linear.in_features}, and {title} requires multiples of "
                f"{OUT_FEATURES_MULTIPLE} x {GROUP_SIZE}: use {alternative}"
            )
    if torch.device(device).type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise ValueError(f"{title} on a GPU needs compute capability 8.0 or more: use {alternative}")


def gptq_group_size(model: PreTrainedModel, steps: Sequence[PruningStep]) -> int:
    """Inputs that share a scale of W4A16 in every Linear of the pruned decoder; 0 if no such number is supported.

    Raises:
        ValueError: a percentage that rounds to no removal or leaves nothing.
    """
    names = architecture.get_architecture(model)
    widths = {path.rpartition(".")[2]: linear.in_features for path, linear in architecture.decoder_linears(model)}
    for plan in plan_steps(model, steps):
        consumer = names.output if plan.step and plan.step.target == "heads" else names.mlp_output
        widths[consumer] = plan.num_kept * plan.unit_width
    return gptq.group_size(widths.values())
