"""An answer and how long it took."""

from __future__ import annotations

from dataclasses import dataclass


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
