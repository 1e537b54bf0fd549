"""Laws of a step captured on a CPU: TorchScript holds it, and FX replays it where TorchScript cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from tests.support.choices import assert_same, decoded, plain
from vlmcomp.runtime import decode_step
from vlmcomp.runtime.config import CAPTURED
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.generation import GreedyGenerator
from vlmcomp.runtime.torchscript import as_torchscript

TOKENS = 12
RECIPES = ["llava-shapes/fp16", "llava-shapes/int8", "qwen2-vl-shapes/fp16"]


def _writes(x: torch.Tensor) -> torch.Tensor:
    x.mul_(2)
    return x.sum(-1)


def test_a_traced_graph_gives_the_same_values_and_writes() -> None:
    first, second = torch.randn(2, 3, 4)
    scripted = as_torchscript(make_fx(_writes)(first.clone()), [first.clone()])
    assert scripted is not None
    own, expected_input = second.clone(), second.clone()
    assert torch.equal(scripted(own), _writes(expected_input)) and torch.equal(own, expected_input)


@pytest.mark.parametrize("scripted", [True, False])
@pytest.mark.parametrize("recipe", RECIPES)
def test_both_graphs_give_the_tokens_of_generate(
    recipe: str, scripted: bool, built: Callable, samples: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = built(recipe)
    Engine(vlm)  # selects kernels: bitsandbytes' own INT8 product cannot be traced
    made: list[bool] = []

    def note(traced: torch.fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> Callable | None:
        found = as_torchscript(traced, inputs) if scripted else None
        made.append(found is not None)
        return found

    monkeypatch.setattr(decode_step, "as_torchscript", note)
    generator = GreedyGenerator(vlm.model, CAPTURED, capture_after_tokens=0)
    inputs = vlm.encode([samples[0][0]], [samples[0][1]])
    assert_same(vlm, inputs, decoded(generator, inputs, TOKENS, TOKENS), plain(vlm, inputs, TOKENS, TOKENS))
    assert generator.mode == CAPTURED and made == [scripted]
