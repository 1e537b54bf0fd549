"""Parameters and bytes of a model by component, from its published configuration: no weights are read or made."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from vlmcomp import files
from vlmcomp.compression.activation_stats import solver_memory_bytes
from vlmcomp.compression.calibration import BATCH_SIZE
from vlmcomp.compression.pruning.pruner import plan_steps
from vlmcomp.compression.quantization.torchao import GROUP_SIZE
from vlmcomp.compression.shape_checks import gptq_group_size
from vlmcomp.compression.size import count_parameters
from vlmcomp.feedback import format_bytes
from vlmcomp.hardware import default_device
from vlmcomp.models import architecture, registry
from vlmcomp.models.configs import PUBLISHED_CONFIGS
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.recipe import BASE_PRECISIONS, W4A16, W8A16, PruningStep, Recipe
from vlmcomp.results.schema import COMPONENTS

PRUNED_PERCENT = 30
_PRUNED = f"mlp{PRUNED_PERCENT}+"  # stands for the step glu30 or ffn30, whichever the model's MLP allows
COLUMNS = (*BASE_PRECISIONS, *(f"{_PRUNED}{precision}" for precision in BASE_PRECISIONS))
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # 4 bits, a byte a block of 64, 4 bytes a block of 256 blocks
_BYTES_PER_WEIGHT = {
    "fp16": 2.0,
    "int8": 1.0,
    "int4": _NF4,
    "int8-torchao": 1.0,
    "int4-torchao": 0.5 + 4 / GROUP_SIZE,
    W8A16: 1.0,
    W4A16: 0.5,  # and 2 bytes a group
}
_BYTES_PER_ROW = {"int8": 4.0, "int8-torchao": 5.0, W8A16: 2.0}  # the scale, and torchao's zero point, which is 0
_DECODER_PARTS = ("decoder attention", "decoder MLP")
_CERTAIN = 0.9  # of an estimate is needed for certain
_TOKENS_PER_SEQUENCE = 1024  # of a calibration batch


@dataclass(frozen=True)
class SizeEstimate:
    """Estimated sizes of one model.

    Attributes:
        model: name in the registry.
        parameters: by component.
        weight_bytes: by column of ``COLUMNS``, then by component.
        removed_percent: of the MLP neurons in the "mlp30" columns, which ask for 30 % before rounding.
        num_layers: of the decoder.
        hidden_size: of the decoder.
        mlp_width: neurons of one decoder layer before pruning.
    """

    model: str
    parameters: dict[str, int]
    weight_bytes: dict[str, dict[str, float]]
    removed_percent: float
    num_layers: int
    hidden_size: int
    mlp_width: int

    def total(self, column: str) -> float:
        return sum(self.weight_bytes[column].values())

    def peak_build_bytes(self, column: str) -> float:
        """Peak device memory of building: at the last layer, when all others are quantized.

        The result and one layer in 16 bits; when pruning, also the activation statistics of the widest Linear, solving
        them, and the activations of one batch in the layer, of 1,024 tokens a sequence.
        """
        layer = sum(2.0 * self.parameters[part] for part in _DECODER_PARTS) / self.num_layers
        peak = self.total(column) + layer
        if not column.startswith(_PRUNED):
            return peak
        activations = BATCH_SIZE * _TOKENS_PER_SEQUENCE * 2.0 * (2 * self.mlp_width + 4 * self.hidden_size)
        return peak + solver_memory_bytes(self.mlp_width, self.hidden_size) + activations


def meta_model(name: str) -> PreTrainedModel:
    """A model on the meta device, without weights: a bundled one from its files, any other from its published
    configuration."""
    spec = registry.get_model_spec(name)
    if spec.bundled:
        config = AutoConfig.from_pretrained(spec.name_or_path)
    else:
        config = AutoConfig.for_model(spec.family, **PUBLISHED_CONFIGS[name])
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def estimate_weight_bytes(recipe: Recipe) -> dict[str, float]:
    """Bytes of the weights of ``recipe`` by component, before anything is downloaded or built.

    Raises:
        ValueError: a percentage that rounds to no removal or leaves nothing.
    """
    model = meta_model(recipe.model)
    return _weight_bytes(model, count_parameters(model), recipe.steps, recipe.precision)


def _weight_bytes(
    model: PreTrainedModel, parameters: Mapping[str, int], steps: tuple[PruningStep, ...], precision: str
) -> dict[str, float]:
    names = architecture.get_architecture(model)
    kept_fraction = dict.fromkeys(_DECODER_PARTS, 1.0)
    for plan in plan_steps(model, steps):
        part = "decoder attention" if plan.step and plan.step.target == "heads" else "decoder MLP"
        kept_fraction[part] = plan.num_kept / plan.num_units
    group_size = gptq_group_size(model, steps) if precision == W4A16 else 0
    result = {part: 2.0 * parameters[part] for part in COMPONENTS}
    for path, linear in architecture.decoder_linears(model):
        part = names.component(path)
        is_consumer = path.endswith((f".{names.mlp_output}", f".{names.output}"))
        result[part] -= 2.0 * _num_parameters(linear)
        result[part] += linear_bytes(linear, kept_fraction[part], precision, is_consumer, group_size)
    return result


def check_free_space(recipe: Recipe, folder: Path, advice: str = "give another folder") -> None:
    """Check before a build that there is room to save it.

    Args:
        recipe: what is built, from the weights of the registry.
        folder: where it will be saved.
        advice: how to choose another disk.

    Raises:
        OSError: it clearly has not.
        ValueError: as ``estimate_weight_bytes``.
    """
    needed = int(sum(estimate_weight_bytes(recipe).values()))
    free = files.free_bytes(folder)
    if free < _CERTAIN * needed:
        sizes = f"{recipe} needs {format_bytes(needed)}, and the disk has {format_bytes(free)} free"
        raise OSError(errno.ENOSPC, f"{sizes}: make room, or {advice}", str(folder))


def estimate_memory(recipe: Recipe) -> tuple[int, int]:
    """Bytes in memory on this machine: of the recipe's own decoder layers, and of all other parts, which the variants
    of a model share.

    Raises:
        ValueError: as ``estimate_weight_bytes``.
    """
    by_part = estimate_weight_bytes(recipe)
    widening = 2 if compute_dtype(default_device()) == torch.float32 else 1
    own = sum(by_part[part] for part in _DECODER_PARTS)
    shared = sum(by_part.values()) - own
    return int(own * (widening if recipe.precision == "fp16" else 1)), int(shared * widening)


def estimate(name: str) -> SizeEstimate:
    """Sizes of the model ``name`` in each precision, unpruned and with 30 % of its MLP neurons removed.

    INT8 takes a byte a weight and 4 bytes a row, NF4 with double quantization ``_NF4`` bytes a weight; the rest of
    the model, and biases, 2 bytes a parameter.
    """
    model = meta_model(name)
    parameters = count_parameters(model)
    step = PruningStep(registry.get_model_spec(name).mlp, PRUNED_PERCENT)
    (plan,) = plan_steps(model, (step,))
    by_column = {}
    for column in COLUMNS:
        steps = (step,) if column.startswith(_PRUNED) else ()
        by_column[column] = _weight_bytes(model, parameters, steps, column.removeprefix(_PRUNED))
    return SizeEstimate(
        model=name,
        parameters=parameters,
        weight_bytes=by_column,
        removed_percent=100 * (1 - plan.num_kept / plan.num_units),
        num_layers=len(architecture.decoder_layers(model)),
        hidden_size=model.config.get_text_config().hidden_size,
        mlp_width=plan.num_units,
    )


def _num_parameters(linear: nn.Linear) -> int:
    return linear.weight.numel() + (linear.bias.numel() if linear.bias is not None else 0)


def linear_bytes(
    linear: nn.Linear, kept_fraction: float, precision: str, is_consumer: bool, group_size: int = 0
) -> float:
    """Bytes of a pruned and quantized Linear.

    Args:
        linear: before pruning.
        kept_fraction: of its weight.
        precision: of its weight; biases have 16 bits.
        is_consumer: pruned inputs; otherwise outputs are pruned, and their scales and biases with them.
        group_size: inputs that share a 16-bit scale; 0 where the precision has none, or a size that never varies.
    """
    rows = linear.out_features * (1.0 if is_consumer else kept_fraction)
    bytes_per_weight = _BYTES_PER_WEIGHT[precision] + (2 / group_size if group_size else 0.0)
    weights = bytes_per_weight * linear.weight.numel() * kept_fraction
    scales = _BYTES_PER_ROW.get(precision, 0.0) * rows
    biases = 2.0 * rows if linear.bias is not None else 0.0
    return weights + scales + biases


def estimate_all() -> list[SizeEstimate]:
    """The sizes of every model in ``PUBLISHED_CONFIGS``."""
    return [estimate(name) for name in PUBLISHED_CONFIGS]


@cache
def estimate_by_recipe(name: str) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of the weights, and peak bytes of building them, by recipe: unpruned ones first.

    Raises:
        ValueError: a model without a published configuration.
    """
    if name not in PUBLISHED_CONFIGS:
        raise ValueError(f"{name} has no published shapes: choose one of {', '.join(PUBLISHED_CONFIGS)}")
    sizes = estimate(name)
    mlp_step = f"{registry.get_model_spec(name).mlp}{PRUNED_PERCENT}+"
    recipes = {column: f"{name}/{column.replace(_PRUNED, mlp_step)}" for column in COLUMNS}
    weights = {recipes[column]: round(sizes.total(column)) for column in COLUMNS}
    peaks = {recipes[column]: round(sizes.peak_build_bytes(column)) for column in COLUMNS}
    return weights, peaks
