"""Fast replay of a traced graph of aten operators from Python.

A GraphModule calls each operator through ``torch.ops``, which takes longer than the arithmetic of one token. Tensor
methods call the same operators and parse their arguments in C++, in about half the time.
"""

from __future__ import annotations

import operator

import torch
from torch.fx import GraphModule, Node

_METHOD_NAMES = {"_unsafe_view": "view"}  # the two differ in autograd alone
_INT_LIST_METHODS = ("view", "expand", "permute")  # parse separate integers faster than a list
_END_OF_DIM = 2**62  # slices without an end have a larger one


def speed_up_replay_(traced: GraphModule) -> None:
    """Let ``traced`` call tensor methods where they compute the same, and read its constants without ``getattr``."""
    graph = traced.graph
    graph.eliminate_dead_code()  # before: a method that writes to its tensor would count as dead
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.alias.default):
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            _use_method_(node, node.target)
    for node in graph.find_nodes(op="get_attr"):
        # found in the instance, where a module searches its parameters and buffers only after that
        vars(traced)[node.target] = getattr(traced, node.target)
    traced.recompile()


def _use_method_(node: Node, overload: torch._ops.OpOverload) -> None:
    namespace, _, name = overload.name().partition("::")
    name = name.partition(".")[0]
    if namespace != "aten":
        return
    if overload is torch.ops.aten.slice.Tensor:
        _use_indexing_(node)
    elif overload is torch.ops.aten.cat.default:
        node.target = torch.cat
    elif overload._schema.arguments[0].name == "self":
        method = _METHOD_NAMES.get(name, name)
        if hasattr(torch.Tensor, method):
            node.op = "call_method"
            node.target = method
            if method in _INT_LIST_METHODS and len(node.args) == 2 and isinstance(node.args[1], list | tuple):
                node.args = (node.args[0], *node.args[1])


def _use_indexing_(node: Node) -> None:
    """``tensor[:, start:end]`` for a slice with a step of 1, which is no method of a tensor."""
    defaults = (None, 0, None, None, 1)
    tensor, dim, start, end, step = (*node.args, *defaults[len(node.args) :])
    if not isinstance(dim, int) or dim < 0 or step != 1:
        return
    if isinstance(end, int) and end > _END_OF_DIM:
        end = None
    node.target = operator.getitem
    node.args = (tensor, (*(slice(None),) * dim, slice(start, end)))
