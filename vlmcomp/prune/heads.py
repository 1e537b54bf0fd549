"""Remove attention heads by whole KV groups, the same number from every decoder layer."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vlmcomp import anatomy
from vlmcomp.calibrate import Tokens, walk
from vlmcomp.prune.importance import DEFAULT, SCORES, by_group
from vlmcomp.prune.reconstruct import least_squares
from vlmcomp.prune.surgery import kept_count, narrow
from vlmcomp.recipe import Step
from vlmcomp.report import Pruned
from vlmcomp.vlm import VLM


def head_dim(vlm: VLM) -> int:
    text = vlm.model.config.get_text_config()
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def _rows(groups: torch.Tensor, size: int) -> torch.Tensor:
    """Row indices of the given runs of ``size`` rows each."""
    return (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()


def prune_heads(
    vlm: VLM,
    step: Step,
    calibration: list[Tokens],
    *,
    score: str = DEFAULT,
    reconstruct: bool = True,
    progress: Callable[[float], None] | None = None,
) -> Pruned:
    """Remove ``step.percent`` percent of the KV groups in place: a key-value head with its query heads.

    The units are o_proj's input columns, scored like neurons and summed by group; o_proj is re-solved over the
    kept heads. ``text_config`` gets the new counts and an explicit ``head_dim``.

    Raises:
        ValueError: the percentage rounds to no group removed or none left; no weight has been touched then.
    """
    text, dim = vlm.model.config.get_text_config(), head_dim(vlm)
    groups = text.num_key_value_heads
    queries = text.num_attention_heads // groups
    kept = kept_count(groups, step.percent)

    def cut(layer: anatomy.Layer, gram: torch.Tensor) -> None:
        names, output = layer.anatomy, layer.output
        importance = by_group(SCORES[score](output.weight, gram), groups)
        best = importance.topk(kept).indices.sort().values
        query_rows, key_rows = _rows(best, queries * dim), _rows(best, dim)
        matrix = least_squares(output.weight, gram, query_rows) if reconstruct else output.weight[:, query_rows]
        for name, rows in ((names.query, query_rows), (names.key, key_rows), (names.value, key_rows)):
            setattr(layer.attention, name, narrow(getattr(layer.attention, name), outputs=rows))
        setattr(layer.attention, names.output, narrow(output, weight=matrix))

    walk(vlm, calibration, lambda layer: layer.output, cut, progress)
    text.head_dim, text.num_attention_heads, text.num_key_value_heads = dim, kept * queries, kept
    return Pruned(
        step=str(step),
        asked_percent=step.percent,
        real_percent=round(100 * (1 - kept / groups), 2),
        kept=kept * queries,
        of=groups * queries,
        unit="query heads a layer",
        score=score + (" + least squares" if reconstruct else ""),
        calibration=f"{len(calibration)} samples, {sum(t.count for t in calibration)} tokens",
    )
