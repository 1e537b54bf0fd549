"""Regional compilation of a decoding step: one of the decoder's layers is compiled, and the others, which do the same
with other weights, call the same code. A layer takes seconds where all of them take minutes."""

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

_CODE: dict[str, Callable[..., Any]] = {}  # by what it computes, of which shapes


@contextmanager
def compiled(layers: Sequence[nn.Module]) -> Iterator[None]:
    """While this lasts ``layers`` compute as they did at their first call, with other tensors and compiled."""
    with ExitStack() as overrides:
        for layer in layers:
            overrides.enter_context(override_forward(layer, _Layer(layer.forward)))
        yield


class _Layer:
    """A layer's forward that traces itself when it is first called: all later calls must differ in tensors alone."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.run: Callable[..., Any] | None = None
        self.weights: list[torch.Tensor] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, form = pytree.tree_flatten((args, kwargs), is_leaf=lambda value: isinstance(value, Cache))
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        given = [leaves[place] for place in places]
        if self.run is None:

            def plain(*tensors: torch.Tensor) -> Any:
                for place, tensor in zip(places, tensors):
                    leaves[place] = tensor
                args, kwargs = pytree.tree_unflatten(leaves, form)
                return self.forward(*args, **kwargs)

            traced = make_fx(plain)(*given)
            self.weights = _lift(traced)
            self.run = _code(traced, [*given, *self.weights])
        return self.run(*given, *self.weights)


def _lift(traced: torch.fx.GraphModule) -> list[torch.Tensor]:
    """Make the tensors that ``traced`` holds, weights and caches, its last inputs, and return them. What lies in one
    place is one input: some of it is written to.

    Raises:
        RuntimeError: it holds something else, as FBGEMM's weights.
    """
    graph, lifted = traced.graph, {}
    after = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node in graph.find_nodes(op="get_attr"):
        held = getattr(traced, node.target)
        if not isinstance(held, torch.Tensor):
            raise RuntimeError(f"a layer holds a {type(held).__name__}, which no other layer's can stand for")
        plain = held.detach().as_subclass(torch.Tensor)  # bitsandbytes' parameters are tensors of a class of their own
        key = (plain.data_ptr(), plain.shape, plain.stride(), plain.dtype)
        if key not in lifted:
            with graph.inserting_after(after):
                after = graph.placeholder(f"lifted_{len(lifted)}")
            lifted[key] = plain, after
        node.replace_all_uses_with(lifted[key][1])
        graph.erase_node(node)
    for name in [name for name in (*traced._parameters, *traced._buffers, *vars(traced)) if _is_constant(name)]:
        delattr(traced, name)
    traced.recompile()
    return [tensor for tensor, _ in lifted.values()]


def _is_constant(name: str) -> bool:
    return name.startswith(("_tensor_constant", "_param_constant"))


def _code(traced: torch.fx.GraphModule, tensors: Sequence[torch.Tensor]) -> Callable[..., Any]:
    shapes = [(tuple(t.shape), t.stride(), t.dtype, str(t.device)) for t in tensors]
    key = f"{traced.code}\n{shapes}"
    if key not in _CODE:
        _CODE[key] = torch.compile(traced, fullgraph=True, dynamic=False)
    return _CODE[key]
