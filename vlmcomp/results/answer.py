"""A generated answer and its timing."""

from __future__ import annotations

from dataclasses import dataclass

MAX_NEW_TOKENS = 256  # of an answer, whoever asks


@dataclass(frozen=True)
class Answer:
    """The text generated so far and its timing; field names are keys of the stored JSON.

    ``ttft_ms`` is the time from the prepared inputs to the first token. ``shared_ms`` of ``ttft_ms`` and ``total_ms``
    were not spent but added, so that variants compare: another variant had already encoded the image.
    ``finish_reason`` is ``stop`` if the answer ended with an end token, ``length`` if the limit of new tokens cut it,
    and empty before it is finished. ``beside`` says what else the app did meanwhile, which may have slowed the answer;
    empty if nothing.
    """

    text: str
    new_tokens: int
    prompt_tokens: int
    preprocess_ms: float
    ttft_ms: float
    total_ms: float  # preprocessing included
    finished: bool
    shared_ms: float = 0.0
    finish_reason: str = ""
    beside: str = ""

    @property
    def is_cut(self) -> bool:
        """Whether the limit of new tokens ended the answer."""
        return self.finish_reason == "length"

    @property
    def decode_ms_per_token(self) -> float:
        """Milliseconds for each token after the first; 0 for an answer of one token."""
        decode_ms = self.total_ms - self.preprocess_ms - self.ttft_ms
        return decode_ms / (self.new_tokens - 1) if self.new_tokens > 1 else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens a second, prefill included."""
        generation_ms = self.total_ms - self.preprocess_ms
        return 1000 * self.new_tokens / generation_ms if generation_ms > 0 else 0.0
