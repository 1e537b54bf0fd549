"""Greedy decoding at batch 1 without what ``generate`` does between two tokens: a static cache and a captured step."""

from __future__ import annotations

import inspect
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from transformers import Cache, DynamicCache, GenerationConfig, PreTrainedModel, StaticCache, StaticLayer

from vlmcomp import feedback, hardware
from vlmcomp.feedback import first_line
from vlmcomp.models import architecture
from vlmcomp.runtime import attention
from vlmcomp.runtime.config import CAPTURE_AFTER_TOKENS, CAPTURED, COMPILED, GENERATE, STATIC
from vlmcomp.runtime.decode_step import Step
from vlmcomp.runtime.device import current
from vlmcomp.runtime.linear import gpu as gpu_linear

# Slots of a cache beyond the prompt. A CPU reads them all for every token; a GPU's kernel leaves out those that are
# empty, and a new step costs more there.
_ROOM, _ROOM_ON_CPU, _GRAIN = 256, 128, 64
_log = logging.getLogger(__name__)

Heard = Callable[[int, float], None]
# What the greedy choice must not depend on: with another value, ``generate`` decides.
_NEUTRAL = {
    "repetition_penalty": (None, 1.0),
    "encoder_repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "sequence_bias": (None,),
    "exponential_decay_length_penalty": (None,),
}


def best_decode_mode(device: torch.device) -> str:
    """The fastest mode on ``device`` that does not keep people waiting.

    Compiling takes seconds on a GPU, but minutes on a CPU; and a worker of ZeroGPU would do it anew for every visitor.
    """
    compiles = gpu_linear.available(device) and not hardware.on_zero_gpu(os.environ)
    return COMPILED if compiles else CAPTURED


def fits(model: PreTrainedModel) -> bool:
    """Whether ``model`` decodes here as ``generate`` would: plain greedy choices, attention by PyTorch's SDPA, and no
    window that a sequence could outgrow."""
    settings: GenerationConfig = model.generation_config
    text = model.config.get_text_config()
    plain = all(getattr(settings, name, None) in values for name, values in _NEUTRAL.items())
    return plain and text._attn_implementation == "sdpa" and not _windowed(text)


def _windowed(text: Any) -> bool:
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    return kinds != {"full_attention"}


@torch.inference_mode()
def generate(model: PreTrainedModel, inputs: dict[str, torch.Tensor], **settings: Any) -> torch.Tensor:
    """The library's own greedy answers to a batch: ids (B, T), prompts included."""
    return model.generate(**inputs, do_sample=False, num_beams=1, **settings)


class _Clock:
    """A transformers streamer that notes when each new token reaches the host."""

    def __init__(self, heard: Heard) -> None:
        self.heard, self.prompt = heard, True

    def put(self, value: torch.Tensor) -> None:
        if self.prompt:
            self.prompt = False
            return
        for token in value.reshape(-1).tolist():
            self.heard(token, time.perf_counter())

    def end(self) -> None:
        pass


class Decoder:
    """Answers of one model, one at a time. Its step is made for the longest sequence so far, and captured once more
    when one is longer; ``capture_seconds`` are those of all captures. The first is made before the answer that begins
    when ``patience`` tokens have been decoded."""

    def __init__(self, model: PreTrainedModel, way: str | None = None, patience: int = CAPTURE_AFTER_TOKENS) -> None:
        self.model, self.way, self.patience = model, way or best_decode_mode(model.device), patience
        if self.way != GENERATE and not fits(model):
            self.way = GENERATE
        self.inner = model.get_submodule(architecture.of(model).decoder)
        self.embed, self.head = model.get_input_embeddings(), model.get_output_embeddings()
        # transformers renames the argument in 5.24
        self._cache_name = "cache" if _takes(self.inner, "cache") else "past_key_values"
        self._settings: dict[str, Any] = {"logits_to_keep": 1} if _takes(model, "logits_to_keep") else {}
        self.capture_seconds, self.decoded = 0.0, 0
        self._step: Step | None = None
        self._lock = threading.Lock()

    @torch.inference_mode()
    def answer(
        self,
        inputs: dict[str, torch.Tensor],
        max_new_tokens: int,
        min_new_tokens: int,
        heard: Heard,
        stopped: Callable[[], bool] = lambda: False,
        seeing: AbstractContextManager[None] | None = None,
    ) -> None:
        """Tell ``heard`` every new token and when it was there; end early when ``stopped``. ``seeing`` is entered when
        nobody else asks the model.

        Raises:
            ValueError: what the model computes overflows.
        """
        with self._lock, current(self.model.device), seeing or nullcontext():
            if self.way == GENERATE:
                return self._generate(inputs, max_new_tokens, min_new_tokens, heard, stopped)
            logits, past, position = self._prefill(inputs)
            if logits.isnan().any():
                self._step = None  # what is no number would stay in its cache
                raise ValueError(f"the model's numbers are out of the range of {self.embed.weight.dtype}: no answer")
            length, step = inputs["input_ids"].shape[1], None
            ends = _ends(self.model.generation_config)
            places = torch.tensor(ends, dtype=torch.long, device=logits.device)
            for number in range(1, max_new_tokens + 1):
                if number <= min_new_tokens:
                    logits.index_fill_(1, places, float("-inf"))
                choice = logits.argmax(-1, keepdim=True)
                ahead = step is not None and number < max_new_tokens and choice.is_cuda
                token, logits = step.ahead(choice) if ahead else (int(choice), logits)
                heard(token, time.perf_counter())
                if token in ends or number == max_new_tokens or stopped():
                    break
                if step is None:
                    step = self._ready(length + max_new_tokens, past, token, position, length)
                if not ahead:
                    logits = step.next(choice)
                self.decoded += 1

    def _generate(
        self,
        inputs: dict[str, torch.Tensor],
        max_new_tokens: int,
        min_new_tokens: int,
        heard: Heard,
        stopped: Callable[[], bool],
    ) -> None:
        def halt(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return torch.full((ids.shape[0],), stopped(), device=ids.device)

        settings = {"min_new_tokens": min_new_tokens} if min_new_tokens else {}
        generate(
            self.model,
            inputs,
            max_new_tokens=max_new_tokens,
            streamer=_Clock(heard),
            stopping_criteria=[halt],
            **settings,
        )

    def _prefill(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Cache, torch.Tensor]:
        """Logits (1, vocabulary) after the prompt, its cache, and the position of the next token."""
        seen: dict[str, torch.Tensor] = {}

        def look(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if kwargs.get("position_ids") is not None:
                seen["last"] = kwargs["position_ids"][..., -1:]

        past = DynamicCache(config=self.model.config.get_text_config())
        settings = self._settings | {self._cache_name: past, "use_cache": True}
        hooks = [
            self.inner.register_forward_pre_hook(look, with_kwargs=True),
            self.head.register_forward_pre_hook(_alone),
        ]
        try:
            logits = self.model(**inputs, **settings).logits[:, -1]
        finally:
            for hook in hooks:
                hook.remove()
        last = seen.get("last", torch.full((1, 1), inputs["input_ids"].shape[1] - 1, device=self.model.device))
        return logits.float(), past, last + 1

    def _ready(self, needed: int, past: Cache, token: int, position: torch.Tensor, length: int) -> Step:
        """A step for ``needed`` slots that stands behind the prompt, captured when it is time."""
        step = self._step
        if step is None or step.mask.shape[-1] < needed:
            room = _ROOM_ON_CPU if position.device.type == "cpu" else _ROOM
            slots = -(-max(needed, length + room) // _GRAIN) * _GRAIN
            step = self._step = self._made(slots, position)
        step.begin(past, token, position, length)
        if self.way in (CAPTURED, COMPILED) and self.decoded >= self.patience and not step.captured:
            self._capture(step)
            step.begin(past, token, position, length)
        return step

    def _made(self, slots: int, position: torch.Tensor) -> Step:
        device, text = self.model.device, self.model.config.get_text_config()
        cache, place = StaticCache(config=text, max_cache_len=slots), _Place()
        for layer in cache.layers:
            layer.update = partial(place.write, layer)
        name, dtype = self._cache_name, self.embed.weight.dtype
        attending, scratch = attention.way(device, dtype), attention.Scratch()

        def run(token: torch.Tensor, position: torch.Tensor, slot: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            mask.index_fill_(3, slot, 0)
            place.slot = slot
            with attention.by(attending, text, scratch):
                hidden = self.inner(
                    inputs_embeds=self.embed(token),
                    position_ids=position,
                    attention_mask=mask,
                    use_cache=True,
                    **{name: cache},
                ).last_hidden_state
            position.add_(1)
            slot.add_(1)
            return self.head(hidden)[:, -1].float()

        return Step(
            cache,
            torch.zeros(1, 1, dtype=torch.long, device=device),
            torch.zeros_like(position),
            torch.zeros(1, dtype=torch.long, device=device),
            torch.zeros(1, 1, 1, slots, dtype=torch.float32 if attending == attention.WIDE else dtype, device=device),
            run,
            [layer.block for layer in architecture.layers(self.model)],
            dtype,
        )

    def _capture(self, step: Step) -> None:
        """Where a step cannot be compiled or captured, say so once and go on without."""
        start = time.perf_counter()
        try:
            step.capture(compiled=self.way == COMPILED)
        except Exception as error:  # every back-end refuses in its own way
            if feedback.out_of_memory(error):
                raise
            _log.warning("decoding goes on without a %s step: %s", self.way, first_line(error))
            self.way = CAPTURED if self.way == COMPILED else STATIC
        self.capture_seconds += time.perf_counter() - start


class _Place:
    """Where all layers of a static cache write one token, so that none need count on its own."""

    slot: torch.Tensor

    def write(
        self, layer: StaticLayer, keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's update."""
        layer.keys.index_copy_(2, self.slot, keys)
        layer.values.index_copy_(2, self.slot, values)
        return layer.keys, layer.values


def _alone(head: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """The last token's state in memory of its own: as part of its sequence's, PyTorch copies all of lm_head before it
    multiplies."""
    return (args[0].clone(memory_format=torch.contiguous_format),)


def _takes(module: torch.nn.Module, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters


def _ends(settings: GenerationConfig) -> list[int]:
    ends = settings.eos_token_id
    return [] if ends is None else list(ends) if isinstance(ends, list | tuple) else [ends]
