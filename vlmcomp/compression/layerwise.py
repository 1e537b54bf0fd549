"""Change the decoder layer by layer on calibration sequences: each change sees what the changed model gives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from vlmcomp.compression.activation_stats import Moments
from vlmcomp.compression.calibration import Stop, Tokens, Weights
from vlmcomp.models import architecture


def _nothing(layer: architecture.Layer) -> None:
    pass


@dataclass(frozen=True)
class Care:
    """What is done to every layer beside its edits: ``arrive`` before it first runs (bring its weights to the device),
    ``finish`` after its last edit (round them), ``leave`` after it has run for the last time (pack them)."""

    arrive: Callable[[architecture.Layer], None] = _nothing
    finish: Callable[[architecture.Layer], None] = _nothing
    leave: Callable[[architecture.Layer], None] = _nothing


@dataclass(frozen=True)
class Edit:
    """A Linear of every layer whose inputs are watched, and what is then done to the layer."""

    reader: Callable[[architecture.Layer], nn.Linear]
    change: Callable[[architecture.Layer, Moments], None]


@torch.no_grad()
def walk(
    model: PreTrainedModel,
    calibration: Sequence[Tokens],
    edits: Sequence[Edit],
    weights: Weights | None = None,
    progress: Callable[[float], None] | None = None,
    care: Care | None = None,
) -> None:
    """Change the decoder layer by layer; each edit sees what the already changed model gives it.

    The output wanted of an edited Linear is what brings the changed model's residual stream back to the dense
    one's at that place, so that a layer makes up for what the layers before it lost; where a norm stands between the
    Linear and the stream (``Anatomy.post_norms``) it is what the dense Linear gave. The dense model sees all image
    tokens, also where the changed one does not. (Aiming a layer at the dense model's activations on the compressed
    model's inputs is the asymmetric calibration of GPTAQ, arXiv 2504.02692.)

    Edits come in the order in which their readers run. Peak memory on the layers' device, above the weights that are
    there: one batch inside one layer, and ``moments_bytes`` for one reader. In RAM: the hidden states of all sequences
    once for the dense and once for the changed model in their dtype, and once for each edit in float32.
    """
    weights, care = weights or Weights(), care or Care()
    layers = architecture.layers(model)
    share = [weights.of(t.kinds) for t in calibration]
    dense, ours = [t.dense.hidden for t in calibration], [t.hidden for t in calibration]
    for index, layer in enumerate(layers):
        care.arrive(layer)
        device = layer.output.weight.device
        marks: list[list[torch.Tensor]] = []  # per batch: the dense stream after each edit's reader
        for at, tokens in enumerate(calibration):
            output, seen = _dense(layer, dense[at].to(device), tokens.dense.of(index, device), edits)
            dense[at] = tokens.dense.after(index, output)
            marks.append([tokens.shared(stream) for stream in seen])
        for number, edit in enumerate(edits):
            reader = edit.reader(layer)
            moments = Moments(reader.in_features, reader.out_features, device)
            for at, tokens in enumerate(calibration):
                x, stream = _reach(layer, ours[at].to(device), tokens.of(index, device), edit, edits[:number])
                moments.add(x, marks[at][number].to(device) - stream, share[at].to(device))
            edit.change(layer, moments)
            del moments
        care.finish(layer)
        for at, tokens in enumerate(calibration):
            output = _first(layer.block(ours[at].to(device), **tokens.of(index, device))).cpu()
            ours[at] = tokens.after(index, output)
        care.leave(layer)
        if progress is not None:
            progress((index + 1) / len(layers))


def _dense(
    layer: architecture.Layer, hidden: torch.Tensor, arguments: dict[str, Any], edits: Sequence[Edit]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The layer's output, and in float32 the residual stream after each edit's reader (with ``post_norms`` the
    reader's own output); all in RAM."""
    added: list[torch.Tensor] = []
    with ExitStack() as hooks:
        for reader in {edit.reader(layer): None for edit in edits} | {layer.output: None}:
            handle = reader.register_forward_hook(lambda module, args, output: added.append(output))
            hooks.callback(handle.remove)
        output = _first(layer.block(hidden, **arguments)).cpu()
    parts = [a.float().view_as(hidden) for a in added]
    streams = parts if layer.anatomy.post_norms else list(accumulate(parts, initial=hidden.float()))[1:]
    return output, [stream.cpu() for stream in streams[-len(edits) :]]


def _reach(
    layer: architecture.Layer, hidden: torch.Tensor, arguments: dict[str, Any], edit: Edit, before: Sequence[Edit]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs of the edit's reader, and what its output is added to: the residual stream, or 0 before a norm."""
    found: dict[str, torch.Tensor] = {}
    reader = edit.reader(layer)

    def stop(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        found["x"] = args[0]
        raise Stop

    with ExitStack() as hooks, suppress(Stop):
        hooks.callback(reader.register_forward_pre_hook(stop).remove)
        if reader is layer.down:
            keep = layer.output.register_forward_hook(lambda module, args, output: found.update(attention=output))
            hooks.callback(keep.remove)
        layer.block(hidden, **arguments)
    if layer.anatomy.post_norms:
        return found["x"], torch.zeros((), device=hidden.device)
    stream = hidden.float()  # a sum in the model's own half precision would drown what the target is made of
    return found["x"], stream + found["attention"].float() if "attention" in found else stream


def _first(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]
