"""Greedy decoding at batch 1 over a static cache, without the per-token work of ``generate``; its step is captured."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import Cache, DynamicCache, GenerationConfig, PreTrainedModel

from vlmcomp import feedback
from vlmcomp.models import architecture
from vlmcomp.models.vlm import check_length
from vlmcomp.runtime.config import CAPTURE_AFTER_TOKENS, CAPTURED, COMPILED, GENERATE, STATIC
from vlmcomp.runtime.decode_mode import best_decode_mode, greedy_settings, supports_fast_decode
from vlmcomp.runtime.decode_step import DecodeStep, build_decode_step, cache_argument, has_argument
from vlmcomp.runtime.device import device_context

# Cache slots beyond the prompt. A CPU reads all of them for every token; the attention kernel of a GPU skips empty
# slots, and building another step costs more there.
_EXTRA_SLOTS = {"cpu": 128, "cuda": 256}
_SLOT_MULTIPLE = 64
_log = logging.getLogger(__name__)

TokenCallback = Callable[[int, float], None]  # of a token id and the time.perf_counter() at which it arrived


@torch.inference_mode()
def generate(model: PreTrainedModel, inputs: dict[str, torch.Tensor], **settings: Any) -> torch.Tensor:
    """Greedy token ids (B, T) by transformers' ``generate``, prompts included."""
    check_length(model, inputs, settings["max_new_tokens"])
    return model.generate(**inputs, **greedy_settings(model.generation_config) | settings)


class _TimingStreamer:
    """A transformers streamer that reports every new token with the time at which it reached the host."""

    def __init__(self, on_token: TokenCallback) -> None:
        self.on_token = on_token
        self.at_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self.at_prompt:
            self.at_prompt = False
            return
        for token in value.reshape(-1).tolist():
            self.on_token(token, time.perf_counter())

    def end(self) -> None:
        pass


# One answer at a time by model, whoever generates it: decoding hooks the model's modules and sets its attention.
_locks: weakref.WeakKeyDictionary[PreTrainedModel, threading.Lock] = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()


def _lock_of(model: PreTrainedModel) -> threading.Lock:
    with _locks_guard:
        return _locks.setdefault(model, threading.Lock())


class GreedyGenerator:
    """Greedy answers of one model, one at a time.

    The decode step is built for the longest sequence so far, and built and captured again when one is longer. The first
    capture comes before the first answer after ``capture_after_tokens`` decoded tokens.

    Args:
        model: a model that the settings of its ``generation_config`` apply to.
        mode: decode mode; default: the fastest one on the model's device. It falls back to ``generate`` where the
            model needs that, and to ``captured`` or ``static`` where a step cannot be compiled or captured.
        capture_after_tokens: tokens to decode before the step is captured.
    """

    def __init__(
        self, model: PreTrainedModel, mode: str | None = None, capture_after_tokens: int = CAPTURE_AFTER_TOKENS
    ) -> None:
        self.model = model
        self.mode = mode or best_decode_mode(model.device)
        if self.mode != GENERATE and not supports_fast_decode(model):
            self.mode = GENERATE
        self.capture_after_tokens = capture_after_tokens
        self.decoder = model.get_submodule(architecture.get_architecture(model).decoder)
        self.embed = model.get_input_embeddings()
        self.head = model.get_output_embeddings()
        last_logits_only: dict[str, Any] = {"logits_to_keep": 1} if has_argument(model, "logits_to_keep") else {}
        self._prefill_settings = last_logits_only | {"use_cache": True}
        self._cache_name = cache_argument(self.decoder)
        self.capture_seconds = 0.0
        self.tokens_decoded = 0
        self._step: DecodeStep | None = None
        self._lock = _lock_of(model)

    @torch.inference_mode()
    def generate(
        self,
        inputs: dict[str, torch.Tensor],
        max_new_tokens: int,
        min_new_tokens: int,
        on_token: TokenCallback,
        should_stop: Callable[[], bool] = lambda: False,
        vision_context: AbstractContextManager[None] | None = None,
    ) -> None:
        """Generate one answer.

        Args:
            inputs: the processor's tensors of one prompt.
            max_new_tokens: limit of new tokens.
            min_new_tokens: number of tokens before an end token is allowed.
            on_token: called with every new token and the time at which it arrived.
            should_stop: polled after every token; ends the answer early.
            vision_context: entered while this call has the model for itself.

        Raises:
            ValueError: the model's activations overflow, or it has no positions for so many tokens.
        """
        check_length(self.model, inputs, max_new_tokens)
        with self._lock, device_context(self.model.device), vision_context or nullcontext():
            decode = self._decode_by_library if self.mode == GENERATE else self._decode
            decode(inputs, max_new_tokens, min_new_tokens, on_token, should_stop)

    def _decode(
        self,
        inputs: dict[str, torch.Tensor],
        max_new_tokens: int,
        min_new_tokens: int,
        on_token: TokenCallback,
        should_stop: Callable[[], bool],
    ) -> None:
        logits, cache, position = self._prefill(inputs)
        if logits.isnan().any():
            self._step = None  # NaNs would stay in its cache
            raise ValueError(f"the model's numbers are out of the range of {self.embed.weight.dtype}: no answer")
        prompt_length = inputs["input_ids"].shape[1]
        end_ids = end_tokens(self.model.generation_config)
        end_index = torch.tensor(end_ids, dtype=torch.long, device=logits.device)
        step: DecodeStep | None = None
        for number in range(1, max_new_tokens + 1):
            if number <= min_new_tokens:
                logits.index_fill_(1, end_index, float("-inf"))
            choice = logits.argmax(-1, keepdim=True)
            ahead = False
            if step is not None and choice.is_cuda and number < max_new_tokens:
                token, logits = step.step_async(choice)
                ahead = True
            else:
                token = int(choice)
            on_token(token, time.perf_counter())
            if token in end_ids or number == max_new_tokens or should_stop():
                break
            if step is None:
                step = self._prepare_step(prompt_length + max_new_tokens, cache, token, position, prompt_length)
            if not ahead:
                logits = step.step(choice)
            self.tokens_decoded += 1

    def _decode_by_library(
        self,
        inputs: dict[str, torch.Tensor],
        max_new_tokens: int,
        min_new_tokens: int,
        on_token: TokenCallback,
        should_stop: Callable[[], bool],
    ) -> None:
        def stopping_criterion(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return torch.full((ids.shape[0],), should_stop(), device=ids.device)

        settings = {"min_new_tokens": min_new_tokens} if min_new_tokens else {}
        generate(
            self.model,
            inputs,
            max_new_tokens=max_new_tokens,
            streamer=_TimingStreamer(on_token),
            stopping_criteria=[stopping_criterion],
            **settings,
        )

    def _prefill(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Cache, torch.Tensor]:
        """Logits (1, vocabulary) after the prompt, its cache, and the position of the next token."""
        length = inputs["input_ids"].shape[1]
        last_position = torch.full((1, 1), length - 1, device=self.model.device)

        def record_position(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            nonlocal last_position
            if kwargs.get("position_ids") is not None:
                last_position = kwargs["position_ids"][..., -1:]

        cache = DynamicCache(config=self.model.config.get_text_config())
        settings = self._prefill_settings | {self._cache_name: cache}
        hooks = [
            self.decoder.register_forward_pre_hook(record_position, with_kwargs=True),
            self.head.register_forward_pre_hook(_clone_input),
        ]
        try:
            logits = self.model(**inputs, **settings).logits[:, -1]
        finally:
            for hook in hooks:
                hook.remove()
        return logits.float(), cache, last_position + 1

    def _prepare_step(
        self, num_slots: int, cache: Cache, token: int, position: torch.Tensor, prompt_length: int
    ) -> DecodeStep:
        """A step with at least ``num_slots`` slots, positioned behind the prompt, and captured if it is time."""
        step = self._step
        if step is None or step.mask.shape[-1] < num_slots:
            wanted = max(num_slots, prompt_length + _EXTRA_SLOTS[position.device.type])
            rounded_up = -(-wanted // _SLOT_MULTIPLE) * _SLOT_MULTIPLE
            step = self._step = build_decode_step(self.model, rounded_up, position)
        step.reset(cache, token, position, prompt_length)
        due = self.mode in (CAPTURED, COMPILED) and self.tokens_decoded >= self.capture_after_tokens
        if due and not step.captured:
            self._capture(step)
            step.reset(cache, token, position, prompt_length)
        return step

    def _capture(self, step: DecodeStep) -> None:
        """Capture ``step``; where that fails, log it once and fall back to the next simpler mode."""
        start = time.perf_counter()
        try:
            step.capture(compiled=self.mode == COMPILED)
        except Exception as error:  # every back-end raises its own type
            if feedback.is_out_of_memory(error):
                raise
            _log.warning("decoding goes on without a %s step: %s", self.mode, feedback.error_summary(error))
            self.mode = CAPTURED if self.mode == COMPILED else STATIC
        self.capture_seconds += time.perf_counter() - start


def _clone_input(head: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Copy of the last token's hidden state: PyTorch copies all of lm_head before it multiplies by a view."""
    return (args[0].clone(memory_format=torch.contiguous_format),)


def end_tokens(settings: GenerationConfig) -> list[int]:
    """Ids of the tokens that end an answer."""
    tokens = settings.eos_token_id
    if tokens is None:
        return []
    return list(tokens) if isinstance(tokens, list | tuple) else [tokens]
