"""Edits the decoder layer by layer on calibration data; each edit sees the activations of the already edited model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from vlmcomp.compression.activation_stats import ActivationStats
from vlmcomp.compression.calibration import CalibrationBatch, StopForward, TokenWeights
from vlmcomp.models import architecture


def _nothing(layer: architecture.DecoderLayer) -> None:
    pass


@dataclass(frozen=True)
class LayerCallbacks:
    """Called for every layer beside its edits.

    Attributes:
        on_enter: before the layer first runs, for example to load its weights to the device.
        after_edits: after its last edit, for example to round its weights.
        on_exit: after it has run for the last time, for example to quantize it.
    """

    on_enter: Callable[[architecture.DecoderLayer], None] = _nothing
    after_edits: Callable[[architecture.DecoderLayer], None] = _nothing
    on_exit: Callable[[architecture.DecoderLayer], None] = _nothing


@dataclass(frozen=True)
class LayerEdit:
    """A Linear of every layer whose inputs are recorded, and the change made to the layer with their statistics.

    Attributes:
        target_linear: the Linear.
        apply: makes the change.
        has_targets: the statistics cover target outputs too, not the inputs alone; only ``o_proj`` and ``down_proj``
            have them.
    """

    target_linear: Callable[[architecture.DecoderLayer], nn.Linear]
    apply: Callable[[architecture.DecoderLayer, ActivationStats], None]
    has_targets: bool = True


RoundLinears = Callable[[Sequence[nn.Linear], torch.Tensor, torch.Tensor], None]
"""Rounds Linears that have the same inputs, given the (n, n) mean of x x^T and the (n,) mean of these inputs."""


def rounding_edits(round_linears: RoundLinears) -> list[LayerEdit]:
    """Edits that round all Linears of a layer in the order in which they run, those with the same inputs together."""

    def edit(linears: Callable[[architecture.DecoderLayer], tuple[nn.Linear, ...]]) -> LayerEdit:
        def apply(layer: architecture.DecoderLayer, stats: ActivationStats) -> None:
            round_linears(linears(layer), stats.gram, stats.mean)

        return LayerEdit(lambda layer: linears(layer)[0], apply, has_targets=False)

    return [
        edit(lambda layer: layer.attention_inputs),
        edit(lambda layer: (layer.o_proj,)),
        edit(lambda layer: layer.mlp_inputs),
        edit(lambda layer: (layer.down_proj,)),
    ]


@torch.no_grad()
def run_layerwise(
    model: PreTrainedModel,
    batches: Sequence[CalibrationBatch],
    edits: Sequence[LayerEdit],
    token_weights: TokenWeights | None = None,
    progress: Callable[[float], None] | None = None,
    callbacks: LayerCallbacks | None = None,
) -> None:
    """Edit the decoder in place, layer by layer.

    The target output of an edited Linear is what restores the dense model's residual stream after it, so that a layer
    makes up for the errors of earlier layers; where a norm follows the Linear (``ArchitectureSpec.post_norms``), it is
    the dense Linear's output. The dense model receives all image tokens, even if the edited one does not. (Aiming a
    layer at the dense model's activations on the compressed model's inputs is the asymmetric calibration of GPTAQ,
    arXiv 2504.02692.)

    Peak memory on the layers' device, above their weights: one batch inside one layer, and ``solver_memory_bytes`` of
    one Linear. In RAM: the hidden states of all sequences, once for the dense and once for the edited model in their
    dtype, and once for each edit in float32.

    Args:
        model: its decoder layers are edited.
        batches: calibration data.
        edits: in the order in which their Linears run.
        token_weights: of the token types in the statistics.
        progress: called with the fraction of the layers done.
        callbacks: called for every layer beside its edits.
    """
    token_weights = token_weights or TokenWeights()
    callbacks = callbacks or LayerCallbacks()
    layers = architecture.decoder_layers(model)
    dense_hidden = [batch.dense.hidden for batch in batches]
    hidden = [batch.hidden for batch in batches]
    with_targets = [edit for edit in edits if edit.has_targets]
    for index, layer in enumerate(layers):
        callbacks.on_enter(layer)
        targets = iter(_run_dense_layer(index, layer, batches, dense_hidden, with_targets) if with_targets else [])
        for edit in edits:
            edit_targets = next(targets) if edit.has_targets else None
            stats = _collect_stats(index, layer, edit, batches, hidden, edit_targets, token_weights)
            edit.apply(layer, stats)
            del stats  # of a wide layer these are gigabytes
        callbacks.after_edits(layer)
        _run_edited_layer(index, layer, batches, hidden)
        callbacks.on_exit(layer)
        if progress is not None:
            progress((index + 1) / len(layers))


def _run_edited_layer(
    index: int, layer: architecture.DecoderLayer, batches: Sequence[CalibrationBatch], hidden: list[torch.Tensor]
) -> None:
    """Replace ``hidden`` by the hidden states after the edited layer."""
    device = layer.o_proj.weight.device
    for number, batch in enumerate(batches):
        output = _hidden_states(layer.block(hidden[number].to(device), **batch.layer_inputs(index, device)))
        hidden[number] = batch.add_deepstack(index, output.cpu())


def _run_dense_layer(
    index: int,
    layer: architecture.DecoderLayer,
    batches: Sequence[CalibrationBatch],
    dense_hidden: list[torch.Tensor],
    edits: Sequence[LayerEdit],
) -> list[list[torch.Tensor]]:
    """Replace ``dense_hidden`` by the hidden states after the unedited layer.

    Returns:
        For every edit and batch, the residual stream after the edit's Linear (with ``post_norms`` the Linear's output)
        at the tokens of the batch, in float32 and in RAM.
    """
    device = layer.o_proj.weight.device
    targets: list[list[torch.Tensor]] = [[] for _ in edits]
    for number, batch in enumerate(batches):
        inputs = dense_hidden[number].to(device)
        output, streams = _forward_with_targets(layer, inputs, batch.dense.layer_inputs(index, device), edits)
        dense_hidden[number] = batch.dense.add_deepstack(index, output)
        for edit_targets, stream in zip(targets, streams):
            edit_targets.append(batch.select_kept(stream))
    return targets


def _forward_with_targets(
    layer: architecture.DecoderLayer, hidden: torch.Tensor, layer_kwargs: dict[str, Any], edits: Sequence[LayerEdit]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The layer's output, and the targets of every edit as ``_run_dense_layer`` returns them, for all tokens."""
    outputs: list[torch.Tensor] = []
    linears = dict.fromkeys([*(edit.target_linear(layer) for edit in edits), layer.o_proj])
    with ExitStack() as hooks:
        for linear in linears:
            handle = linear.register_forward_hook(lambda module, args, output: outputs.append(output))
            hooks.callback(handle.remove)
        output = _hidden_states(layer.block(hidden, **layer_kwargs)).cpu()
    parts = [part.float().view_as(hidden) for part in outputs]
    streams = parts if layer.architecture.post_norms else list(accumulate(parts, initial=hidden.float()))[1:]
    return output, [stream.cpu() for stream in streams[-len(edits) :]]


def _collect_stats(
    index: int,
    layer: architecture.DecoderLayer,
    edit: LayerEdit,
    batches: Sequence[CalibrationBatch],
    hidden: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor] | None,
    token_weights: TokenWeights,
) -> ActivationStats:
    """Statistics of the inputs of the edit's Linear over all batches, and of its target outputs if there are any."""
    linear = edit.target_linear(layer)
    device = layer.o_proj.weight.device
    stats = ActivationStats(linear.in_features, 0 if targets is None else linear.out_features, device)
    for number, (batch, inputs) in enumerate(zip(batches, hidden)):
        x, residual = _linear_inputs(layer, inputs.to(device), batch.layer_inputs(index, device), edit)
        weight = token_weights.for_types(batch.token_types).to(device)
        stats.update(x, x[..., :0] if targets is None else targets[number].to(device) - residual, weight)
    return stats


def _linear_inputs(
    layer: architecture.DecoderLayer, hidden: torch.Tensor, layer_kwargs: dict[str, Any], edit: LayerEdit
) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs of the edit's Linear, and what its output is added to: the residual stream, or 0 before a norm."""
    captured: dict[str, torch.Tensor] = {}
    linear = edit.target_linear(layer)

    def stop(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        captured["x"] = args[0]
        raise StopForward

    with ExitStack() as hooks, suppress(StopForward):
        hooks.callback(linear.register_forward_pre_hook(stop).remove)
        if linear is layer.down_proj:
            handle = layer.o_proj.register_forward_hook(lambda module, args, output: captured.update(attention=output))
            hooks.callback(handle.remove)
        layer.block(hidden, **layer_kwargs)
    if layer.architecture.post_norms:
        return captured["x"], torch.zeros((), device=hidden.device)
    stream = hidden.float()  # in half precision the sum would lose the small differences that the target consists of
    if "attention" in captured:
        stream = stream + captured["attention"].float()
    return captured["x"], stream


def _hidden_states(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]
