"""The only door to answering: an Engine around a built VLM, (image, question) -> Answer, whole or as a stream."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from vlmcomp.models.vlm import VLM
from vlmcomp.results.answer import Answer
from vlmcomp.runtime import generation
from vlmcomp.runtime.config import AUTO, RuntimeConfig
from vlmcomp.runtime.device import current, synchronize
from vlmcomp.runtime.generation import Decoder, Heard
from vlmcomp.runtime.linear import dispatch
from vlmcomp.runtime.vision_cache import SharedVision

MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class RuntimeSummary:
    """How an engine computes, as a report tells it.

    ``kernel`` describes what multiplies the decoder's weights where that is not the library's own; ``capture_seconds``
    were spent on capturing decode steps so far.
    """

    decode: str
    kernel: str
    capture_seconds: float


class Engine:
    """Answers of one VLM. The VLM's Linears are exchanged for the fastest ones; it can be saved before and after.

    Several engines may share a VLM, as long as they agree on its Linears.

    Args:
        vlm: a built VLM.
        config: how to compute; default: what ``$VLMCOMP_RUNTIME`` says, else the fastest on the device.

    Raises:
        ValueError: the environment asks for what does not exist.
    """

    def __init__(self, vlm: VLM, config: RuntimeConfig | None = None) -> None:
        self.vlm = vlm
        self.config = config or RuntimeConfig.from_environment()
        self._kernel = dispatch.settle(vlm, self.config)
        self._decoder = Decoder(
            vlm.model, None if self.config.decode == AUTO else self.config.decode, self.config.capture_after_tokens
        )

    @property
    def summary(self) -> RuntimeSummary:
        return RuntimeSummary(self._decoder.way, self._kernel, self._decoder.capture_seconds)

    def generate(self, image: Image.Image, question: str, max_new_tokens: int = 64, min_new_tokens: int = 0) -> Answer:
        """Greedy answer at batch 1. With ``min_new_tokens == max_new_tokens`` the length is fixed, for timing."""
        run = _Run(self, image, question)
        run.decode(max_new_tokens, min_new_tokens, run.heard)
        return run.answer(finished=True)

    def stream(
        self,
        image: Image.Image,
        question: str,
        max_new_tokens: int = 64,
        min_new_tokens: int = 0,
        vision: SharedVision | None = None,
    ) -> Iterator[Answer]:
        """The greedy answer as it grows; the last one is ``finished``. ``vision`` is shared with other variants.

        Closing the iterator stops the generation within a token, and waits for that.
        """
        run = _Run(self, image, question, vision)
        news: queue.Queue[BaseException | None] = queue.Queue()
        stop = threading.Event()

        def heard(token: int, at: float) -> None:
            run.heard(token, at)
            news.put(None)

        def work() -> None:
            try:
                run.decode(max_new_tokens, min_new_tokens, heard, stop.is_set)
                news.put(StopIteration())
            except Exception as error:  # handed to the reader, who is in another thread
                news.put(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            while (item := news.get()) is None:
                yield run.answer(finished=False)
            if not isinstance(item, StopIteration):
                raise item
            yield run.answer(finished=True)
        finally:
            stop.set()
            worker.join()

    def generate_batch(self, images: list[Image.Image], questions: list[str], max_new_tokens: int = 64) -> list[str]:
        """Greedy answers to a batch, padded on the left; for measuring quality, not speed."""
        inputs = self.vlm.encode(images, questions)
        with current(self.vlm.device):
            ids = generation.generate(self.vlm.model, inputs, max_new_tokens=max_new_tokens)
        new = ids[:, inputs["input_ids"].shape[1] :]
        return [t.strip() for t in self.vlm.processor.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def time_batch(self, images: list[Image.Image], questions: list[str], new_tokens: int) -> float:
        """Seconds from prepared inputs to the end of answers of exactly ``new_tokens`` tokens each."""
        inputs = self.vlm.encode(images, questions)
        synchronize(self.vlm.device)
        start = time.perf_counter()
        with current(self.vlm.device):
            generation.generate(self.vlm.model, inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
            synchronize(self.vlm.device)
        return time.perf_counter() - start

    def time_decoding(self, image: Image.Image, question: str, new_tokens: int) -> float:
        """Seconds of the bare decoding loop, from prepared inputs to the last of exactly ``new_tokens`` tokens."""
        inputs = self.vlm.encode([image], [question])
        start = time.perf_counter()
        self._decoder.answer(inputs, new_tokens, new_tokens, lambda token, at: None)
        return time.perf_counter() - start


class _Run:
    """One question on its way: prepares, generates, and tells the Answer so far."""

    def __init__(self, engine: Engine, image: Image.Image, question: str, vision: SharedVision | None = None) -> None:
        self.vlm, self.decoder, self.vision = engine.vlm, engine._decoder, vision
        self.tokens: list[int] = []
        self.times: list[float] = []
        synchronize(self.vlm.device)
        self.begin = time.perf_counter()
        self.inputs = self.vlm.encode([image], [question])
        synchronize(self.vlm.device)
        self.start = time.perf_counter()

    def heard(self, token: int, at: float) -> None:
        self.tokens.append(token)
        self.times.append(at)

    def decode(self, most: int, least: int, heard: Heard, stopped: Callable[[], bool] = lambda: False) -> None:
        seeing = self.vision.serving(self.vlm) if self.vision else None
        self.decoder.answer(self.inputs, most, least, heard, stopped, seeing)

    def answer(self, finished: bool) -> Answer:
        count = len(self.times)
        shared = 1000 * self.vision.spared if self.vision and count else 0.0
        tokens = self.tokens[:count]
        last = self.times[count - 1] if count else self.start
        return Answer(
            text=self.vlm.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
            new_tokens=count,
            prompt_tokens=self.inputs["input_ids"].shape[1],
            preprocess_ms=1000 * (self.start - self.begin),
            ttft_ms=1000 * (self.times[0] - self.start) + shared if count else 0.0,
            total_ms=1000 * (last - self.begin) + shared,
            finished=finished,
            shared_ms=shared,
        )
