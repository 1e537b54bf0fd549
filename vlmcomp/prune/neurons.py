"""Remove MLP neurons (GLU or FFN), the same number from every decoder layer."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vlmcomp import anatomy
from vlmcomp.calibrate import Tokens, walk
from vlmcomp.prune.importance import DEFAULT, SCORES
from vlmcomp.prune.reconstruct import least_squares
from vlmcomp.prune.surgery import kept_count, narrow, width_multiple
from vlmcomp.recipe import Step
from vlmcomp.report import Pruned
from vlmcomp.vlm import VLM


def width(vlm: VLM) -> int:
    """Neurons a layer."""
    return getattr(vlm.model.config.get_text_config(), anatomy.of(vlm.model).mlp_width)


def prune_neurons(
    vlm: VLM,
    step: Step,
    calibration: list[Tokens],
    *,
    score: str = DEFAULT,
    reconstruct: bool = True,
    progress: Callable[[float], None] | None = None,
) -> Pruned:
    """Narrow the decoder's MLPs in place by ``step.percent`` percent, rounded to ``width_multiple``.

    Layer by layer on the inputs that the already narrowed layers give: score, keep the best, re-solve the
    reading matrix (``reconstruct``), cut. ``text_config`` follows.

    Raises:
        ValueError: the percentage rounds to nothing removed or nothing left; no weight has been touched then.
    """
    total = width(vlm)
    kept = kept_count(total, step.percent, width_multiple(total))

    def cut(layer: anatomy.Layer, gram: torch.Tensor) -> None:
        down = layer.down
        keep = SCORES[score](down.weight, gram).topk(kept).indices.sort().values
        matrix = least_squares(down.weight, gram, keep) if reconstruct else down.weight[:, keep]
        for name in layer.anatomy.mlp_in:
            setattr(layer.mlp, name, narrow(getattr(layer.mlp, name), outputs=keep))
        setattr(layer.mlp, layer.anatomy.mlp_out, narrow(down, weight=matrix))
        if hasattr(layer.mlp, "intermediate_size"):
            layer.mlp.intermediate_size = kept

    walk(vlm, calibration, lambda layer: layer.down, cut, progress)
    setattr(vlm.model.config.get_text_config(), anatomy.of(vlm.model).mlp_width, kept)
    return Pruned(
        step=str(step),
        asked_percent=step.percent,
        real_percent=round(100 * (1 - kept / total), 2),
        kept=kept,
        of=total,
        unit="MLP neurons a layer",
        score=score + (" + least squares" if reconstruct else ""),
        calibration=f"{len(calibration)} samples, {sum(t.count for t in calibration)} tokens",
    )
