"""Laws of a replayed graph: the same values as the traced function, for other inputs too, writes included."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from vlmcomp.runtime.fx_replay import speed_up_replay_

WEIGHT = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


def _linear(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x, WEIGHT).view(2, -1, 4).transpose(1, 2)


def _slices(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:, 1:3], x[..., 2:], x[:1].expand(2, 6), -x[:, ::2]], -1)


def _norm(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) + torch.nn.functional.silu(x).softmax(-1)


def _writes(x: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(3, 6)
    total.index_copy_(0, torch.tensor([2, 0]), x)
    total[1].add_(x[0], alpha=0.5)
    x.mul_(2)
    return total.to(torch.bfloat16)


@pytest.mark.parametrize("function", [_linear, _slices, _norm, _writes])
def test_it_computes_what_was_traced(function) -> None:
    first, second = torch.randn(2, 2, 6)
    with torch.inference_mode():
        traced = make_fx(function)(first.clone())
        speed_up_replay_(traced)
        for x in (first, second):
            own, expected_input = x.clone(), x.clone()
            found, expected = traced(own), function(expected_input)
            assert torch.equal(found, expected) and torch.equal(own, expected_input)


def test_few_operators_are_called_through_torch_ops() -> None:
    traced = make_fx(_linear)(torch.randn(2, 6))
    speed_up_replay_(traced)
    assert not any(isinstance(node.target, torch._ops.OpOverload) for node in traced.graph.nodes)
