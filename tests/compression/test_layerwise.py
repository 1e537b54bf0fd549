"""The layer walk saves passes and gives what a walk gives that runs every layer anew for everything."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.support.made_models import tiny_llava, token_ids
from vlmcomp.compression.activation_stats import ActivationStats
from vlmcomp.compression.calibration import CalibrationBatch, text_batches
from vlmcomp.compression.layerwise import LayerCallbacks, LayerEdit, run_layerwise
from vlmcomp.compression.pruning.pruner import prune_decoder_
from vlmcomp.models import architecture
from vlmcomp.models.architecture import DecoderLayer
from vlmcomp.recipe import PruningStep

LINEARS: dict[str, Callable[[DecoderLayer], nn.Linear]] = {
    "q": lambda layer: layer.attention.q_proj,
    "o": lambda layer: layer.o_proj,
    "gate": lambda layer: layer.mlp.gate_proj,
    "down": lambda layer: layer.down_proj,
}


def _scale(linear: nn.Linear) -> None:
    linear.weight.data = linear.weight.data * 0.9


def _recording_edits(names: str, found: list[ActivationStats]) -> list[LayerEdit]:
    """Edits that keep their statistics in ``found`` and scale their Linears."""

    def edit(name: str) -> LayerEdit:
        def apply(layer: DecoderLayer, stats: ActivationStats) -> None:
            found.append(stats)
            _scale(LINEARS[name](layer))

        return LayerEdit(LINEARS[name], apply, has_targets=name in ("o", "down"))

    return [edit(name) for name in names.split()]


def _run(layer: DecoderLayer, hidden: torch.Tensor, batch: CalibrationBatch, index: int) -> dict[str, torch.Tensor]:
    """Inputs and outputs of the Linears, and the layer's output."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        of(layer).register_forward_hook(
            lambda m, args, out, name=name: seen.update({name: args[0], f"{name} out": out})
        )
        for name, of in LINEARS.items()
    ]
    output = layer.block(hidden, **batch.layer_kwargs[index])
    for handle in handles:
        handle.remove()
    return seen | {"layer": output if isinstance(output, torch.Tensor) else output[0]}


def _stream_before(name: str, hidden: torch.Tensor, seen: dict[str, torch.Tensor]) -> torch.Tensor:
    return hidden if name == "o" else hidden + seen["o out"]


@torch.no_grad()
def _plain_walk(model: nn.Module, batch: CalibrationBatch, names: str, after: Callable) -> list[ActivationStats]:
    found: list[ActivationStats] = []
    dense = hidden = batch.hidden
    for index, layer in enumerate(architecture.decoder_layers(model)):
        target = _run(copy.deepcopy(layer), dense, batch, index)
        for name, edit in zip(names.split(), _recording_edits(names, found)):
            seen = _run(layer, hidden, batch, index)
            wanted = seen[name][..., :0]
            if edit.has_targets:
                stream = _stream_before(name, dense, target) + target[f"{name} out"]
                wanted = stream - _stream_before(name, hidden, seen)
            edit.apply(layer, ActivationStats.from_tokens(seen[name].flatten(0, 1), wanted.flatten(0, 1)))
        after(layer)
        dense, hidden = target["layer"], _run(layer, hidden, batch, index)["layer"]
    return found


@pytest.mark.parametrize("after", ["", "o", "down"], ids=lambda name: f"rounds {name or 'nothing'}")
@pytest.mark.parametrize("names", ["down", "o down", "q o gate down", "q gate", "gate down"])
def test_it_sees_what_a_walk_without_savings_sees(names: str, after: str) -> None:
    model = tiny_llava(layers=3)
    plain = copy.deepcopy(model)
    (whole,) = text_batches(model, token_ids(16), batch_size=16)

    def round_layer(layer: DecoderLayer) -> None:
        if after:
            _scale(LINEARS[after](layer))

    found: list[ActivationStats] = []
    callbacks = LayerCallbacks(after_edits=round_layer)
    run_layerwise(
        model, text_batches(model, token_ids(16), batch_size=5), _recording_edits(names, found), None, None, callbacks
    )
    wanted = _plain_walk(plain, whole, names, round_layer)
    assert len(found) == len(wanted) == 3 * len(names.split())
    for mine, theirs in zip(found, wanted):
        torch.testing.assert_close(mine.gram, mine.gram.T)
        for field in ("gram", "cross", "mean", "target_mean"):
            one, other = getattr(mine, field), getattr(theirs, field)
            scale = float(other.abs().max()) if other.numel() else 0.0
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * scale, msg=field)


def test_a_layer_runs_no_more_often_than_needed() -> None:
    """How often the attention and the MLP of the first, the second and the last layer run."""
    model = tiny_llava(layers=3)
    batches = text_batches(model, token_ids(16))
    ran: Counter[tuple[str, int]] = Counter()
    for index, layer in enumerate(architecture.decoder_layers(model)):
        for name, module in (("attention", layer.attention.k_proj), ("mlp", layer.mlp.act_fn)):
            module.register_forward_hook(lambda m, args, out, key=(name, index): ran.update([key]))
    prune_decoder_(model, [PruningStep("glu", 25)], batches)
    assert [ran["attention", index] / len(batches) for index in range(3)] == [1, 2, 2]
    assert [ran["mlp", index] / len(batches) for index in range(3)] == [2, 3, 2]
