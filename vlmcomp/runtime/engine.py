"""Inference with a compressed VLM: an image and a question in, an Answer out, whole or streamed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from PIL import Image

from vlmcomp.models.vlm import VLM
from vlmcomp.results.answer import Answer
from vlmcomp.runtime import generation
from vlmcomp.runtime.config import AUTO, RuntimeConfig
from vlmcomp.runtime.device import device_context, synchronize
from vlmcomp.runtime.generation import GreedyGenerator, TokenCallback
from vlmcomp.runtime.linear import dispatch
from vlmcomp.runtime.vision_cache import VisionCache
from vlmcomp.runtime.vision_tower import use_vision_cache


@dataclass(frozen=True)
class RuntimeSummary:
    """How an engine computes, as stated in reports.

    Attributes:
        decode: the decode mode in use.
        kernel: description of the kernel that multiplies the decoder's weights; empty for the library's own.
        capture_seconds: time spent on capturing decode steps so far.
    """

    decode: str
    kernel: str
    capture_seconds: float


class Engine:
    """Greedy inference with one VLM.

    The VLM's Linears are replaced by the fastest ones; its checkpoint is the same before and after. Engines may share a
    VLM; the first one chooses its Linears.

    Args:
        vlm: a compressed or loaded VLM.
        config: runtime settings; default: those of ``$VLMCOMP_RUNTIME``, or the fastest on the device.

    Raises:
        ValueError: invalid settings in the environment.
    """

    def __init__(self, vlm: VLM, config: RuntimeConfig | None = None) -> None:
        self.vlm = vlm
        self.config = config or RuntimeConfig.from_environment()
        self._kernel_description = dispatch.optimize_model_(vlm, self.config)
        mode = None if self.config.decode == AUTO else self.config.decode
        self._generator = GreedyGenerator(vlm.model, mode, self.config.capture_after_tokens)

    @property
    def summary(self) -> RuntimeSummary:
        return RuntimeSummary(self._generator.mode, self._kernel_description, self._generator.capture_seconds)

    def generate(self, image: Image.Image, question: str, max_new_tokens: int = 64, min_new_tokens: int = 0) -> Answer:
        """Greedy answer at batch 1. With ``min_new_tokens == max_new_tokens`` the length is fixed, for timing."""
        request = _Request(self, image, question)
        request.run(max_new_tokens, min_new_tokens, request.add_token)
        return request.answer(finished=True)

    def stream(
        self,
        image: Image.Image,
        question: str,
        max_new_tokens: int = 64,
        min_new_tokens: int = 0,
        vision_cache: VisionCache | None = None,
    ) -> Generator[Answer, None, None]:
        """Greedy answer so far after each token; the last one is ``finished``.

        Closing the iterator stops the generation within a token and waits for that.

        Args:
            image: RGB image.
            question: the question, without the prompt template.
            max_new_tokens: limit of new tokens.
            min_new_tokens: number of tokens before an end token is allowed.
            vision_cache: vision tower output shared with other variants of the model.
        """
        request = _Request(self, image, question, vision_cache)
        events: queue.Queue[BaseException | None] = queue.Queue()
        stop = threading.Event()

        def on_token(token: int, time_s: float) -> None:
            request.add_token(token, time_s)
            events.put(None)

        def work() -> None:
            try:
                request.run(max_new_tokens, min_new_tokens, on_token, stop.is_set)
                events.put(StopIteration())
            except Exception as error:  # raised again in the reader's thread
                events.put(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            while (event := events.get()) is None:
                yield request.answer(finished=False)
            if not isinstance(event, StopIteration):
                raise event
            yield request.answer(finished=True)
        finally:
            stop.set()
            worker.join()

    def generate_batch(self, images: list[Image.Image], questions: list[str], max_new_tokens: int = 64) -> list[str]:
        """Greedy answers to a left-padded batch; for measuring quality, not speed."""
        inputs = self.vlm.encode(images, questions)
        with device_context(self.vlm.device):
            ids = generation.generate(self.vlm.model, inputs, max_new_tokens=max_new_tokens)
        new_ids = ids[:, inputs["input_ids"].shape[1] :].tolist()
        end_ids = generation.end_tokens(self.vlm.model.generation_config)
        return [self._decode(_through_end(row, end_ids)) for row in new_ids]

    def _decode(self, tokens: list[int]) -> str:
        return self.vlm.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def time_generate(self, images: list[Image.Image], questions: list[str], new_tokens: int) -> float:
        """Seconds from encoded inputs to the end of a batch of answers of exactly ``new_tokens`` tokens each."""
        inputs = self.vlm.encode(images, questions)
        synchronize(self.vlm.device)
        start = time.perf_counter()
        with device_context(self.vlm.device):
            generation.generate(self.vlm.model, inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
            synchronize(self.vlm.device)
        return time.perf_counter() - start

    def time_decoding(self, image: Image.Image, question: str, new_tokens: int) -> float:
        """Seconds of the bare decoding loop, from encoded inputs to the last of exactly ``new_tokens`` tokens."""
        inputs = self.vlm.encode([image], [question])
        start = time.perf_counter()
        self._generator.generate(inputs, new_tokens, new_tokens, lambda token, time_s: None)
        return time.perf_counter() - start


def _through_end(tokens: list[int], end_ids: list[int]) -> list[int]:
    """``tokens`` up to the first end token: what follows is padding, which a tokenizer may take for text."""
    end = next((index for index, token in enumerate(tokens, 1) if token in end_ids), len(tokens))
    return tokens[:end]


class _Request:
    """One question: its inputs, and the tokens generated so far with their times."""

    def __init__(
        self, engine: Engine, image: Image.Image, question: str, vision_cache: VisionCache | None = None
    ) -> None:
        self.vlm = engine.vlm
        self.decode = engine._decode
        self.generator = engine._generator
        self.vision_cache = vision_cache
        self.max_new_tokens = 0
        self.tokens: list[int] = []
        self.times: list[float] = []
        synchronize(self.vlm.device)
        self.preprocess_start = time.perf_counter()
        self.inputs = self.vlm.encode([image], [question])
        synchronize(self.vlm.device)
        self.start = time.perf_counter()

    def add_token(self, token: int, time_s: float) -> None:
        self.tokens.append(token)
        self.times.append(time_s)

    def run(
        self,
        max_new_tokens: int,
        min_new_tokens: int,
        on_token: TokenCallback,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.max_new_tokens = max_new_tokens
        vision_context = use_vision_cache(self.vlm, self.vision_cache) if self.vision_cache else None
        self.generator.generate(self.inputs, max_new_tokens, min_new_tokens, on_token, should_stop, vision_context)

    def answer(self, finished: bool) -> Answer:
        count = len(self.times)  # read once: another thread appends
        tokens = self.tokens[:count]
        saved_ms = 1000 * self.vision_cache.saved_seconds if self.vision_cache and count else 0.0
        last = self.times[count - 1] if count else self.start
        return Answer(
            text=self.decode(tokens),
            new_tokens=count,
            prompt_tokens=self.inputs["input_ids"].shape[1],
            preprocess_ms=1000 * (self.start - self.preprocess_start),
            ttft_ms=1000 * (self.times[0] - self.start) + saved_ms if count else 0.0,
            total_ms=1000 * (last - self.preprocess_start) + saved_ms,
            finished=finished,
            shared_ms=saved_ms,
            finish_reason=self._finish_reason(tokens) if finished else "",
        )

    def _finish_reason(self, tokens: list[int]) -> str:
        if tokens and tokens[-1] in generation.end_tokens(self.vlm.model.generation_config):
            return "stop"
        return "length" if len(tokens) == self.max_new_tokens else ""
