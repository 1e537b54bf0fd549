"""Runs calibration batches through one decoder layer and records what its Linears receive and should return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from vlmcomp.compression.activation_stats import ActivationStats
from vlmcomp.compression.calibration import CalibrationBatch, StopForward, to_device
from vlmcomp.models import architecture
from vlmcomp.models.forward_override import override_forward


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


class LayerPass:
    """Runs all batches through one layer. Statistics cover the recorded tokens, those with a weight, alone.

    Args:
        index: of the layer.
        layer: on its device.
        batches: calibration data.
        weights: (B, T) of the tokens of every batch in the statistics.
    """

    def __init__(
        self,
        index: int,
        layer: architecture.DecoderLayer,
        batches: Sequence[CalibrationBatch],
        weights: Sequence[torch.Tensor],
    ) -> None:
        self._index = index
        self._layer = layer
        self._batches = batches
        self._weights = weights
        self._device = layer.o_proj.weight.device
        self._attention: list[Any] = [None] * len(batches)  # the edited model's outputs, in RAM, once they are final

    def run_dense(
        self, hidden: list[torch.Tensor], linears: Sequence[nn.Linear], *, collect_first: bool
    ) -> tuple[ActivationStats | None, list[list[torch.Tensor]]]:
        """Replace ``hidden`` by the hidden states after the unedited layer, if there are ``linears``.

        Args:
            hidden: of the dense model.
            linears: those that get targets.
            collect_first: the edited model receives the same, so the statistics of the first Linear are collected too.

        Returns:
            The statistics, if they were collected; and for every Linear and batch, the residual stream after the
            Linear (with ``post_norms`` the Linear's output), (1, N, out) of the recorded tokens, in float32 and in RAM.
        """
        targets: list[list[torch.Tensor]] = [[] for _ in linears]
        stats = self._new_stats(linears[0], linears[0].out_features) if linears and collect_first else None
        for number, batch in enumerate(self._batches if linears else []):
            inputs = hidden[number].to(self._device)
            run = self._run(batch.dense, inputs, linears)
            assert run.hidden is not None
            hidden[number] = batch.dense.add_deepstack(self._index, run.hidden.cpu())
            for linear, linear_targets in zip(linears, targets):
                target = self._residual(linear, inputs, run) + run.outputs[linear].float().view_as(inputs)
                linear_targets.append(self._recorded(number, batch.select_kept(target.cpu())))
            if stats is not None:
                residual = self._recorded(number, self._residual(linears[0], inputs, run))
                x = self._recorded(number, run.inputs[linears[0]])
                self._add(stats, number, x, residual, targets[0].pop())
                if not self._is_in_attention(linears[0]):
                    self._attention[number] = to_device(run.attention, "cpu")
        return stats, targets

    def collect_stats(
        self, hidden: Sequence[torch.Tensor], linear: nn.Linear, targets: list[torch.Tensor] | None
    ) -> ActivationStats:
        """Statistics of a Linear of the edited model over all batches.

        Args:
            hidden: of the edited model, before the layer.
            linear: is edited next.
            targets: of every batch, each removed once it is used; None for statistics of the inputs alone.
        """
        stats = self._new_stats(linear, 0 if targets is None else linear.out_features)
        for number, batch in enumerate(self._batches):
            inputs = hidden[number].to(self._device)
            target = targets.pop(0) if targets else None
            if self._is_in_attention(linear):
                run = self._run(batch, inputs, [linear], stop_before=linear)
                x = self._recorded(number, run.inputs[linear])
                residual = self._recorded(number, self._residual(linear, inputs, run))
            else:
                attention = self._recorded(number, self._final_attention(number, inputs))
                inputs = self._recorded(number, inputs)
                run = self._run(batch, inputs, [linear], stop_before=linear, attention=attention)
                x, residual = run.inputs[linear], self._residual(linear, inputs, run)
            self._add(stats, number, x, residual, target)
        return stats

    def _final_attention(self, number: int, hidden: torch.Tensor) -> Any:
        """What the edited attention returns for a batch; computed once, since edits of the MLP do not change it."""
        if self._attention[number] is None:
            run = self._run(self._batches[number], hidden, [], stops_after_attention=True)
            self._attention[number] = to_device(run.attention, "cpu")
        return self._attention[number]

    def call_after_edits(self, after_edits: Callable[[architecture.DecoderLayer], None]) -> None:
        """Call ``after_edits``, and forget the attention's outputs if it changes the attention's weights."""
        before = [parameter.detach().clone() for parameter in self._layer.attention.parameters()]
        after_edits(self._layer)
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

    def _recorded(self, number: int, value: Any) -> Any:
        """(1, N, n) of the recorded tokens of a batch, from (B, T, n), (B * T, n) as OPT's MLP receives it, or what an
        attention returned."""
        if isinstance(value, torch.Tensor):
            return value.reshape(-1, value.shape[-1])[self._weights[number].flatten().to(value.device) > 0][None]
        return (self._recorded(number, value[0]), *value[1:])

    def _add(
        self,
        stats: ActivationStats,
        number: int,
        x: torch.Tensor,
        residual: torch.Tensor,
        target: torch.Tensor | None,
    ) -> None:
        """Add the recorded tokens of a batch, each (1, N, ...); the target is the stream after the Linear."""
        wanted = x[..., :0] if target is None else target.to(self._device) - residual
        weight = self._weights[number]
        stats.update(x, wanted, weight[weight > 0].to(self._device))

    def _is_in_attention(self, linear: nn.Linear) -> bool:
        return any(module is linear for module in self._layer.attention.modules())

    def _residual(self, linear: nn.Linear, hidden: torch.Tensor, run: _Run) -> torch.Tensor:
        """The stream that the output of ``linear`` is added to, in float32, since in half precision the sum would lose
        the small differences that targets consist of; 0 before a norm."""
        if self._layer.architecture.post_norms:
            return torch.zeros_like(hidden, dtype=torch.float32)
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
        stops_after_attention: bool = False,
        attention: Any = None,
    ) -> _Run:
        """Run one batch through the layer.

        Args:
            batch: its arguments of the layer.
            hidden: (B, T, hidden) on the device; (1, N, hidden) of some tokens where the attention does not run.
            linears: recorded.
            stop_before: one of them, which does not run any more.
            stops_after_attention: the MLP does not run.
            attention: what the attention returned in an earlier run, in its place.
        """
        run = _Run()

        def read(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            run.inputs[module] = args[0]
            if module is stop_before:
                raise StopForward

        def keep_attention(module: nn.Module, args: Any, output: Any) -> None:
            run.attention = output if isinstance(output, torch.Tensor) else (output[0], *[None] * (len(output) - 1))
            if stops_after_attention:
                raise StopForward

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
