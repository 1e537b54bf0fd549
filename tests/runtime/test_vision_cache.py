"""Laws of one look at an image for several variants: no word of an answer changes, and only the look is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from PIL import Image

from vlmcomp.models import architecture
from vlmcomp.models.vlm import VLM
from vlmcomp.results.answer import Answer
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.vision_cache import VisionCache

FAMILIES = ["llava-shapes", "blip2-shapes", "paligemma-shapes", "qwen2-vl-shapes"]


def _last(vlm: VLM, image: Image.Image, question: str, vision: VisionCache | None = None) -> Answer:
    *_, last = Engine(vlm).stream(image, question, 12, vision_cache=vision)
    return last


@contextmanager
def _looks(vlm: VLM) -> Iterator[list[int]]:
    """Grows whenever something in the vision tower of ``vlm`` computes."""
    tower = vlm.model.get_submodule(architecture.get_architecture(vlm.model).prefixes["vision tower"][0])
    calls: list[int] = []
    handles = [m.register_forward_hook(lambda *_: calls.append(1)) for m in tower.modules() if m is not tower]
    yield calls
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("model", FAMILIES)
def test_variants_share_a_look_and_say_the_same(built: Callable, samples: list, model: str) -> None:
    one, other, vision = built(f"{model}/fp16"), built(f"{model}/int8"), VisionCache()
    (image, question, _), (another, _, _) = samples[:2]
    alone = [_last(vlm, image, question) for vlm in (one, other)]
    first = _last(one, image, question, vision)
    with _looks(other) as looks:
        second = _last(other, image, question, vision)
        assert not looks
        third = _last(other, another, question, vision)
        assert looks
    assert [first.text, second.text] == [answer.text for answer in alone]
    assert first.shared_ms == 0 < second.shared_ms <= second.ttft_ms <= second.total_ms
    assert third.shared_ms == 0 and third.text == _last(other, another, question).text


def test_models_do_not_share_with_each_other(built: Callable, samples: list) -> None:
    vision, (image, question, _) = VisionCache(), samples[0]
    _last(built("llava-shapes/fp16"), image, question, vision)
    other = built("paligemma-shapes/fp16")
    assert _last(other, image, question, vision).shared_ms == 0
    tower = other.model.get_submodule("model.vision_tower")
    assert "forward" not in vars(tower)  # nothing stays behind
