"""A traced graph of aten operators as TorchScript, which runs it without Python.

PyTorch deprecates TorchScript since 2.10. It stays the first choice on a CPU as long as no maintained replacement is as
fast without a compiler. Replaying the same graph from Python (``fx_replay``, the fallback) takes 1.3 to 2.3 times as
long on the bundled models. ``torch.export`` offers such a replay too, AOTInductor, which needs a C++ compiler on
the user's machine, or the runtime nativert, which PyTorch 2.13 cannot construct from Python.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch.fx import GraphModule

from vlmcomp import private_ops

# TorchScript cannot trace an argument of these operators, a list that may hold None. By operator: a function that calls
# it with tensors alone, and where these are among the operator's arguments.
_SCRIPTED_OPERATORS: dict[torch._ops.OpOverload, tuple[Callable[..., torch.Tensor], tuple[int, ...]]] = {
    torch.ops.onednn.qlinear_pointwise.default: (private_ops.onednn_int8_linear, (0, 3, 4, 5)),
    torch.ops.mkldnn._linear_pointwise.default: (private_ops.onednn_linear, (0, 1, 2)),
}


def as_torchscript(traced: GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., torch.Tensor] | None:
    """TorchScript of ``traced``, or None where TorchScript cannot represent its operators or is gone.

    Args:
        traced: a graph of aten operators; stays callable.
        inputs: example inputs; the graph may write to them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the deprecation
        try:
            _script_operators_(traced)
            return torch.jit.trace(traced, tuple(inputs), check_trace=False)
        except (RuntimeError, AttributeError):
            return None


def _script_operators_(traced: GraphModule) -> None:
    for operator, (function, positions) in _SCRIPTED_OPERATORS.items():
        for node in traced.graph.find_nodes(op="call_function", target=operator):
            node.target = _scripted(function)
            node.args = tuple(node.args[position] for position in positions)
    traced.recompile()


@cache
def _scripted(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    script = torch.jit.script(function)

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        return script(*tensors)

    return call
