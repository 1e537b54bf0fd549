"""Calibration: inputs of the decoder, activation statistics, and peak memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.made_models import tiny_llava, token_ids
from vlmcomp.compression.activation_stats import ActivationStats, solver_memory_bytes
from vlmcomp.compression.calibration import (
    ANSWER,
    IMAGE,
    PAD,
    QUESTION,
    CalibrationBatch,
    TokenWeights,
    calibration_batches,
    text_batches,
)
from vlmcomp.compression.layerwise import LayerEdit, run_layerwise
from vlmcomp.compression.pruning.pruner import prune_decoder_
from vlmcomp.models import architecture
from vlmcomp.recipe import PruningStep


class Live(TorchDispatchMode):
    """Counts the bytes of tensors made inside it while they live; ``peak`` is the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.live: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._watch(tensor.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.live:
            return
        self.live.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.live.discard(key)
        self.now -= size


def test_statistics_are_the_weighted_means_whatever_the_batches() -> None:
    torch.manual_seed(0)
    x, t, w = torch.randn(30, 5), torch.randn(30, 3), torch.rand(30)
    w[4:9] = 0
    stats = ActivationStats(5, 3)
    for part in (slice(0, 4), slice(4, 9), slice(9, 30)):
        stats.update(x[None, part], t[None, part], w[None, part])
    share = (w / w.sum())[:, None]
    torch.testing.assert_close(stats.gram, x.T @ (share * x))
    torch.testing.assert_close(stats.cross, t.T @ (share * x))
    torch.testing.assert_close(stats.mean, (share * x).sum(0))
    torch.testing.assert_close(stats.target_mean, (share * t).sum(0))
    assert stats.target_sq_norm == pytest.approx(float((share[:, 0] * t.square().sum(1)).sum()), rel=1e-5)


def test_every_token_has_its_kind(built: Callable, samples: list) -> None:
    vlm = built("llava-shapes/fp16")
    tokenizer = vlm.processor.tokenizer
    (tokens,) = calibration_batches(vlm, samples, batch_size=len(samples))
    assert tokens.hidden.shape[:2] == tokens.token_types.shape == (len(samples), tokens.token_types.shape[1])
    assert ((tokens.token_types == IMAGE).sum(1) == 64).all()
    answers = sorted(len(tokenizer(f" {a}", add_special_tokens=False).input_ids) for *_, a in samples)
    assert sorted((tokens.token_types == ANSWER).sum(1).tolist()) == answers
    assert ((tokens.token_types == PAD).sum(1) == 0).any(), "the longest has no padding"
    ends = (tokens.token_types != PAD).sum(1) - 1
    assert (tokens.token_types[torch.arange(len(ends)), ends] == ANSWER).all()


def _typed(types: list[list[int]]) -> CalibrationBatch:
    token_types = torch.tensor(types)
    return CalibrationBatch(torch.zeros(*token_types.shape, 1), token_types, ())


def test_tokens_are_weighted_by_their_type() -> None:
    (weights,) = TokenWeights(0.5, 2, 3, image_stride=1).for_batches([_typed([[PAD, IMAGE, QUESTION, ANSWER]])])
    assert weights.tolist() == [[0, 0.5, 2, 3]]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_of_four_image_tokens_is_recorded_with_the_weight_of_four(batch_size: int) -> None:
    row = [QUESTION] + [IMAGE] * 8 + [ANSWER]
    batches = [_typed([row] * batch_size)] * (4 // batch_size)
    weights = torch.cat(TokenWeights(0.5, 2, 3).for_batches(batches))
    assert (weights[:, 1:9] > 0).sum(0).tolist() == [1] * 8  # together the rows cover every position
    assert weights.sum(1).tolist() == [2 + 8 * 0.5 + 3] * 4


def test_batching_changes_no_statistic(built: Callable, samples: list) -> None:
    vlm = built("llava-shapes/fp16")
    grams = []
    for batch in (1, 8):
        of_size: list[torch.Tensor] = []
        edit = _watch(lambda layer, stats, of_size=of_size: of_size.append(stats.gram))
        run_layerwise(vlm.model, calibration_batches(vlm, samples, batch), [edit])
        grams.append(of_size)
    for one, many in zip(*grams, strict=True):
        torch.testing.assert_close(one, many, rtol=0.02, atol=0.02 * float(one.diagonal().mean()))  # bfloat16


def _watch(change: Callable) -> LayerEdit:
    return LayerEdit(lambda layer: layer.down_proj, change)


def test_targets_of_an_unchanged_model_are_its_own_outputs() -> None:
    model = tiny_llava()

    def check(layer: architecture.DecoderLayer, stats: ActivationStats) -> None:
        torch.testing.assert_close(stats.cross, layer.down_proj.weight @ stats.gram, rtol=1e-3, atol=1e-4)

    run_layerwise(model, text_batches(model, token_ids()), [_watch(check)])


@pytest.mark.parametrize("weights", [TokenWeights(image=0, question=0, answer=1), TokenWeights()])
def test_weights_that_see_nothing_of_a_batch_do_no_harm(built: Callable, samples: list, weights: TokenWeights) -> None:
    vlm = built("llava-shapes/fp16")
    tokens = calibration_batches(vlm, samples[:2], batch_size=1)
    tokens[0].token_types[tokens[0].token_types == ANSWER] = PAD
    run_layerwise(vlm.model, tokens, [_watch(lambda layer, stats: _finite(stats))], weights)


def _finite(stats: ActivationStats) -> None:
    assert stats.gram.isfinite().all() and stats.total_weight > 0


@pytest.mark.parametrize(
    "bad, reason",
    [
        ([], "at least 2 samples"),
        ([("what?", "yes")], "is not .image, question, answer."),
        ([(None, "what?", "yes")], "not NoneType, str, str"),
        ([("cat.png", "what?", "yes")], "must be an image, a question and an answer, not str"),
    ],
)
def test_bad_calibration_sets_are_named(built: Callable, bad: list, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        calibration_batches(built("llava-shapes/fp16"), bad)


def test_a_sample_is_seen_upright_and_on_white(built: Callable, samples: list) -> None:
    vlm = built("llava-shapes/fp16")
    turned = []
    for image, question, answer in samples:
        stored = image.convert("RGBA").transpose(Image.Transpose.ROTATE_90)
        stored.getexif()[0x0112] = 6
        stored.info["exif"] = stored.getexif().tobytes()
        turned.append((stored, question, answer))
    for expected, found in zip(calibration_batches(vlm, samples), calibration_batches(vlm, turned), strict=True):
        assert torch.equal(expected.hidden, found.hidden)


def test_one_sample_is_enough_to_prune() -> None:
    model, ids = tiny_llava(), token_ids(count=1)
    prune_decoder_(model, [PruningStep("heads", 25), PruningStep("glu", 25)], text_batches(model, ids))
    with torch.no_grad():
        assert model(input_ids=ids).logits.isfinite().all()


def test_peak_memory_is_one_layers_whatever_the_depth_and_within_the_arithmetic() -> None:
    ids, steps, peaks = token_ids(count=64, length=32), [PruningStep("heads", 25), PruningStep("glu", 25)], []
    for layers in (2, 8):
        model = tiny_llava(layers=layers, width=512)
        calibration = text_batches(model, ids)
        with Live() as live:
            prune_decoder_(model, steps, calibration)
        kept = sum(linear.weight.nbytes for _, linear in architecture.decoder_linears(model))
        peaks.append(live.peak - kept)  # the new weights were made inside and live on
    streams = 64 * 32 * 128 * 4 * (2 + len(steps))
    batch_in_layer = 8 * 32 * 4 * (8 * 128 + 4 * 512)
    assert max(peaks) < streams + solver_memory_bytes(512, 128) + batch_in_layer
    assert peaks[1] < peaks[0] * 1.1
