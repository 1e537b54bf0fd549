"""One decoding step of a model over a static cache, and its capture: a CUDA graph on a GPU, TorchScript of its aten
operators on a CPU; or compiled before, on a GPU layer by layer.

A captured step runs without the Python of the modules, which is most of the time of a small model, or of a large one on
a fast GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import Cache, PreTrainedModel, StaticCache, StaticLayer

from vlmcomp.models import architecture
from vlmcomp.runtime import attention, regional_compile
from vlmcomp.runtime.device import capture_cuda_graph, has_host_sync
from vlmcomp.runtime.fx_replay import speed_up_replay_
from vlmcomp.runtime.torchscript import as_torchscript

# Relative difference of the logits that another order of summation may cause: in float32, and in 16 bits.
_TOLERANCE = 1e-3
_TOLERANCE_16_BIT = 0.03


@dataclass
class DecodeStep:
    """The decoder's forward pass for one token, on tensors whose memory stays the same.

    Attributes:
        cache: static cache of the decoder.
        token: (1, 1) id of the token.
        position: (..., 1, 1) position ids as the decoder expects them.
        slot: (1) index of the cache slot that the token is written to.
        mask: (1, 1, 1, slots) attention mask, 0 where a slot is filled, else minus infinity.
        forward_fn: (token, position, slot, mask) -> logits (1, vocabulary); advances the last three.
        layers: decoder layers that ``forward_fn`` calls.
        dtype: of their activations.
        captured: ``forward_fn`` is a captured one.
    """

    cache: Cache
    token: torch.Tensor
    position: torch.Tensor
    slot: torch.Tensor
    mask: torch.Tensor
    forward_fn: Callable[..., torch.Tensor]
    layers: Sequence[nn.Module]
    dtype: torch.dtype
    captured: bool = False

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Arguments of ``forward_fn``."""
        return self.token, self.position, self.slot, self.mask

    def reset(self, prompt_cache: Cache, token: int, position: torch.Tensor, prompt_length: int) -> None:
        """Start behind a prompt of ``prompt_length`` tokens, whose keys and values are copied."""
        for own, prompt in zip(self.cache.layers, prompt_cache.layers):
            if not own.is_initialized:
                own.lazy_initialization(prompt.keys, prompt.values)
            own.keys[:, :, :prompt_length].copy_(prompt.keys)
            own.values[:, :, :prompt_length].copy_(prompt.values)
            own.cumulative_length = self.slot
        self.token.fill_(token)
        self.position.copy_(position)
        self.slot.fill_(prompt_length)
        self.mask.fill_(float("-inf"))[..., :prompt_length] = 0

    def step(self, choice: torch.Tensor) -> torch.Tensor:
        """Logits (1, vocabulary) after the token ``choice`` (1, 1)."""
        self.token.copy_(choice)
        return self.forward_fn(*self.tensors())

    def step_async(self, choice: torch.Tensor) -> tuple[int, torch.Tensor]:
        """The token ``choice`` on the host, and the logits after it, which the GPU already computes meanwhile."""
        on_host = torch.empty(1, 1, dtype=torch.long, pin_memory=True)
        on_host.copy_(choice, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        logits = self.step(choice)
        copied.synchronize()
        return int(on_host), logits

    def capture(self, compiled: bool = False) -> None:
        """Replace ``forward_fn`` by a captured one; the step must be reset afterwards.

        Args:
            compiled: compile it with ``torch.compile`` before.

        Raises:
            Exception: whatever the back-end raises; ``forward_fn`` is then unchanged.
        """
        eager = self.forward_fn
        start = [tensor.clone() for tensor in self.tensors()]
        try:
            expected = eager(*self.tensors())
            self.restore(start)
            self.forward_fn = self._captured_on_gpu(compiled) if self.token.is_cuda else self._captured_on_cpu(compiled)
            self.restore(start)
            tolerance = _TOLERANCE if self.dtype == torch.float32 else _TOLERANCE_16_BIT
            if not (self.forward_fn(*self.tensors()) - expected).norm() <= tolerance * expected.norm():
                raise RuntimeError("the captured step gives other logits")
            self.captured = True
        except Exception:
            self.forward_fn = eager
            raise

    def _captured_on_gpu(self, compiled: bool) -> Callable[..., torch.Tensor]:
        if any(map(has_host_sync, self.layers)):
            raise RuntimeError("bitsandbytes' LLM.int8() waits for the host")
        with regional_compile.compile_repeated_layers(self.layers if compiled else ()):
            return _as_cuda_graph(self)

    def _captured_on_cpu(self, compiled: bool) -> Callable[..., torch.Tensor]:
        return _compiled(self) if compiled else _as_aten_graph(self)

    def restore(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy an earlier state back into ``tensors()``."""
        for current, earlier in zip(self.tensors(), tensors):
            current.copy_(earlier)


def build_decode_step(model: PreTrainedModel, num_slots: int, position: torch.Tensor) -> DecodeStep:
    """An eager step of ``model`` with a static cache of ``num_slots`` tokens.

    Args:
        model: whose decoder runs; its attention implementation is replaced inside the step.
        num_slots: prompt and new tokens that fit.
        position: position ids of one token, as an example of their shape.
    """
    device = model.device
    text_config = model.config.get_text_config()
    decoder = model.get_submodule(architecture.get_architecture(model).decoder)
    embed = model.get_input_embeddings()
    head = model.get_output_embeddings()
    static_cache = StaticCache(config=text_config, max_cache_len=num_slots)
    writer = _SlotWriter()
    for layer in static_cache.layers:
        layer.update = partial(writer.write, layer)
    dtype = embed.weight.dtype
    attention_name = attention.select_attention(device, dtype)
    buffer = attention.Float32KVBuffer()
    settings: dict[str, Any] = {"use_cache": True, cache_argument(decoder): static_cache}

    def forward(token: torch.Tensor, position: torch.Tensor, slot: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        mask.index_fill_(3, slot, 0)
        writer.slot = slot
        with attention.use_attention(attention_name, text_config, buffer):
            output = decoder(inputs_embeds=embed(token), position_ids=position, attention_mask=mask, **settings)
        position.add_(1)
        slot.add_(1)
        return head(output.last_hidden_state)[:, -1].float()

    mask_dtype = torch.float32 if attention_name == attention.FLOAT32 else dtype
    return DecodeStep(
        cache=static_cache,
        token=torch.zeros(1, 1, dtype=torch.long, device=device),
        position=torch.zeros_like(position),
        slot=torch.zeros(1, dtype=torch.long, device=device),
        mask=torch.zeros(1, 1, 1, num_slots, dtype=mask_dtype, device=device),
        forward_fn=forward,
        layers=[layer.block for layer in architecture.decoder_layers(model)],
        dtype=dtype,
    )


class _SlotWriter:
    """Writes one token's keys and values to the same slot of all layers of a static cache."""

    slot: torch.Tensor

    def write(
        self, layer: StaticLayer, keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Replacement of ``StaticLayer.update``, which would count the tokens of each layer."""
        layer.keys.index_copy_(2, self.slot, keys)
        layer.values.index_copy_(2, self.slot, values)
        return layer.keys, layer.values


def cache_argument(decoder: nn.Module) -> str:
    """Name of the cache among the arguments of ``decoder``, which transformers renames in 5.24."""
    return "cache" if has_argument(decoder, "cache") else "past_key_values"


def has_argument(module: nn.Module, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters


def _as_cuda_graph(step: DecodeStep) -> Callable[..., torch.Tensor]:
    """A CUDA graph that reads and writes the step's own tensors."""
    replay, logits = capture_cuda_graph(lambda: step.forward_fn(*step.tensors()))

    def replay_step(*tensors: torch.Tensor) -> torch.Tensor:
        replay()
        return logits

    return replay_step


def _trace(step: DecodeStep) -> torch.fx.GraphModule:
    forward_fn = step.forward_fn
    return make_fx(lambda *tensors: forward_fn(*tensors))(*step.tensors())


def _compiled(step: DecodeStep) -> Callable[..., torch.Tensor]:
    """The step's aten operators compiled by Inductor, which needs a C++ compiler.

    Compiling the modules themselves would take several times as long and check many guards for every token.
    """
    compiled = torch.compile(_trace(step), fullgraph=True, dynamic=False)
    compiled(*step.tensors())
    return compiled


def _as_aten_graph(step: DecodeStep) -> Callable[..., torch.Tensor]:
    """The step's aten operators without the modules around them: as TorchScript, else as a Python function of FX."""
    traced = _trace(step)
    scripted = as_torchscript(traced, step.tensors())
    if scripted is not None:
        return scripted
    speed_up_replay_(traced)
    return traced
