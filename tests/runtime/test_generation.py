"""Laws of decoding: the tokens of plain ``generate``, whatever decodes them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import GenerationConfig

from tests.support.choices import assert_same, decoded, plain
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.visual_tokens import pruner as token_pruner
from vlmcomp.feedback import is_out_of_memory
from vlmcomp.recipe import Recipe
from vlmcomp.runtime import attention, generation, regional_compile
from vlmcomp.runtime.config import (
    CAPTURE_AFTER_TOKENS,
    CAPTURED,
    COMPILED,
    DECODE_MODES,
    ENV_RUNTIME,
    GENERATE,
    PYTORCH,
    STATIC,
    RuntimeConfig,
)
from vlmcomp.runtime.decode_step import DecodeStep
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.generation import GreedyGenerator
from vlmcomp.runtime.linear import gpu as gpu_linear

LONG = 2 * CAPTURE_AFTER_TOKENS
EVERY = ["llava-shapes/fp16", "blip2-shapes/fp16", "paligemma-shapes/fp16", "qwen2-vl-shapes/fp16"]
SMALL = ["llava-shapes/int8", "llava-shapes/int4"]


def _warm(decoder: GreedyGenerator, inputs: dict[str, torch.Tensor]) -> None:
    """Let ``decoder`` decode until it captures its step."""
    while decoder.tokens_decoded < CAPTURE_AFTER_TOKENS:
        decoded(decoder, inputs, CAPTURE_AFTER_TOKENS, CAPTURE_AFTER_TOKENS)
    decoded(decoder, inputs, 2, 2)


@pytest.mark.parametrize("way", [STATIC, CAPTURED])
@pytest.mark.parametrize("recipe", EVERY + SMALL)
def test_every_way_gives_the_tokens_of_generate(built: Callable, samples: list, recipe: str, way: str) -> None:
    vlm = built(recipe)
    Engine(vlm).generate(*samples[0][:2], 1)  # from now on its kernels are those that are question
    decoder = GreedyGenerator(vlm.model, way)
    for image, question, _ in samples[:2]:
        inputs = vlm.encode([image], [question])
        assert_same(vlm, inputs, decoded(decoder, inputs, LONG, LONG), plain(vlm, inputs, LONG, LONG))
        assert_same(vlm, inputs, decoded(decoder, inputs, LONG), plain(vlm, inputs, LONG, 0))
    packed = recipe.endswith("int4")  # bitsandbytes' 4-bit tensors cannot be traced
    assert decoder.mode == (STATIC if packed else way)
    assert (decoder.capture_seconds > 0) == (way == CAPTURED)


def test_a_step_is_captured_once_and_again_for_a_longer_sequence(built: Callable, samples: list) -> None:
    vlm = built("llava-shapes/fp16")
    decoder, inputs = GreedyGenerator(vlm.model, CAPTURED), vlm.encode(*([part] for part in samples[0][:2]))
    assert decoded(decoder, inputs, 2, 2) and decoder.capture_seconds == 0  # who asks little does not wait
    _warm(decoder, inputs)
    first = decoder.capture_seconds
    assert first > 0 and decoded(decoder, inputs, LONG) and decoder.capture_seconds == first
    longer = 380  # more than the room that a cache has
    assert_same(vlm, inputs, decoded(decoder, inputs, longer, longer), plain(vlm, inputs, longer, longer))
    assert decoder.capture_seconds > first


def test_prompts_of_other_lengths_share_a_captured_step(built: Callable, samples: list) -> None:
    vlm = built("qwen2-vl-shapes/fp16")
    decoder = GreedyGenerator(vlm.model, CAPTURED)
    _warm(decoder, vlm.encode(*([part] for part in samples[0][:2])))
    first = decoder.capture_seconds
    for size, question in (((112, 84), samples[1][1]), ((96, 96), f"{samples[1][1]} " * 6), ((64, 128), "what?")):
        inputs = vlm.encode([samples[1][0].resize(size)], [question])  # of another shape: other image positions
        assert_same(vlm, inputs, decoded(decoder, inputs, 24, 24), plain(vlm, inputs, 24, 24))
    assert decoder.capture_seconds == first


@pytest.mark.parametrize("model", [recipe.partition("/")[0] for recipe in EVERY])
def test_what_sees_half_an_image_decodes_alike(samples: list, model: str) -> None:
    vlm = compress(Recipe(model), device="cpu")
    token_pruner.attach_(vlm.model, 50)
    decoder = GreedyGenerator(vlm.model, CAPTURED)
    for image, question, _ in samples[:3]:
        inputs = vlm.encode([image], [question])
        assert_same(vlm, inputs, decoded(decoder, dict(inputs), LONG, LONG), plain(vlm, inputs, LONG, LONG))
    assert decoder.capture_seconds > 0


@pytest.mark.parametrize("wide", [True, False])
def test_attention_may_be_wider_than_its_cache(samples: list, monkeypatch: pytest.MonkeyPatch, wide: bool) -> None:
    monkeypatch.setattr(attention, "float32_attention_is_faster", lambda: wide)
    vlm = compress(Recipe("qwen2-vl-shapes"), device="cpu")
    vlm.model.to(torch.bfloat16)
    vlm = replace(vlm, compute_dtype="bfloat16")
    decoder = GreedyGenerator(vlm.model, CAPTURED, capture_after_tokens=0)
    for image, question, _ in samples[:3]:
        inputs = vlm.encode([image], [question])
        assert_same(vlm, inputs, decoded(decoder, inputs, LONG, LONG), plain(vlm, inputs, LONG, LONG))
    assert decoder.mode == CAPTURED


@pytest.mark.parametrize(("heads", "shared"), [(4, 1), (4, 2), (4, 4)])
def test_one_token_attends_as_pytorch_does(heads: int, shared: int) -> None:
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(1, heads, 1, 16, generator=draw)
    keys, values = torch.randn(2, 1, heads // shared, 24, 16, generator=draw)
    mask = torch.zeros(1, 1, 1, 24)
    mask[..., 17:] = float("-inf")
    wanted = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3, enable_gqa=True)
    found = attention.single_query_attention(query, keys, values, mask, 0.3)
    assert found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-6)
    keys[:, :, 17:] = values[:, :, 17:] = 1e4
    assert torch.equal(attention.single_query_attention(query, keys, values, mask, 0.3), found)


def test_stopping_ends_within_a_token(built: Callable, samples: list) -> None:
    vlm = built("llava-shapes/fp16")
    for way in DECODE_MODES:
        tokens: list[int] = []
        inputs = vlm.encode(*([part] for part in samples[0][:2]))
        note, enough = lambda token, at, tokens=tokens: tokens.append(token), lambda tokens=tokens: len(tokens) >= 3
        GreedyGenerator(vlm.model, way).generate(inputs, LONG, LONG, note, enough)
        assert 3 <= len(tokens) <= 4


@pytest.mark.parametrize(
    "setting", [{"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}, {"suppress_tokens": [5]}]
)
def test_what_is_not_plainly_greedy_is_left_to_generate(samples: list, setting: dict) -> None:
    vlm = compress(Recipe("llava-shapes"), device="cpu")
    settings = GenerationConfig(**vlm.model.generation_config.to_dict() | setting)
    vlm.model.generation_config = settings
    decoder, inputs = GreedyGenerator(vlm.model, CAPTURED), vlm.encode(*([part] for part in samples[0][:2]))
    assert decoder.mode == GENERATE
    assert_same(vlm, inputs, decoded(decoder, inputs, LONG, LONG), plain(vlm, inputs, LONG, LONG))


def test_what_cannot_be_captured_is_said_once(built: Callable, samples: list, caplog: pytest.LogCaptureFixture) -> None:
    vlm = built("llava-shapes/int4")
    decoder, inputs = GreedyGenerator(vlm.model, CAPTURED), vlm.encode(*([part] for part in samples[0][:2]))
    with caplog.at_level(logging.WARNING, logger="vlmcomp.runtime.generation"):
        for _ in range(3):
            _warm(decoder, inputs)
    assert len(caplog.records) == 1 and "without a captured step" in caplog.text


@pytest.mark.skipif(shutil.which("g++") is None, reason="a CPU's kernels are made by a C++ compiler")
def test_a_compiled_step_gives_the_tokens_of_generate(built: Callable, samples: list) -> None:
    vlm = built("llava-shapes/fp16")
    decoder = GreedyGenerator(vlm.model, COMPILED, capture_after_tokens=0)
    for image, question, _ in samples[:2]:
        inputs = vlm.encode([image], [question])
        assert_same(vlm, inputs, decoded(decoder, inputs, LONG, LONG), plain(vlm, inputs, LONG, LONG))
    assert decoder.mode == COMPILED and decoder.capture_seconds > 0


@pytest.mark.parametrize("recipe", EVERY)
def test_all_layers_call_what_one_was_compiled_to(built: Callable, samples: list, recipe: str) -> None:
    vlm = built(recipe)
    Engine(vlm).generate(*samples[0][:2], 1)
    decoder, inputs = GreedyGenerator(vlm.model, STATIC), vlm.encode(*([part] for part in samples[0][:2]))
    decoded(decoder, inputs, 2, 2)
    step, before = decoder._step, len(regional_compile._COMPILED)
    start = [tensor.clone() for tensor in step.tensors()]
    with torch.inference_mode():
        wanted = step.forward_fn(*step.tensors()).clone()
        with regional_compile.compile_repeated_layers(step.layers):
            for _ in range(2):  # traced, and called again
                step.restore(start)
                found = step.forward_fn(*step.tensors())
                assert (found - wanted).norm() <= 0.03 * wanted.norm()
    assert len(regional_compile._COMPILED) == before + 1 and len(step.layers) > 1
    assert not any("forward" in vars(layer) for layer in step.layers)


def test_what_cannot_be_compiled_is_captured(built: Callable, samples: list, caplog: pytest.LogCaptureFixture) -> None:
    vlm = built("llava-shapes/int8")
    Engine(vlm).generate(*samples[0][:2], 1)  # FBGEMM's weights are no tensors, which torch.compile refuses
    decoder, inputs = (
        GreedyGenerator(vlm.model, COMPILED, capture_after_tokens=0),
        vlm.encode(*([part] for part in samples[0][:2])),
    )
    with caplog.at_level(logging.WARNING, logger="vlmcomp.runtime.generation"):
        for _ in range(3):
            assert_same(vlm, inputs, decoded(decoder, inputs, LONG, LONG), plain(vlm, inputs, LONG, LONG))
    assert len(caplog.records) == 1 and "without a compiled step" in caplog.text
    assert decoder.mode == CAPTURED


def test_a_step_that_lacks_memory_to_be_captured_is_not_given_up(
    built: Callable, samples: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = built("llava-shapes/fp16")
    decoder, inputs = (
        GreedyGenerator(vlm.model, CAPTURED, capture_after_tokens=0),
        vlm.encode(*([part] for part in samples[0][:2])),
    )
    with monkeypatch.context() as short:
        short.setattr(DecodeStep, "capture", lambda *args, **kwargs: torch.empty(1 << 60))
        with pytest.raises(RuntimeError) as raised:
            decoded(decoder, inputs, LONG, LONG)
    assert is_out_of_memory(raised.value)
    assert_same(vlm, inputs, decoded(decoder, inputs, LONG, LONG), plain(vlm, inputs, LONG, LONG))
    assert decoder.mode == CAPTURED and decoder.capture_seconds > 0


def test_an_overflow_is_told_and_leaves_nothing_behind(samples: list) -> None:
    vlm = compress(Recipe("llava-shapes"), device="cpu")
    decoder, inputs = GreedyGenerator(vlm.model, STATIC), vlm.encode(*([part] for part in samples[0][:2]))
    wanted, norm = decoded(decoder, inputs, LONG, LONG), decoder.decoder.norm.weight.data
    original = norm.clone()
    norm.fill_(float("inf"))
    with pytest.raises(ValueError, match="out of the range of torch"):
        decoded(decoder, inputs, LONG, LONG)
    norm.copy_(original)
    assert decoded(decoder, inputs, LONG, LONG) == wanted


def test_ask_and_a_batch_agree_after_capturing(built: Callable, samples: list) -> None:
    vlm = built("paligemma-shapes/fp16")
    image, question, _ = samples[0]
    engine = Engine(vlm)
    engine.generate(image, question, LONG, LONG)
    singles = [engine.generate(image, question).text for image, question, _ in samples]
    assert engine.summary.decode == CAPTURED and engine.summary.capture_seconds > 0
    images, questions, _ = map(list, zip(*samples))
    assert engine.generate_batch(images, questions) == singles


def test_a_gpu_compiles_unless_every_visitor_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_linear, "triton_available", lambda device: True)
    assert generation.best_decode_mode(torch.device("cuda")) == COMPILED
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert generation.best_decode_mode(torch.device("cuda")) == CAPTURED


def test_the_environment_overrides_the_defaults(built: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = built("llava-shapes/fp16")
    assert Engine(vlm).summary.decode == CAPTURED
    monkeypatch.setenv(ENV_RUNTIME, "decode=static, dense_kernel=pytorch")
    assert Engine(vlm).config == RuntimeConfig(decode=STATIC, dense_kernel=PYTORCH)
    assert Engine(vlm).summary.decode == STATIC
    assert Engine(vlm, RuntimeConfig(decode=GENERATE)).summary.decode == GENERATE  # an argument goes before it


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("decode=fast", "VLMCOMP_RUNTIME: decode is 'fast': use auto, generate, static, captured, compiled"),
        ("int8_kernel=fast", "int8_kernel is 'fast': use auto, bitsandbytes, fbgemm, onednn"),
        ("kernel=fbgemm", "VLMCOMP_RUNTIME sets 'kernel': use decode, linear_kernels"),
        ("static", "VLMCOMP_RUNTIME sets 'static': use decode"),
        ("capture_after_tokens=soon", "VLMCOMP_RUNTIME: invalid literal"),
    ],
)
def test_what_the_environment_cannot_set_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RuntimeConfig.from_environment({ENV_RUNTIME: text})
