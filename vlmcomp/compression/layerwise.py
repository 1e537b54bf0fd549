"""Edits the decoder layer by layer on calibration data; each edit sees the activations of the already edited model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from vlmcomp.compression.activation_stats import ActivationStats
from vlmcomp.compression.calibration import CalibrationBatch, TokenWeights
from vlmcomp.compression.layer_pass import LayerPass
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
        apply: makes the change; an edit of the MLP leaves the attention as it is.
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

    Each layer runs once dense, once for each edit up to its Linear, and once edited, for the next layer. What is known
    is not computed again: the first layer's dense pass serves the first edit too where both models receive the same,
    the attention's outputs serve all passes after the attention's last edit, and the last layer's are not needed. For
    the statistics the MLP runs on the recorded tokens alone.

    Peak memory on the layers' device, above their weights: one batch inside one layer, and ``solver_memory_bytes`` of
    one Linear. In RAM: the hidden states of all sequences, once for the dense and once for the edited model in their
    dtype, and once for each edit in float32, which attention outputs take the place of.

    Args:
        model: its decoder layers are edited.
        batches: calibration data.
        edits: in the order in which their Linears run.
        token_weights: of the token types in the statistics.
        progress: called with the fraction of the layers done.
        callbacks: called for every layer.
    """
    weights = (token_weights or TokenWeights()).for_batches(batches)
    callbacks = callbacks or LayerCallbacks()
    layers = architecture.decoder_layers(model)
    dense_hidden = [batch.dense.hidden for batch in batches]
    hidden = [batch.hidden for batch in batches]
    with_targets = [edit for edit in edits if edit.has_targets]
    for index, layer in enumerate(layers):
        callbacks.on_enter(layer)
        layer_pass = LayerPass(index, layer, batches, weights)
        is_shared = index == 0 and edits[:1] == with_targets[:1] and not any(batch.unpruned for batch in batches)
        linears = [edit.target_linear(layer) for edit in with_targets]
        stats, targets = layer_pass.run_dense(dense_hidden, linears, collect_first=is_shared)
        for edit in edits:
            edit_targets = targets.pop(0) if edit.has_targets else None
            if stats is None:
                stats = layer_pass.collect_stats(hidden, edit.target_linear(layer), edit_targets)
            edit.apply(layer, stats)
            stats = None  # of a wide layer these are gigabytes
        layer_pass.call_after_edits(callbacks.after_edits)
        if index + 1 < len(layers):
            layer_pass.run_edited(hidden)
        callbacks.on_exit(layer)
        if progress is not None:
            progress((index + 1) / len(layers))
