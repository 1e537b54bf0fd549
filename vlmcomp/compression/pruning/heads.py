"""Attention heads: whole KV groups or, where these are too few, as many query heads from every group."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from vlmcomp.compression.pruning.plan import Plan, kept_count, narrow
from vlmcomp.models import architecture
from vlmcomp.models.architecture import Layer
from vlmcomp.recipe import Step

KEPT = "vlmcomp_heads"  # in a text config whose class cannot name them: the query heads and KV groups that are left


def head_dim(text: PretrainedConfig) -> int:
    """Width of one head."""
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def kept_heads(heads: int, groups: int, percent: int) -> tuple[int, int]:
    """How many KV groups stay, and how many query heads in each, when ``percent`` of the heads are to go.

    Whole groups go, with their keys and values, unless taking the same number of query heads from every group
    comes nearer to the percentage: a model with one or two groups could lose nothing or half otherwise.

    Raises:
        ValueError: neither way removes something and leaves something.
    """
    queries, ways = heads // groups, []
    for total, whole in ((groups, True), (queries, False)):
        try:
            kept = kept_count(total, percent)
        except ValueError:
            continue
        ways.append((abs(100 * (1 - kept / total) - percent), not whole, kept))
    if not ways:
        least = 100 / max(groups, queries)
        raise ValueError(
            f"{percent} % of {heads} heads in {groups} KV groups rounds to no removal or leaves nothing: "
            f"the smallest step is {least:.3g} %"
        )
    _, within, kept = min(ways)
    return (groups, kept) if within else (kept, queries)


def plan(model: PreTrainedModel, step: Step | None) -> Plan:
    """Remove ``step.percent`` percent of the heads of every layer, as ``kept_heads`` says; without a step, none.

    Raises:
        ValueError: the percentage rounds to nothing removed or nothing left.
    """
    names, text = architecture.of(model), model.config.get_text_config()
    heads, dim = text.num_attention_heads, head_dim(text)
    groups = getattr(text, "num_key_value_heads", None) or heads
    queries = heads // groups
    groups_left, queries_left = kept_heads(heads, groups, step.percent) if step else (groups, queries)
    whole = groups_left < groups

    def replace(layer: Layer, linear: nn.Linear) -> None:
        setattr(layer.attention, names.output, linear)

    def shrink(layer: Layer, units: torch.Tensor) -> None:
        size = queries * dim if whole else dim
        cuts = [(names.query, _rows(units, size))]
        cuts += [(names.key, _rows(units, dim)), (names.value, _rows(units, dim))] if whole else []
        for name, rows in cuts:
            setattr(layer.attention, name, narrow(getattr(layer.attention, name), outputs=rows))
        _count(layer.attention, groups_left * queries_left, groups_left)

    def settle(text: PretrainedConfig) -> None:
        if not names.any_heads:
            setattr(text, KEPT, [groups_left * queries_left, groups_left])
            return
        text.num_attention_heads = groups_left * queries_left
        if hasattr(text, "num_key_value_heads"):
            text.num_key_value_heads = groups_left
        text.head_dim = dim

    return Plan(
        step=step,
        total=groups if whole else heads,
        kept=groups_left if whole else groups * queries_left,
        unit="query heads a layer",
        each=queries if whole else 1,
        size=queries * dim if whole else dim,
        runs=1 if whole else groups,
        reader=lambda layer: layer.output,
        writers=lambda layer: (),
        replace=replace,
        shrink=shrink,
        settle=settle,
    )


def _count(attention: nn.Module, heads: int, groups: int) -> None:
    counts = {"num_heads": heads, "num_key_value_heads": groups, "num_key_value_groups": heads // groups}
    for name, value in counts.items():
        if hasattr(attention, name):
            setattr(attention, name, value)


def fit(model: PreTrainedModel) -> None:
    """Give a model without weights (on the meta device) the narrow attention that ``KEPT`` in its config tells of."""
    names, text = architecture.of(model), model.config.get_text_config()
    (heads, groups), dim = getattr(text, KEPT), head_dim(text)
    for layer in architecture.layers(model):
        widths = {names.query: heads * dim, names.key: groups * dim, names.value: groups * dim}
        for name, linear in ((name, getattr(layer.attention, name)) for name in (*widths, names.output)):
            inputs, outputs = linear.in_features, linear.out_features
            shape = (heads * dim, outputs) if name == names.output else (inputs, widths[name])
            bias, like = linear.bias is not None, linear.weight
            setattr(layer.attention, name, nn.Linear(*shape, bias=bias, device=like.device, dtype=like.dtype))
        _count(layer.attention, heads, groups)


def _rows(units: torch.Tensor, size: int) -> torch.Tensor:
    """Row indices of the given runs of ``size`` rows each."""
    return (units[:, None] * size + torch.arange(size, device=units.device)).flatten()
