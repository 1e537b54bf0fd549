"""Why an answer ended: by its end token, or by the caller's limit, whatever generation_config.json forces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import GenerationConfig

from vlmcomp.runtime.engine import Engine

END = 2  # the end token of the bundled models


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"forced_eos_token_id": END},
        {"forced_eos_token_id": [END]},
        {"forced_bos_token_id": END},
        {"forced_eos_token_id": END, "repetition_penalty": 1.0001},
        {"max_length": 3, "max_time": 1e-9, "stop_strings": ["a"]},
        {"suppress_tokens": [5], "forced_eos_token_id": END},
        {"begin_suppress_tokens": [END]},
        {"bad_words_ids": [[5]], "min_length": 400},
    ],
    ids=str,
)
def test_an_answer_is_cut_wherever_the_whole_one_is_longer(
    built: Callable, samples: list, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any]
) -> None:
    vlm = built("llava-shapes/fp16")
    own = vlm.model.generation_config.to_dict()
    assert own["eos_token_id"] == END
    monkeypatch.setattr(vlm.model, "generation_config", GenerationConfig(**own | setting))
    engine, (image, question, _) = Engine(vlm), samples[0]
    whole = engine.generate(image, question)
    assert whole.finish_reason == "stop" and 3 < whole.new_tokens < 64
    for limit in (1, 2, whole.new_tokens - 1):
        cut = engine.generate(image, question, limit)
        assert cut.finish_reason == "length" and cut.is_cut and cut.new_tokens == limit
        assert cut.text and whole.text.startswith(cut.text)  # no forced end token in place of a word
        assert list(engine.stream(image, question, limit))[-1].finish_reason == "length"
        assert engine.generate_batch([image], [question], limit) == [cut.text]
    assert engine.generate(image, question, whole.new_tokens).finish_reason == "stop"


def test_an_end_token_that_is_suppressed_never_ends_an_answer(
    built: Callable, samples: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = built("llava-shapes/fp16")
    settings = GenerationConfig(**vlm.model.generation_config.to_dict() | {"suppress_tokens": [END]})
    monkeypatch.setattr(vlm.model, "generation_config", settings)
    assert Engine(vlm).generate(*samples[0][:2], 12).finish_reason == "length"
