"""Parameters and bytes of a real model's parts, from its published shapes: no weights are read or made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from vlmcomp.compression.activation_stats import moments_bytes
from vlmcomp.compression.calibration import BATCH
from vlmcomp.compression.pruning import mlp as mlp_neurons
from vlmcomp.compression.pruning.pruner import plans
from vlmcomp.compression.quantization.torchao import GROUP
from vlmcomp.compression.size import parameters
from vlmcomp.hardware import default_device
from vlmcomp.models import architecture, registry
from vlmcomp.models.configs import SHAPES
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.recipe import Recipe, Step
from vlmcomp.results.schema import PARTS

COLUMNS = ("fp16", "int8", "int4", "mlp30+fp16", "mlp30+int8", "mlp30+int4")
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: the code, a byte a block of 64, 4 bytes a block of blocks
_EACH = {"fp16": 2.0, "int8": 1.0, "int4": _NF4, "int8-torchao": 1.0, "int4-torchao": 0.5 + 4 / GROUP}
_ROW = {"int8": 4.0, "int8-torchao": 5.0}  # bytes a row: the scale, and torchao's zero point, which is 0


@dataclass(frozen=True)
class Sizes:
    """``parameters`` by part; ``weight_bytes`` by column of ``COLUMNS``, then by part; the real percent of mlp30.

    ``layers`` of the decoder are ``width`` MLP neurons and ``hidden`` wide.
    """

    model: str
    parameters: dict[str, int]
    weight_bytes: dict[str, dict[str, float]]
    removed_percent: float
    layers: int
    hidden: int
    width: int

    def total(self, column: str) -> float:
        return sum(self.weight_bytes[column].values())

    def building(self, column: str) -> float:
        """Bytes on the device at the peak of building: at the last layer, when all the others are packed.

        The result and one layer in 16 bits; when pruning, also the sums of the widest reader and solving them, and
        the activations of one batch in the layer, of 1,024 tokens a sequence.
        """
        layer = sum(2.0 * self.parameters[part] for part in ("decoder attention", "decoder MLP")) / self.layers
        if "mlp" not in column:
            return self.total(column) + layer
        activations = BATCH * 1024 * 2.0 * (2 * self.width + 4 * self.hidden)
        return self.total(column) + layer + moments_bytes(self.width, self.hidden) + activations


def skeleton(name: str) -> PreTrainedModel:
    """The architecture of a model on the meta device: of a real one from its published shapes."""
    entry = registry.find(name)
    embedded = entry.embedded
    config = (
        AutoConfig.from_pretrained(entry.location) if embedded else AutoConfig.for_model(entry.family, **SHAPES[name])
    )
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def expected(recipe: Recipe) -> dict[str, float]:
    """Bytes of the weights of ``recipe`` by part, before anything is downloaded or built.

    Raises:
        ValueError: as ``prune.cut.plans``.
    """
    model = skeleton(recipe.model)
    names, counts = architecture.of(model), parameters(model)
    kept = dict.fromkeys(("decoder attention", "decoder MLP"), 1.0)
    for plan in plans(model, recipe.steps):
        kept["decoder attention" if plan.step.kind == "heads" else "decoder MLP"] = plan.kept / plan.total
    held = {part: 2.0 * counts[part] for part in PARTS}
    for path, linear in architecture.decoder_linears(model):
        part = names.part(path)
        reads = path.endswith((f".{names.mlp_out}", f".{names.output}"))
        held[part] += linear_bytes(linear, kept[part], recipe.precision, reads) - 2.0 * _count(linear)
    return held


def in_memory(recipe: Recipe) -> tuple[int, int]:
    """Bytes that ``recipe`` takes on this machine: its own decoder layers, and what all variants of its model share.

    Raises:
        ValueError: as ``expected``.
    """
    held = expected(recipe)
    wide = 2 if compute_dtype(default_device()) == torch.float32 else 1
    own = held["decoder attention"] + held["decoder MLP"]
    return int(own * (wide if recipe.precision == "fp16" else 1)), int((sum(held.values()) - own) * wide)


def sizes(name: str) -> Sizes:
    """What ``name`` weighs in each precision, whole and with 30 % of its MLP neurons removed.

    INT8 takes a byte a weight and 4 bytes a row, NF4 with double quantization ``_NF4`` bytes a weight; the rest of
    the model, and biases, 2 bytes a parameter.
    """
    model = skeleton(name)
    names, counts = architecture.of(model), parameters(model)
    plan = mlp_neurons.plan(model, Step(registry.find(name).mlp, 30))
    share, linears = plan.kept / plan.total, list(architecture.decoder_linears(model))
    held: dict[str, dict[str, float]] = {}
    for column in COLUMNS:
        *pruned, precision = column.split("+")
        held[column] = {part: 2.0 * counts[part] for part in PARTS}
        for path, linear in linears:
            part, kept = names.part(path), 1.0
            if pruned and part == "decoder MLP":
                kept = share
            reads = path.endswith(f".{names.mlp_out}")
            held[column][part] += linear_bytes(linear, kept, precision, reads) - 2.0 * _count(linear)
    text = model.config.get_text_config()
    layers = len(architecture.layers(model))
    return Sizes(name, counts, held, 100 * (1 - share), layers, text.hidden_size, plan.total)


def _count(linear: nn.Linear) -> int:
    return linear.weight.numel() + (linear.bias.numel() if linear.bias is not None else 0)


def linear_bytes(linear: nn.Linear, kept: float, precision: str, reads: bool) -> float:
    """Of a Linear whose weight keeps the share ``kept``; with its outputs rows and biases go as well."""
    rows = linear.out_features * (1.0 if reads else kept)
    weights = linear.weight.numel() * kept
    scales = _ROW.get(precision, 0.0) * rows
    return _EACH[precision] * weights + scales + (2.0 * rows if linear.bias is not None else 0.0)


def published() -> list[Sizes]:
    """The sizes of every real model in ``published.SHAPES``."""
    return [sizes(name) for name in SHAPES]


@cache
def by_recipe(name: str) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of the weights and at the peak of building, of each column as a recipe: those that remove nothing first.

    Raises:
        ValueError: a model whose shapes are not published.
    """
    if name not in SHAPES:
        raise ValueError(f"{name} has no published shapes: choose one of {', '.join(SHAPES)}")
    found, mlp = sizes(name), registry.find(name).mlp
    texts = {column: f"{name}/{column.replace('mlp', mlp)}" for column in COLUMNS}
    weights = {texts[c]: round(found.total(c)) for c in COLUMNS}
    return weights, {texts[c]: round(found.building(c)) for c in COLUMNS}
