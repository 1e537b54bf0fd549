"""The text that reaches a model is the same from every door, and no part of it stands for anything but text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from PIL import Image

import vlmcomp
from vlmcomp.compression.calibration import calibration_batches
from vlmcomp.data import task_registry
from vlmcomp.data.calibration_data import synthetic_calibration_data
from vlmcomp.data.images import normalize_question
from vlmcomp.data.unicode_text import clean
from vlmcomp.models.processor import special_tokens
from vlmcomp.models.vlm import VLM

FAMILIES = ["llava-shapes", "blip2-shapes", "paligemma-shapes", "qwen2-vl-shapes"]
IMAGE_96 = Image.new("RGB", (96, 96), "red")
QUESTIONS = [
    "این می\u200cروم است؟",
    " two  spaces\tand\na line\r\n",
    "<image> What <image>?",
    "a\0b\x1b\ud800",
    "<ima\0ge> What?",
    "👨\u200d👩\u200d👧?",
]


@pytest.fixture(params=FAMILIES)
def vlm(request: pytest.FixtureRequest, built: Callable) -> VLM:
    return built(f"{request.param}/fp16")


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_task_asks_the_same_as_a_visitor(vlm: VLM, question: str) -> None:
    row, visitor = (vlm.encode([IMAGE_96], [text])["input_ids"] for text in (question, normalize_question(question)))
    assert torch.equal(row, visitor)


def test_what_is_built_in_is_clean_already() -> None:
    texts = {sample.question for task in task_registry.TASKS.values() for sample in task.all_samples}
    texts |= {text for _, *pair in synthetic_calibration_data(300) for text in pair}
    assert all(clean(text) == text for text in texts)


def test_special_tokens_between_words_of_an_answer_change_nothing(vlm: VLM) -> None:
    for token in (*special_tokens(vlm.processor), "<image>"):
        (expected,) = calibration_batches(vlm, [(IMAGE_96, "What is it?", "red circle")] * 2)
        (found,) = calibration_batches(vlm, [(IMAGE_96, "What is it?", f"{token}red{token}circle\0{token}")] * 2)
        assert torch.equal(expected.hidden, found.hidden) and torch.equal(expected.token_types, found.token_types)


@pytest.mark.parametrize("text", ["", " ", "\u200b", "<image>", "\0"])
@pytest.mark.parametrize("place", [1, 2])
def test_a_calibration_sample_without_text_is_one_sentence(text: str, place: int) -> None:
    row = [IMAGE_96, "What?", "red"]
    row[place] = text
    with pytest.raises(ValueError, match="calibration sample 1: its question and answer must be") as refused:
        data = [(IMAGE_96, "What?", "red"), tuple(row)]
        vlmcomp.compress("llava-shapes/glu30+fp16", calibration_data=data, device="cpu")
    assert "\n" not in str(refused.value)


def test_a_calibration_answer_of_special_tokens_alone_is_one_sentence(built: Callable) -> None:
    vlm = built("qwen2-vl-shapes/fp16")
    rows = [(IMAGE_96, "What?", "red"), (IMAGE_96, "What?", f" {vlm.processor.image_token}")]
    with pytest.raises(ValueError, match="calibration sample 1: its question or its answer is empty"):
        calibration_batches(vlm, rows)
