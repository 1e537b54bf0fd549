"""Optimizers of one training stage and their schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.training.muon import Muon

NamedParameters = Sequence[tuple[str, nn.Parameter]]
_FINAL_RATE = 0.02  # of the peak learning rate


def uses_16_bit(device: str) -> bool:
    return compute_dtype(device) != torch.float32


class Optimizers:
    """Muon for the hidden matrices, AdamW for the rest; one schedule: linear warm-up, then cosine to 2 %.

    Args:
        groups: named parameters and the peak learning rate of each group.
        steps: length of the schedule.
    """

    def __init__(self, groups: Iterable[tuple[NamedParameters, float]], steps: int) -> None:
        matrices: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for named, lr in groups:
            matrices.append({"params": [p for name, p in named if _is_hidden_matrix(name, p)], "lr": lr})
            others.append({"params": [p for name, p in named if not _is_hidden_matrix(name, p)], "lr": lr})
        self.parts: list[torch.optim.Optimizer] = []
        if any(group["params"] for group in matrices):
            device = matrices[0]["params"][0].device.type
            self.parts.append(Muon(matrices, dtype=torch.bfloat16 if uses_16_bit(device) else torch.float32))
        self.parts.append(torch.optim.AdamW(others, weight_decay=0.01, betas=(0.9, 0.98), fused=True))
        rate = _schedule(steps)
        self.schedules = [torch.optim.lr_scheduler.LambdaLR(part, rate) for part in self.parts]
        self.params = [p for part in self.parts for group in part.param_groups for p in group["params"]]

    def step(self, loss: torch.Tensor) -> None:
        """One optimizer step with gradients clipped to norm 1."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.params, 1.0)
        for optimizer, schedule in zip(self.parts, self.schedules):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dicts(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in (*self.parts, *self.schedules)]

    def load_state_dicts(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip((*self.parts, *self.schedules), states):
            part.load_state_dict(state)


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and "embed" not in name and "head" not in name


def _schedule(steps: int) -> Callable[[int], float]:
    """Learning rate of a step, relative to the peak."""
    warmup = min(100, max(1, steps // 10))

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        cosine = torch.cos(torch.tensor(torch.pi * progress)).item()
        return _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + cosine)

    return rate
