"""Variants of one model lie in memory once where they are equal, and stay apart in everything else."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.size import weight_bytes
from vlmcomp.compression.size_estimate import estimate_weight_bytes
from vlmcomp.models import architecture
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.weight_sharing import clone_sharing_weights, share_weights_, storage_bytes


def _fresh(text: str) -> VLM:
    return compress(Recipe.parse(text), device="cpu")


def _untouched(vlm: VLM) -> dict[str, torch.Tensor]:
    prefixes = architecture.get_architecture(vlm.model).skipped_modules()
    named = vlm.model.named_parameters()
    return {name: p for name, p in named if any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)}


def _logits(vlm: VLM, sample: tuple) -> torch.Tensor:
    with torch.inference_mode():
        return vlm.model(**vlm.encode([sample[0]], [sample[1]])).logits


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-torchao"])
def test_a_twin_answers_from_the_same_memory(precision: str, samples: list) -> None:
    vlm = compress(Recipe.parse(f"llava-shapes/{precision}"), device="cpu")
    other = clone_sharing_weights(vlm)
    assert storage_bytes(other.model) == storage_bytes(vlm.model)
    assert all(a is not b for a, b in zip(other.model.modules(), vlm.model.modules()))
    first = Engine(vlm).generate(*samples[0][:2]).text  # settles one of them
    assert Engine(other).generate(*samples[0][:2]).text == first


@pytest.mark.parametrize("model", ["llava-shapes", "blip2-shapes", "paligemma-shapes", "qwen2-vl-shapes"])
def test_the_untouched_parts_lie_in_one_place_and_answers_stay(model: str, samples: list) -> None:
    dense, small, alone = _fresh(f"{model}/fp16"), _fresh(f"{model}/int4"), _fresh(f"{model}/int4")
    before = sum(storage_bytes(dense.model).values()) + sum(storage_bytes(small.model).values())
    share_weights_(small, [dense])
    ours, theirs = _untouched(small), _untouched(dense)
    assert ours.keys() == theirs.keys() and ours
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)
    assert all(ours[name] is not theirs[name] for name in ours)
    saved = sum(p.numel() * p.element_size() for p in ours.values())
    together = sum((storage_bytes(dense.model) | storage_bytes(small.model)).values())
    assert before - together >= saved
    wanted = _logits(alone, samples[0])
    assert torch.equal(_logits(small, samples[0]), wanted)
    del dense, theirs
    gc.collect()
    assert torch.equal(_logits(small, samples[0]), wanted)  # what was shared outlives the variant it came from


@pytest.mark.usefixtures("few")
def test_what_was_changed_is_not_shared() -> None:
    dense, pruned = _fresh("llava-shapes/fp16"), _fresh("llava-shapes/heads25+fp16")
    share_weights_(pruned, [dense])
    for one, other in zip(architecture.decoder_layers(pruned.model), architecture.decoder_layers(dense.model)):
        assert one.down_proj.weight.data_ptr() != other.down_proj.weight.data_ptr()  # re-solved: equal in shape alone
        assert one.o_proj.weight.data_ptr() != other.o_proj.weight.data_ptr()
    other_model = _fresh("paligemma-shapes/fp16")
    places = storage_bytes(other_model.model)
    share_weights_(other_model, [dense, pruned])
    assert storage_bytes(other_model.model) == places


def test_hooks_and_answers_of_variants_that_share_do_not_mix(built, samples: list) -> None:
    dense, small = _fresh("llava-shapes/fp16"), _fresh("llava-shapes/int8")
    share_weights_(small, [dense])
    calls: list[str] = []
    dense.model.get_submodule("model.vision_tower").register_forward_hook(lambda *_: calls.append("dense"))
    image, question, _ = samples[0]
    Engine(small).generate(image, question)
    assert calls == []
    answers_of: dict[tuple[str, int], str] = {}

    def visit(name: str, vlm: VLM) -> None:
        for number, (image, question, _) in enumerate(samples):
            answers_of[name, number] = Engine(vlm).generate(image, question).text

    threads = [threading.Thread(target=visit, args=pair) for pair in (("fp16", dense), ("int8", small))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("fp16", "int8"):
        alone = built(f"llava-shapes/{name}")
        wanted = [Engine(alone).generate(image, question).text for image, question, _ in samples]
        assert [answers_of[name, number] for number in range(len(samples))] == wanted


@pytest.mark.parametrize("name", ["fp16", "int8", "int4", "w8a16", "glu30+int8", "heads25+glu30+int4"])
def test_sizes_are_known_before_anything_is_built(built, name: str) -> None:
    recipe = Recipe.parse(f"llava-shapes/{name}")
    real, guess = weight_bytes(built(str(recipe)).model), estimate_weight_bytes(recipe)
    assert sum(guess.values()) == pytest.approx(sum(real.values()), rel=0.02)
    assert guess["vision tower"] == real["vision tower"]
