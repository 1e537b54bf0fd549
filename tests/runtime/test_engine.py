"""Asking: the stream ends in the whole answer; bad input is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from vlmcomp.data.images import MAX_PIXELS, MAX_QUESTION, normalize_question, open_image
from vlmcomp.runtime.engine import Engine


@pytest.mark.parametrize("recipe", ["llava-shapes/fp16", "llava-shapes/int8"])
def test_stream_batch_and_generate_agree(built, samples: list, recipe: str) -> None:
    vlm = built(recipe)
    image, question, _ = samples[0]
    whole = Engine(vlm).generate(image, question)
    parts = list(Engine(vlm).stream(image, question))
    assert parts[-1].finished and not any(p.finished for p in parts[:-1])
    assert parts[-1].text == whole.text and parts[-1].new_tokens == whole.new_tokens
    assert [p.new_tokens for p in parts] == sorted(p.new_tokens for p in parts)
    inputs = vlm.processor(images=image, text=vlm.spec.prompt.format(question=question), return_tensors="pt")
    ids = vlm.model.generate(**inputs.to(vlm.device, vlm.model.dtype), max_new_tokens=64, do_sample=False)
    new = ids[0, inputs["input_ids"].shape[1] :]
    assert vlm.processor.tokenizer.decode(new, skip_special_tokens=True).strip() == whole.text
    assert Engine(vlm).generate_batch([image], [question]) == [whole.text]


def test_an_answer_says_why_it_ended(built, samples: list) -> None:
    image, question, _ = samples[0]
    engine = Engine(built("llava-shapes/fp16"))
    whole = engine.generate(image, question)
    cut = engine.generate(image, question, whole.new_tokens - 1)
    assert whole.finish_reason == "stop" and not whole.is_cut
    assert cut.finish_reason == "length" and cut.is_cut
    assert engine.generate(image, question, whole.new_tokens).finish_reason == "stop"
    reasons = [part.finish_reason for part in engine.stream(image, question, whole.new_tokens - 1)]
    assert reasons == [""] * (len(reasons) - 1) + ["length"]


def test_fixed_length_is_exact_and_times_add_up(built, samples: list) -> None:
    image, question, _ = samples[0]
    answer = Engine(built("llava-shapes/fp16")).generate(image, question, max_new_tokens=9, min_new_tokens=9)
    assert answer.new_tokens == 9 and answer.prompt_tokens > 64
    spent = answer.preprocess_ms + answer.ttft_ms + 8 * answer.decode_ms_per_token
    assert spent == pytest.approx(answer.total_ms) and answer.ttft_ms > 0


def test_closing_the_stream_stops_the_generation(built, samples: list) -> None:
    vlm, calls = built("llava-shapes/fp16"), []
    handle = vlm.model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    try:
        run = Engine(vlm).stream(samples[0][0], "Describe the image.", max_new_tokens=200, min_new_tokens=200)
        next(run)
        run.close()
    finally:
        handle.remove()
    assert len(calls) < 60


def test_an_error_inside_generation_reaches_the_reader(built, samples: list) -> None:
    vlm = built("llava-shapes/fp16")

    def fail(*_: torch.Tensor) -> None:
        raise RuntimeError("out of memory")

    handle = vlm.model.lm_head.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            list(Engine(vlm).stream(samples[0][0], "Is there a star?"))
    finally:
        handle.remove()
    assert Engine(vlm).generate(samples[0][0], "Is there a star?").finished


def test_bad_images_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image"):
        open_image(None)
    with pytest.raises(ValueError, match="no image file"):
        open_image(tmp_path / "none.png")
    text = tmp_path / "page.png"
    text.write_text("<html>")
    with pytest.raises(ValueError, match="cannot be read"):
        open_image(text)
    cut = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read"):
        open_image(cut)
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20000, 20000)).save(bomb)
    assert MAX_PIXELS < 20000 * 20000
    with pytest.raises(ValueError, match="million"):
        open_image(bomb)
    with pytest.raises(ValueError, match="only 1 x 1"):
        open_image(Image.new("RGB", (1, 1)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert open_image(Image.new(mode, (8, 8))).mode == "RGB"


def test_rotation_and_transparency_are_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (20, 40)
    assert open_image(Image.new("RGBA", (8, 8), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_questions_are_cleaned_or_refused() -> None:
    assert normalize_question("  Is there\n a\tstar? ") == "Is there\na star?"
    assert normalize_question("what <image> is\x00 it") == "what is it"
    for empty in (None, "", " \n", "<image>"):
        with pytest.raises(ValueError, match="no question"):
            normalize_question(empty)
    with pytest.raises(ValueError, match="at most"):
        normalize_question("a" * (MAX_QUESTION + 1))
