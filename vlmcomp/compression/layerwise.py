"""Edits the decoder layer by layer on calibration data; each edit sees the activations of the already edited model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from vlmcomp.compression.activation_stats import ActivationStats
from vlmcomp.compression.calibration import CalibrationBatch, StopForward, TokenWeights, to_device
from vlmcomp.models import architecture
from vlmcomp.models.forward_override import override_forward


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
    the attention's outputs serve all passes after the attention's last edit, and the last layer's are not needed.

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
    token_weights = token_weights or TokenWeights()
    callbacks = callbacks or LayerCallbacks()
    layers = architecture.decoder_layers(model)
    dense_hidden = [batch.dense.hidden for batch in batches]
    hidden = [batch.hidden for batch in batches]
    with_targets = [edit for edit in edits if edit.has_targets]
    for index, layer in enumerate(layers):
        callbacks.on_enter(layer)
        layer_pass = _LayerPass(index, layer, batches, token_weights)
        is_shared = index == 0 and edits[:1] == with_targets[:1] and not any(batch.unpruned for batch in batches)
        stats, targets = layer_pass.run_dense(dense_hidden, with_targets, collect_first=is_shared)
        for edit in edits:
            edit_targets = targets.pop(0) if edit.has_targets else None
            if stats is None:
                stats = layer_pass.collect_stats(hidden, edit, edit_targets)
            edit.apply(layer, stats)
            stats = None  # of a wide layer these are gigabytes
        layer_pass.call_after_edits(callbacks)
        if index + 1 < len(layers):
            layer_pass.run_edited(hidden)
        callbacks.on_exit(layer)
        if progress is not None:
            progress((index + 1) / len(layers))


@dataclass
class _Run:
    """What one batch gave inside one layer.

    Attributes:
        inputs: of the recorded Linears.
        outputs: of the recorded Linears.
        attention: what the attention module returned, without attention weights; None if it did not end.
        hidden: the layer's output; None if the run was stopped before.
    """

    inputs: dict[nn.Module, torch.Tensor] = field(default_factory=dict)
    outputs: dict[nn.Module, torch.Tensor] = field(default_factory=dict)
    attention: Any = None
    hidden: torch.Tensor | None = None


class _LayerPass:
    """Runs all batches through one layer.

    Args:
        index: of the layer.
        layer: on its device.
        batches: calibration data.
        token_weights: of the token types in the statistics.
    """

    def __init__(
        self,
        index: int,
        layer: architecture.DecoderLayer,
        batches: Sequence[CalibrationBatch],
        token_weights: TokenWeights,
    ) -> None:
        self._index = index
        self._layer = layer
        self._batches = batches
        self._token_weights = token_weights
        self._device = layer.o_proj.weight.device
        self._attention: list[Any] = [None] * len(batches)  # the edited model's outputs, in RAM, once they are final

    def run_dense(
        self, hidden: list[torch.Tensor], edits: Sequence[LayerEdit], *, collect_first: bool
    ) -> tuple[ActivationStats | None, list[list[torch.Tensor]]]:
        """Replace ``hidden`` by the hidden states after the unedited layer, if there are edits.

        Args:
            hidden: of the dense model.
            edits: those that have targets.
            collect_first: the edited model receives the same, so its statistics for the first edit are collected too.

        Returns:
            The statistics, if they were collected; and for every edit and batch, the residual stream after the edit's
            Linear (with ``post_norms`` the Linear's output) at the tokens of the batch, in float32 and in RAM.
        """
        linears = [edit.target_linear(self._layer) for edit in edits]
        targets: list[list[torch.Tensor]] = [[] for _ in edits]
        stats = self._new_stats(linears[0], linears[0].out_features) if edits and collect_first else None
        for number, batch in enumerate(self._batches if edits else []):
            inputs = hidden[number].to(self._device)
            run = self._run(batch.dense, inputs, linears)
            assert run.hidden is not None
            hidden[number] = batch.dense.add_deepstack(self._index, run.hidden.cpu())
            for linear, linear_targets in zip(linears, targets):
                target = self._residual(linear, inputs, run) + run.outputs[linear].float().view_as(inputs)
                linear_targets.append(batch.select_kept(target.cpu()))
            if stats is not None:
                self._add(stats, number, inputs, run, linears[0], targets[0].pop())
        return stats, targets

    def collect_stats(
        self, hidden: Sequence[torch.Tensor], edit: LayerEdit, targets: list[torch.Tensor] | None
    ) -> ActivationStats:
        """Statistics of the edit's Linear over all batches.

        Args:
            hidden: of the edited model, before the layer.
            edit: is applied next.
            targets: of every batch, each removed once it is used; None for statistics of the inputs alone.
        """
        linear = edit.target_linear(self._layer)
        stats = self._new_stats(linear, 0 if targets is None else linear.out_features)
        for number, batch in enumerate(self._batches):
            inputs = hidden[number].to(self._device)
            run = self._run(batch, inputs, [linear], stop_before=linear, attention=self._attention[number])
            self._add(stats, number, inputs, run, linear, targets.pop(0) if targets else None)
        return stats

    def call_after_edits(self, callbacks: LayerCallbacks) -> None:
        """Call ``callbacks.after_edits``, and forget the attention's outputs if it changes the attention's weights."""
        before = [parameter.detach().clone() for parameter in self._layer.attention.parameters()]
        callbacks.after_edits(self._layer)
        if not all(map(torch.equal, before, self._layer.attention.parameters())):
            self._attention = [None] * len(self._batches)

    def run_edited(self, hidden: list[torch.Tensor]) -> None:
        """Replace ``hidden`` by the hidden states after the edited layer."""
        for number, (batch, attention) in enumerate(zip(self._batches, self._attention)):
            run = self._run(batch, hidden[number].to(self._device), [], attention=attention)
            assert run.hidden is not None
            hidden[number] = batch.add_deepstack(self._index, run.hidden.cpu())

    def _new_stats(self, linear: nn.Linear, num_targets: int) -> ActivationStats:
        return ActivationStats(linear.in_features, num_targets, self._device)

    def _add(
        self,
        stats: ActivationStats,
        number: int,
        hidden: torch.Tensor,
        run: _Run,
        linear: nn.Linear,
        target: torch.Tensor | None,
    ) -> None:
        """Add what batch ``number`` gave to the statistics of ``linear``; its target is the stream after it."""
        x = run.inputs[linear]
        wanted = x[..., :0] if target is None else target.to(self._device) - self._residual(linear, hidden, run)
        stats.update(x, wanted, self._token_weights.for_types(self._batches[number].token_types).to(self._device))
        if not self._is_in_attention(linear) and self._attention[number] is None:
            self._attention[number] = to_device(run.attention, "cpu")

    def _is_in_attention(self, linear: nn.Linear) -> bool:
        return any(module is linear for module in self._layer.attention.modules())

    def _residual(self, linear: nn.Linear, hidden: torch.Tensor, run: _Run) -> torch.Tensor:
        """The stream that the output of ``linear`` is added to, in float32, since in half precision the sum would lose
        the small differences that targets consist of; 0 before a norm."""
        if self._layer.architecture.post_norms:
            return torch.zeros((), device=hidden.device)
        if self._is_in_attention(linear):
            return hidden.float()
        return hidden.float() + _first(run.attention).float()

    def _run(
        self,
        batch: CalibrationBatch,
        hidden: torch.Tensor,
        linears: Sequence[nn.Linear],
        *,
        stop_before: nn.Linear | None = None,
        attention: Any = None,
    ) -> _Run:
        """Run one batch through the layer.

        Args:
            batch: its arguments of the layer.
            hidden: (B, T, hidden) on the device.
            linears: recorded.
            stop_before: one of them, which does not run any more.
            attention: what the attention returned in an earlier run, in its place.
        """
        run = _Run()

        def read(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            run.inputs[module] = args[0]
            if module is stop_before:
                raise StopForward

        def keep_attention(module: nn.Module, args: Any, output: Any) -> None:
            run.attention = output if isinstance(output, torch.Tensor) else (output[0], *[None] * (len(output) - 1))

        with ExitStack() as hooks, suppress(StopForward):
            for linear in linears:
                hooks.callback(linear.register_forward_pre_hook(read).remove)
                hooks.callback(linear.register_forward_hook(lambda m, args, out: run.outputs.update({m: out})).remove)
            hooks.callback(self._layer.attention.register_forward_hook(keep_attention).remove)
            if attention is not None:
                known = to_device(attention, self._device)
                hooks.enter_context(override_forward(self._layer.attention, lambda *args, **kwargs: known))
            run.hidden = _first(self._layer.block(hidden, **batch.layer_inputs(self._index, self._device)))
        return run


def _first(output: Any) -> torch.Tensor:
    """The tensor, or the first one of a tuple, as modules of some families return it."""
    return output if isinstance(output, torch.Tensor) else output[0]
