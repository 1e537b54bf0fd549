"""Recipes that a model's shape rules out, refused before any work."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from vlmcomp.compression.pruning.pruner import plans
from vlmcomp.compression.quantization.torchao import GROUP, ROWS
from vlmcomp.models import architecture
from vlmcomp.recipe import Recipe, precision_title

# What the inputs of a matrix must be a multiple of; bitsandbytes repacks its weights for a CPU alone.
INT4_BLOCKS = {("int4", "cpu"): 64, ("int4-torchao", "cpu"): GROUP, ("int4-torchao", "cuda"): GROUP}


def refuse(model: PreTrainedModel, recipe: Recipe, device: str) -> None:
    """Stop before any work on a recipe that the model's shape rules out.

    Raises:
        ValueError: a percentage that rounds to nothing removed or nothing left, or a width that INT4 cannot hold.
    """
    where = device.partition(":")[0]
    block = INT4_BLOCKS.get((recipe.precision, where), 1)
    for plan in plans(model, recipe.steps):
        columns = plan.kept * plan.size
        if columns % block:
            way = "int8, a GPU" if recipe.precision == "int4" else "int8-torchao"
            raise ValueError(
                f"{plan.step} leaves {columns} inputs to the matrix that reads the {plan.step.kind}, and "
                f"{precision_title(recipe.precision)} on a {'CPU' if where == 'cpu' else 'GPU'} takes multiples of "
                f"{block}: use {way} or another percentage"
            )
    if recipe.precision == "int4-torchao":
        for path, linear in architecture.decoder_linears(model):
            if linear.in_features % GROUP or linear.out_features % ROWS:
                raise ValueError(
                    f"{path} is {linear.out_features} x {linear.in_features}, and {precision_title(recipe.precision)} "
                    f"takes multiples of {ROWS} x {GROUP}: use int4"
                )
        if where == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
            raise ValueError("INT4 (torchao) on a GPU needs compute capability 8.0 or more: use int4")
