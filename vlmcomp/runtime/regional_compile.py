"""Regional compilation of a decoding step: one decoder layer is compiled, and the others run the same code.

A layer compiles in seconds, where all of them take minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from transformers import Cache

from vlmcomp.models.forward_override import override_forward

_COMPILED: dict[str, Callable[..., Any]] = {}  # by code and shapes


@contextmanager
def compile_repeated_layers(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Inside the context ``layers`` run compiled; all calls of a layer must differ in tensors alone."""
    with ExitStack() as overrides:
        for layer in layers:
            overrides.enter_context(override_forward(layer, _CompiledForward(layer.forward)))
        yield


class _CompiledForward:
    """A layer's forward, traced at its first call with weights and caches as inputs, and compiled."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.compiled: Callable[..., Any] | None = None
        self.lifted: list[torch.Tensor] = []  # weights and caches

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, tree = pytree.tree_flatten((args, kwargs), is_leaf=lambda value: isinstance(value, Cache))
        indices = [index for index, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        tensors = [leaves[index] for index in indices]
        if self.compiled is None:

            def forward_of_tensors(*tensors: torch.Tensor) -> Any:
                for index, tensor in zip(indices, tensors):
                    leaves[index] = tensor
                args, kwargs = pytree.tree_unflatten(leaves, tree)
                return self.forward(*args, **kwargs)

            traced = make_fx(forward_of_tensors)(*tensors)
            self.lifted = _lift_constants_(traced)
            self.compiled = _compile_once(traced, [*tensors, *self.lifted])
        return self.compiled(*tensors, *self.lifted)


def _lift_constants_(traced: torch.fx.GraphModule) -> list[torch.Tensor]:
    """Make the tensors that ``traced`` contains, weights and caches, its last inputs, and return them.

    Tensors in the same memory become one input, since some are written to.

    Raises:
        RuntimeError: it contains another object, such as FBGEMM's packed weights.
    """
    graph = traced.graph
    lifted: dict[tuple[Any, ...], tuple[torch.Tensor, torch.fx.Node]] = {}
    last_input = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node in graph.find_nodes(op="get_attr"):
        constant = getattr(traced, node.target)
        if not isinstance(constant, torch.Tensor):
            raise RuntimeError(f"a layer contains a {type(constant).__name__}, which cannot be an input")
        tensor = constant.detach().as_subclass(torch.Tensor)  # bitsandbytes' parameters have a class of their own
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in lifted:
            with graph.inserting_after(last_input):
                last_input = graph.placeholder(f"lifted_{len(lifted)}")
            lifted[key] = tensor, last_input
        node.replace_all_uses_with(lifted[key][1])
        graph.erase_node(node)
    names = (*traced._parameters, *traced._buffers, *vars(traced))
    for name in [name for name in names if name.startswith(("_tensor_constant", "_param_constant"))]:
        delattr(traced, name)
    traced.recompile()
    return [tensor for tensor, _ in lifted.values()]


def _compile_once(traced: torch.fx.GraphModule, tensors: Sequence[torch.Tensor]) -> Callable[..., Any]:
    """``traced`` compiled, or what an equal graph was compiled to for tensors of the same shapes."""
    shapes = [(tuple(t.shape), t.stride(), t.dtype, str(t.device)) for t in tensors]
    key = f"{traced.code}\n{shapes}"
    if key not in _COMPILED:
        _COMPILED[key] = torch.compile(traced, fullgraph=True, dynamic=False)
    return _COMPILED[key]
