"""Linears with the INT8 weights of bitsandbytes and torchao, multiplied by another kernel on a CPU or a GPU."""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn

from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.runtime.linear.fused import QuantizedFusedLinear


class BnbInt8Linear(QuantizedFusedLinear, bnb.nn.Linear8bitLt):
    """bitsandbytes' INT8 Linear."""

    @torch.no_grad()
    def release_weight(self) -> tuple[torch.Tensor, ...]:
        weight: Any = self.weight
        scale = self.state.SCB if weight.SCB is None else weight.SCB
        qweight = weight.data if self.state.CB is None else self.state.CB
        stand_in = torch.empty_like(qweight, device="meta")
        self.weight = bnb.nn.Int8Params(stand_in, requires_grad=False, has_fp16_weights=False, SCB=scale)
        self.state.CB = None
        return qweight, scale.float().to(qweight.device) / 127

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.qweight()


class TorchaoInt8Linear(QuantizedFusedLinear):
    """A Linear with torchao's INT8 weights."""

    @torch.no_grad()
    def release_weight(self) -> tuple[torch.Tensor, ...]:
        weight: Any = self.weight
        stand_in = torchao_tensors.make_int8(weight.qdata.to("meta"), weight)
        self.weight = nn.Parameter(stand_in, requires_grad=False)
        return weight.qdata, weight.scale.flatten()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = torchao_tensors.make_int8(self.qweight(), self.weight)
