"""(VLM, image, question) -> Answer, whole or as a stream. Nothing else makes a model answer."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from vlmcomp.models.vlm import VLM
    from vlmcomp.runtime.generation import Decoder, Heard
    from vlmcomp.runtime.vision_cache import SharedVision

MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class Answer:
    """Text so far and how long it took. ``ttft_ms``: from the prepared inputs to the first token.

    ``shared_ms`` of ``ttft_ms`` and of ``total_ms`` were not spent: another variant had looked at the image. They
    count, so that variants compare.
    """

    text: str
    new_tokens: int
    prompt_tokens: int
    preprocess_ms: float
    ttft_ms: float
    total_ms: float  # preprocessing included
    finished: bool
    shared_ms: float = 0.0

    @property
    def decode_ms_per_token(self) -> float:
        """Milliseconds for each token after the first; 0 for an answer of one token."""
        after = self.total_ms - self.preprocess_ms - self.ttft_ms
        return after / (self.new_tokens - 1) if self.new_tokens > 1 else 0.0

    @property
    def tokens_per_second(self) -> float:
        spent = self.total_ms - self.preprocess_ms
        return 1000 * self.new_tokens / spent if spent > 0 else 0.0


def _ready(vlm: VLM) -> Decoder:
    """What decodes the answers of ``vlm`` one by one."""
    from vlmcomp.runtime.generation import Decoder
    from vlmcomp.runtime.linear import dispatch

    dispatch.settle(vlm)
    if vlm.decoder is None:
        vlm.decoder = Decoder(vlm.model)
    return vlm.decoder


class _Run:
    """One question on its way: prepares, generates, and tells the Answer so far."""

    def __init__(self, vlm: VLM, image: Image.Image, question: str, vision: SharedVision | None = None) -> None:
        self.vlm, self.vision, self.tokens, self.times = vlm, vision, [], []
        self.decoder = _ready(vlm)
        vlm.synchronize()
        self.begin = time.perf_counter()
        self.inputs = vlm.encode([image], [question])
        vlm.synchronize()
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


def ask(vlm: VLM, image: Image.Image, question: str, max_new_tokens: int = 64, min_new_tokens: int = 0) -> Answer:
    """Greedy answer at batch 1. With ``min_new_tokens == max_new_tokens`` the length is fixed, for timing."""
    run = _Run(vlm, image, question)
    run.decode(max_new_tokens, min_new_tokens, run.heard)
    return run.answer(finished=True)


def stream(
    vlm: VLM,
    image: Image.Image,
    question: str,
    max_new_tokens: int = 64,
    min_new_tokens: int = 0,
    vision: SharedVision | None = None,
) -> Iterator[Answer]:
    """The greedy answer as it grows; the last one is ``finished``. ``vision`` is shared with other variants' answers.

    Closing the iterator stops the generation within a token, and waits for that.
    """
    run, news, stop = _Run(vlm, image, question, vision), queue.Queue(), threading.Event()

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


def answer_batch(vlm: VLM, images: list[Image.Image], questions: list[str], max_new_tokens: int = 64) -> list[str]:
    """Greedy answers to a batch, padded on the left; for measuring quality, not speed."""
    from vlmcomp.models.vlm import current
    from vlmcomp.runtime.generation import generate

    _ready(vlm)
    inputs = vlm.encode(images, questions)
    with current(vlm.device):
        ids = generate(vlm.model, inputs, max_new_tokens=max_new_tokens)
    new = ids[:, inputs["input_ids"].shape[1] :]
    return [t.strip() for t in vlm.processor.tokenizer.batch_decode(new, skip_special_tokens=True)]


def time_batch(vlm: VLM, images: list[Image.Image], questions: list[str], new_tokens: int) -> float:
    """Seconds from prepared inputs to the end of answers of exactly ``new_tokens`` tokens each."""
    from vlmcomp.models.vlm import current
    from vlmcomp.runtime.generation import generate

    _ready(vlm)
    inputs = vlm.encode(images, questions)
    vlm.synchronize()
    start = time.perf_counter()
    with current(vlm.device):
        generate(vlm.model, inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
        vlm.synchronize()
    return time.perf_counter() - start
