"""Prompts and answers for which a model has no positions are refused in one sentence, and all shorter ones answered."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from PIL import Image

from tests.support.families import write
from vlmcomp.compression.pipeline import compress
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.config import RuntimeConfig
from vlmcomp.runtime.engine import Engine

IMAGE = Image.linear_gradient("L").convert("RGB")
QUESTION = "What color is it?"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VLM]:
    return cache(
        lambda name: compress(Recipe(name), device="cpu", source=str(write(name, tmp_path_factory.mktemp(name) / "s")))
    )


@pytest.mark.parametrize("name", ["blip2-opt-2.7b", "llava-1.5-7b", "qwen2-vl-2b", "smolvlm-256m"])
def test_a_prompt_that_is_too_long_is_refused(name: str, source: Callable) -> None:
    vlm = source(name)
    engine = Engine(vlm)
    long = "x " * vlm.model.config.get_text_config().max_position_embeddings
    for ask in (
        lambda: engine.generate(IMAGE, long, 2),
        lambda: list(engine.stream(IMAGE, long, 2)),
        lambda: engine.generate_batch([IMAGE, IMAGE], [QUESTION, long], 2),
        lambda: vlm.encode([IMAGE], [long], ["yes"]),
    ):
        with pytest.raises(
            ValueError, match=r"the prompt has [\d,]+ tokens.* the model takes [\d,]+ in all: ask a shorter"
        ):
            ask()
    assert engine.generate(IMAGE, QUESTION, 2, 2).new_tokens == 2


@pytest.mark.parametrize("decode", ["generate", "static"])
def test_an_answer_may_use_the_last_position(decode: str, source: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = source("blip2-opt-2.7b")
    engine = Engine(vlm, RuntimeConfig(decode=decode))
    prompt = vlm.encode([IMAGE], [QUESTION])["input_ids"].shape[1]
    monkeypatch.setattr(vlm.model.config.get_text_config(), "max_position_embeddings", prompt + 3)
    assert engine.generate(IMAGE, QUESTION, 3, 3).new_tokens == 3
    with pytest.raises(ValueError, match=f"has {prompt} tokens and the answer up to 4, .*allow fewer new tokens"):
        engine.generate(IMAGE, QUESTION, 4, 4)
