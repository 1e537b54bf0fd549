"""One decoding step of a model, captured: a CUDA graph on a GPU, TorchScript of its aten operators on a CPU; or
compiled before, on a GPU layer by layer.

Both spare the Python of the modules, which is most of the time of a small model, or of a large one on a fast GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import Cache

from vlmcomp.runtime import regional_compile
from vlmcomp.runtime.device import graphed, waits_for_host
from vlmcomp.runtime.linear import cpu_dense, fused

_SCRIPTS = {  # the operator: who calls it with tensors alone, and where among its arguments they are
    torch.ops.onednn.qlinear_pointwise.default: (fused.multiply, (0, 3, 4, 5)),
    torch.ops.mkldnn._linear_pointwise.default: (cpu_dense.multiply, (0, 1, 2)),
}


@dataclass
class Step:
    """One token on its way through the decoder, in tensors that keep their place.

    ``token`` (1, 1), ``position`` (..., 1, 1) as the decoder takes it, ``slot`` (1) of the cache that it is written to,
    ``mask`` (1, 1, 1, slots): 0 where a slot is filled, else minus infinity.
    """

    cache: Cache
    token: torch.Tensor
    position: torch.Tensor
    slot: torch.Tensor
    mask: torch.Tensor
    run: Callable[..., torch.Tensor]  # logits (1, vocabulary)
    layers: Sequence[nn.Module]  # of the decoder, which ``run`` calls
    dtype: torch.dtype  # that they compute in
    captured: bool = False

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.token, self.position, self.slot, self.mask

    def begin(self, past: Cache, token: int, position: torch.Tensor, length: int) -> None:
        """Stand where the prompt of ``length`` tokens ends."""
        for mine, theirs in zip(self.cache.layers, past.layers):
            if not mine.is_initialized:
                mine.lazy_initialization(theirs.keys, theirs.values)
            mine.keys[:, :, :length].copy_(theirs.keys)
            mine.values[:, :, :length].copy_(theirs.values)
            mine.cumulative_length = self.slot
        self.token.fill_(token)
        self.position.copy_(position)
        self.slot.fill_(length)
        self.mask.fill_(float("-inf"))[..., :length] = 0

    def next(self, choice: torch.Tensor) -> torch.Tensor:
        """The logits after ``choice`` (1, 1)."""
        self.token.copy_(choice)
        return self.run(*self.tensors())

    def ahead(self, choice: torch.Tensor) -> tuple[int, torch.Tensor]:
        """``choice`` for the host, and ``next`` of it, which a GPU has begun when the host hears of the choice."""
        heard = torch.empty(1, 1, dtype=torch.long, pin_memory=True)
        heard.copy_(choice, non_blocking=True)
        there = torch.cuda.Event()
        there.record()
        logits = self.next(choice)
        there.synchronize()
        return int(heard), logits

    def capture(self, compiled: bool = False) -> None:
        """From now on ``run`` goes without the modules' Python, and, ``compiled``, with kernels made for it by
        ``torch.compile``; where the step stands is then unknown.

        Raises:
            Exception: whatever the back-end refuses with; ``run`` is as it was.
        """
        plain, start = self.run, [tensor.clone() for tensor in self.tensors()]
        try:
            wanted = plain(*self.tensors())
            self._return(start)
            if self.token.is_cuda:
                if any(map(waits_for_host, self.layers)):
                    raise RuntimeError("bitsandbytes' LLM.int8() waits for the host")
                with regional_compile.compiled(self.layers if compiled else ()):
                    self.run = _as_graph(self)
            else:
                self.run = _compiled(self) if compiled else _as_script(self)
            self._return(start)
            near = 1e-3 if self.dtype == torch.float32 else 0.03  # of what rounding in another order may change
            if not (self.run(*self.tensors()) - wanted).norm() <= near * wanted.norm():
                raise RuntimeError("the captured step gives other logits")
            self.captured = True
        except Exception:
            self.run = plain
            raise

    def _return(self, start: list[torch.Tensor]) -> None:
        for tensor, was in zip(self.tensors(), start):
            tensor.copy_(was)


def _as_graph(step: Step) -> Callable[..., torch.Tensor]:
    """A CUDA graph that reads and writes the step's own tensors."""
    replay, logits = graphed(lambda: step.run(*step.tensors()))

    def again(*tensors: torch.Tensor) -> torch.Tensor:
        replay()
        return logits

    return again


def _traced(step: Step) -> torch.fx.GraphModule:
    run = step.run
    return make_fx(lambda *tensors: run(*tensors))(*step.tensors())


def _compiled(step: Step) -> Callable[..., torch.Tensor]:
    """The step's aten operators through Inductor, which needs a C++ compiler. The operators, since compiling the
    modules themselves takes several times as long and checks much for every token."""
    compiled = torch.compile(_traced(step), fullgraph=True, dynamic=False)
    compiled(*step.tensors())
    return compiled


def _as_script(step: Step) -> Callable[..., torch.Tensor]:
    """The step's aten operators as TorchScript, or as FX's Python where TorchScript cannot hold them."""
    traced = _traced(step)
    _script_onednn(traced)
    with warnings.catch_warnings(), suppress(RuntimeError):
        warnings.simplefilter("ignore")
        return torch.jit.trace(traced, step.tensors(), check_trace=False)
    return traced


def _script_onednn(traced: torch.fx.GraphModule) -> None:
    """Let oneDNN's products be called as scripts: PyTorch cannot trace an argument of those operators, a list that may
    hold nothing."""
    for operator, (product, places) in _SCRIPTS.items():
        for node in traced.graph.find_nodes(op="call_function", target=operator):
            node.target, node.args = _script(product), tuple(node.args[place] for place in places)
    traced.recompile()


@cache
def _script(product: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    scripted = torch.jit.script(product)

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        return scripted(*tensors)

    return call
