"""Plans the removal of attention heads: whole KV groups or, with few groups, as many query heads from every group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from vlmcomp.compression.pruning.plan import PruningPlan, num_kept, slice_linear
from vlmcomp.models import architecture
from vlmcomp.models.architecture import ArchitectureSpec, DecoderLayer
from vlmcomp.recipe import PruningStep

HEADS_CONFIG_KEY = "vlmcomp_heads"  # [query heads, KV groups] in a text config whose class has no explicit head width


def head_dim(text_config: PretrainedConfig) -> int:
    """Width of one head."""
    return getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads


def num_kept_heads(heads: int, groups: int, percent: int) -> tuple[int, int]:
    """The numbers of KV groups and of query heads in each that remain.

    Whole groups are removed, with their keys and values, unless removing the same number of query heads from every
    group comes nearer to the percentage: a model with one or two groups could lose nothing or half otherwise.

    Args:
        heads: query heads before pruning.
        groups: KV groups before pruning.
        percent: of the query heads to remove.

    Raises:
        ValueError: neither removes something and leaves something.
    """
    heads_per_group = heads // groups
    candidates = []
    for total, from_every_group in ((groups, False), (heads_per_group, True)):
        try:
            kept = num_kept(total, percent)
        except ValueError:
            continue
        deviation = abs(100 * (1 - kept / total) - percent)
        candidates.append((deviation, from_every_group, kept))
    if not candidates:
        smallest = 100 / max(groups, heads_per_group)
        raise ValueError(
            f"{percent} % of {heads} heads in {groups} KV groups rounds to no removal or leaves nothing: "
            f"the smallest step is {smallest:.3g} %"
        )
    _, from_every_group, kept = min(candidates)
    return (groups, kept) if from_every_group else (kept, heads_per_group)


@dataclass(frozen=True)
class _HeadCounts:
    """Of one layer, before and after pruning."""

    heads: int
    groups: int
    kept_groups: int
    kept_heads_per_group: int
    head_dim: int

    @property
    def heads_per_group(self) -> int:
        return self.heads // self.groups

    @property
    def kept_heads(self) -> int:
        return self.kept_groups * self.kept_heads_per_group

    @property
    def removes_groups(self) -> bool:
        """Whether whole KV groups are removed."""
        return self.kept_groups < self.groups


def plan_heads(model: PreTrainedModel, step: PruningStep | None) -> PruningPlan:
    """Remove ``step.percent`` percent of the heads of every layer as ``num_kept_heads`` rounds it.

    Args:
        model: its shapes are read.
        step: None plans no removal.

    Raises:
        ValueError: the percentage rounds to no removal or leaves nothing.
    """
    names = architecture.get_architecture(model)
    counts = _head_counts(model.config.get_text_config(), step)
    by_group = counts.removes_groups
    return PruningPlan(
        step=step,
        num_units=counts.groups if by_group else counts.heads,
        num_kept=counts.kept_groups if by_group else counts.kept_heads,
        unit="query heads a layer",
        heads_per_unit=counts.heads_per_group if by_group else 1,
        unit_width=counts.heads_per_group * counts.head_dim if by_group else counts.head_dim,
        num_groups=1 if by_group else counts.groups,
        consumer=lambda layer: layer.o_proj,
        producers=lambda layer: (),
        replace_consumer=lambda layer, linear: setattr(layer.attention, names.output, linear),
        narrow_producers=lambda layer, units: _narrow_attention(layer, units, counts),
        update_config=lambda text_config: _update_config(text_config, counts, names),
    )


def _head_counts(text_config: PretrainedConfig, step: PruningStep | None) -> _HeadCounts:
    heads = text_config.num_attention_heads
    groups = getattr(text_config, "num_key_value_heads", None) or heads
    kept_groups = groups
    heads_per_group = heads // groups
    if step:
        kept_groups, heads_per_group = num_kept_heads(heads, groups, step.percent)
    return _HeadCounts(heads, groups, kept_groups, heads_per_group, head_dim(text_config))


def _narrow_attention(layer: DecoderLayer, units: torch.Tensor, counts: _HeadCounts) -> None:
    """Slice the query Linear, and those of keys and values where whole groups are removed, to the given units."""
    names = layer.architecture
    dim = counts.head_dim
    query_width = counts.heads_per_group * dim if counts.removes_groups else dim
    kept_rows = {names.query: _unit_rows(units, query_width)}
    if counts.removes_groups:
        kept_rows |= {names.key: _unit_rows(units, dim), names.value: _unit_rows(units, dim)}
    for name, rows in kept_rows.items():
        setattr(layer.attention, name, slice_linear(getattr(layer.attention, name), kept_rows=rows))
    _set_head_counts(layer.attention, counts.kept_heads, counts.kept_groups)


def _update_config(text_config: PretrainedConfig, counts: _HeadCounts, names: ArchitectureSpec) -> None:
    if not names.explicit_head_dim:
        setattr(text_config, HEADS_CONFIG_KEY, [counts.kept_heads, counts.kept_groups])
        return
    text_config.num_attention_heads = counts.kept_heads
    if hasattr(text_config, "num_key_value_heads"):
        text_config.num_key_value_heads = counts.kept_groups
    text_config.head_dim = counts.head_dim


def _set_head_counts(attention: nn.Module, heads: int, groups: int) -> None:
    counts = {"num_heads": heads, "num_key_value_heads": groups, "num_key_value_groups": heads // groups}
    for name, value in counts.items():
        if hasattr(attention, name):
            setattr(attention, name, value)


def narrow_meta_attention(model: PreTrainedModel) -> None:
    """Narrow the attention of a model on the meta device to the head counts in its config (``HEADS_CONFIG_KEY``)."""
    names = architecture.get_architecture(model)
    text_config = model.config.get_text_config()
    heads, groups = getattr(text_config, HEADS_CONFIG_KEY)
    dim = head_dim(text_config)
    out_features = {names.query: heads * dim, names.key: groups * dim, names.value: groups * dim}
    for layer in architecture.decoder_layers(model):
        for name, width in out_features.items():
            _replace_meta_linear(layer.attention, name, out_features=width)
        _replace_meta_linear(layer.attention, names.output, in_features=heads * dim)
        _set_head_counts(layer.attention, heads, groups)


def _replace_meta_linear(
    attention: nn.Module, name: str, in_features: int | None = None, out_features: int | None = None
) -> None:
    """Replace a Linear by one of other widths on the same device; a width of None stays as it is."""
    old: nn.Linear = getattr(attention, name)
    new = nn.Linear(
        in_features or old.in_features,
        out_features or old.out_features,
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    setattr(attention, name, new)


def _unit_rows(units: torch.Tensor, width: int) -> torch.Tensor:
    """Row indices of units of ``width`` rows each."""
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()
