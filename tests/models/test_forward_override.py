"""Laws of a forward that is replaced for a while: hooks still run, and nothing stays behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vlmcomp.models.forward_override import override_forward


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def _negated(x: torch.Tensor) -> torch.Tensor:
    return -x


def test_the_module_computes_the_override_and_then_its_own() -> None:
    module, other, x = nn.ReLU(), nn.ReLU(), torch.tensor([-1.0, 3.0])
    hooked: list[torch.Tensor] = []
    module.register_forward_hook(lambda module, args, output: hooked.append(output))
    with override_forward(module, _doubled):
        assert torch.equal(module(x), 2 * x) and torch.equal(hooked[-1], 2 * x)
        assert torch.equal(other(x), x.relu())  # the class is left alone
    assert torch.equal(module(x), x.relu()) and "forward" not in vars(module)


def test_an_exception_restores_it() -> None:
    module = nn.ReLU()
    with pytest.raises(ValueError, match="inside"), override_forward(module, _doubled):
        raise ValueError("inside")
    assert "forward" not in vars(module)


def test_overrides_nest_and_may_call_what_they_replace() -> None:
    module, x = nn.ReLU(), torch.tensor([-1.0, 3.0])
    module.forward = _negated  # set on the instance for good
    with override_forward(module, _doubled):
        inner = module.forward
        with override_forward(module, lambda x: inner(x) + 1):
            assert torch.equal(module(x), 2 * x + 1)
        assert torch.equal(module(x), 2 * x)
    assert torch.equal(module(x), -x)
