"""Calibration data that the dense model writes itself."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

import vlmcomp
from tests.support.made_models import tiny_llava, token_ids
from vlmcomp.compression.calibration import text_batches
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.pruning.pruner import PruningMethod, prune_decoder_
from vlmcomp.compression.self_calibration import BATCH_SIZE, sample_text
from vlmcomp.data.calibration_data import synthetic_calibration_data
from vlmcomp.data.calibration_set import own_samples
from vlmcomp.models import architecture
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import PruningStep, Recipe
from vlmcomp.runtime import self_answers
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.self_answers import with_own_answers


def test_sampled_text_is_the_seeds_and_leaves_the_callers_random_numbers_alone() -> None:
    model = tiny_llava()
    before = torch.random.get_rng_state()
    ids = sample_text(model, BATCH_SIZE + 1, 12, start_token=3, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert ids.shape == (BATCH_SIZE + 1, 12) and (ids[:, 0] == 3).all()
    assert torch.equal(ids, sample_text(model, BATCH_SIZE + 1, 12, start_token=3, seed=1))
    assert not torch.equal(ids, sample_text(model, BATCH_SIZE + 1, 12, start_token=3, seed=2))


def test_first_words_can_be_drawn_from_the_whole_vocabulary() -> None:
    ids = sample_text(tiny_llava(), 256, 4, start_token=3, draws_first_word=True)
    assert ids.shape == (256, 4) and (ids[:, 0] == 3).all()
    assert len(ids[:, 1].unique()) > 80  # of 100; equal probabilities leave about 8 out


def test_sampled_tokens_follow_the_models_distribution() -> None:
    model = tiny_llava()
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[3]])).logits[0, -1].softmax(-1)
    second = sample_text(model, 4096, 2, start_token=3)[:, 1]
    frequency = torch.bincount(second, minlength=100) / len(second)
    assert (frequency - expected).abs().max() < 0.03


def test_a_source_can_be_mixed_with_what_the_model_writes() -> None:
    model = tiny_llava(width=512)
    own = sample_text(model, 8, 24, start_token=3)
    batches = text_batches(model, torch.cat([token_ids(8), own]))
    result = prune_decoder_(model, [PruningStep("glu", 50)], batches)[0]
    assert result.calibration == "16 samples, 384 tokens" and "ridge 0.03" in result.score


def test_an_infinite_ridge_cuts_alone() -> None:
    dense, ids = tiny_llava(width=512), token_ids()
    held, cut = copy.deepcopy(dense), copy.deepcopy(dense)
    for model, method in ((held, PruningMethod("activation", ridge=1e12)), (cut, PruningMethod("activation", False))):
        prune_decoder_(model, [PruningStep("glu", 50)], text_batches(model, ids), method)
    for ours, plain in zip(architecture.decoder_layers(held), architecture.decoder_layers(cut), strict=True):
        torch.testing.assert_close(ours.down_proj.weight, plain.down_proj.weight, atol=1e-5, rtol=1e-4)


def test_own_answers_are_those_of_the_dense_model() -> None:
    dense = compress(Recipe.parse("llava-shapes/fp16"), device="cpu")
    samples = [(image, question, "") for image, question, _ in synthetic_calibration_data(10)]
    answered = with_own_answers(dense, samples)
    assert [row[:2] for row in answered] == [row[:2] for row in samples]
    assert answered[3][2] == Engine(dense).generate(*samples[3][:2]).text


def test_the_answers_of_the_original_model_are_named() -> None:
    samples = [(image, question, "") for image, question, _ in synthetic_calibration_data(8)]
    model = vlmcomp.compress("llava-shapes/glu30+fp16", calibration_data=samples, answers="self", device="cpu")
    assert model.pruning[0].calibration.endswith("answers of the original model")
    with pytest.raises(ValueError, match="removes nothing"):
        vlmcomp.compress("llava-shapes/int8", answers="self")
    with pytest.raises(ValueError, match="must be given or self"):
        vlmcomp.compress("llava-shapes/glu30+fp16", answers="mine", calibration_data=samples)


def test_questions_without_an_answer_are_left_out_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def silent_twice(dense: VLM, samples: list) -> list:
        return [(i, q, "</s>" if number in (1, 4) else "red") for number, (i, q, _) in enumerate(samples)]

    monkeypatch.setattr(self_answers, "with_own_answers", silent_twice)
    dense = compress(Recipe.parse("llava-shapes/fp16"), device="cpu")
    asked = own_samples(synthetic_calibration_data(6), answers="self")
    found = self_answers.answer_questions(dense, replace(asked, weights=tuple(range(1, 7))))
    assert found.weights == (1, 3, 4, 6) and len(found.samples) == 4
    assert found.description.endswith(", 2 bad rows skipped, answers of the original model")
    assert "sample 1: the original model does not answer" in caplog.text and "2 of 6" in caplog.text
