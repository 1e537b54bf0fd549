"""Image tokens left out: the decoder gives what the dense one gives with those tokens masked, at their old places."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Thread

import pytest
import torch

from vlmcomp.cli.main import main
from vlmcomp.compression import checkpoint
from vlmcomp.compression.calibration import calibration_batches
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.pruning.pruner import PruningMethod, prune_decoder_
from vlmcomp.compression.visual_tokens import pruner as token_pruner
from vlmcomp.compression.visual_tokens import selection
from vlmcomp.data.calibration_data import synthetic_calibration_data
from vlmcomp.evaluation import latency
from vlmcomp.models import architecture, registry
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import PruningStep, Recipe
from vlmcomp.results.schema import PruningResult
from vlmcomp.runtime.engine import Engine

NAMES = ["llava-shapes", "blip2-shapes", "paligemma-shapes", "qwen2-vl-shapes"]
ANSWERED = 1  # the token type of what a prefix LM says: seen from behind only


@cache
def _dense(name: str) -> VLM:
    vlm = compress(Recipe(name), device="cpu")
    vlm.model.float()
    vlm.compute_dtype = "float32"
    return vlm


@pytest.fixture(params=NAMES)
def dense(request: pytest.FixtureRequest) -> VLM:
    return copy.deepcopy(_dense(request.param))


@pytest.fixture
def split(samples: list) -> list[list]:
    return [list(column) for column in zip(*samples)]


@cache
def _pruned(text: str) -> VLM:
    return compress(Recipe.parse(text), device="cpu", calibration_data=list(synthetic_calibration_data(16)))


def _logits(vlm: VLM, inputs: dict) -> torch.Tensor:
    with torch.inference_mode():
        return vlm.model(**inputs).logits


@pytest.mark.parametrize("method", selection.SELECTION_METHODS)
def test_a_method_keeps_the_requested_number_each_once_and_treats_every_image_separately(method: str) -> None:
    features = torch.randn(3, 20, 8, generator=torch.Generator().manual_seed(0))
    for kept in (1, 7, 20):
        chosen = selection.SELECTION_METHODS[method](features, kept)
        assert chosen.shape == (3, kept) and chosen.min() >= 0 and chosen.max() < 20
        assert (chosen.diff(dim=1) > 0).all(), "ascending, so no token twice"
        assert torch.equal(chosen, selection.SELECTION_METHODS[method](features.clone(), kept))
        for image, mine in zip(features, chosen):
            assert torch.equal(selection.SELECTION_METHODS[method](image[None], kept)[0], mine)


def test_all_tokens_kept_is_the_dense_model(dense: VLM, split: list) -> None:
    images, questions, _ = split
    whole = dense.encode(images, questions)
    wanted, answers = _logits(dense, whole), Engine(dense).generate_batch(images, questions, 16)
    token_pruner.attach_(dense.model, 0)
    inputs = dense.encode(images, questions)
    assert inputs["input_ids"].shape == whole["input_ids"].shape
    found, real = _logits(dense, inputs), [i["attention_mask"].bool() for i in (inputs, whole)]
    torch.testing.assert_close(found[real[0]], wanted[real[1]], rtol=1e-4, atol=1e-3)
    assert Engine(dense).generate_batch(images, questions, 16) == answers


@pytest.mark.parametrize("percent", [30, 50, 90])
def test_what_is_left_out_is_as_if_masked_with_every_other_token_at_its_place(
    dense: VLM, split: list, percent: int
) -> None:
    plain = copy.deepcopy(dense)
    pruner = token_pruner.attach_(dense.model, percent)
    inputs, whole = dense.encode(*split), plain.encode(*split)
    found = _logits(dense, inputs)
    columns, real = pruner.kept_positions(inputs["input_ids"]), inputs["attention_mask"].bool()

    left = torch.zeros_like(whole["attention_mask"])
    for row, places, mine in zip(left, columns, real):
        row[places[mine]] = 1
    images = (whole["input_ids"] == pruner.image_token_id).sum(1)
    gone = torch.tensor([int(n) - pruner.num_kept(int(n)) for n in images])
    assert gone.min() > 0 and torch.equal((whole["attention_mask"] - left).sum(1), gone)
    if pruner.rope_index is None:
        positions = (whole["attention_mask"].cumsum(1) - 1).clamp_min(0)
    else:
        grid = {k: whole[k] for k in ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")}
        positions, _ = plain.model.model.get_rope_index(**grid)
    wanted = _logits(plain, {**whole, "attention_mask": left, "position_ids": positions})
    wanted = wanted.gather(1, columns.clamp_max(wanted.shape[1] - 1)[..., None].expand(-1, -1, wanted.shape[2]))
    torch.testing.assert_close(found[real], wanted[real], rtol=1e-3, atol=2e-3)


def test_decoding_goes_on_as_if_the_whole_sequence_were_seen_again(dense: VLM, samples: list) -> None:
    pruner, steps = token_pruner.attach_(dense.model, 50), 6
    image, question, _ = samples[0]
    inputs = dense.encode([image], [question])
    with torch.inference_mode():
        made = dense.model.generate(
            **inputs,
            do_sample=False,
            min_new_tokens=steps,
            max_new_tokens=steps,
            return_dict_in_generate=True,
            output_logits=True,
        )
    new = made.sequences[:, -steps:]
    longer = dict(inputs)
    for name, more in (
        ("input_ids", new),
        ("attention_mask", 1),
        ("token_type_ids", ANSWERED),
        ("mm_token_type_ids", 0),
    ):
        if name in longer:
            longer[name] = torch.cat([longer[name], torch.zeros_like(new) + more], 1)
    last = longer["position_ids"][..., -1:] + 1 + torch.arange(steps)
    longer["position_ids"] = torch.cat([longer["position_ids"], last], -1)
    again = _logits(dense, longer)[:, -steps - 1 : -1]
    assert pruner.percent == 50
    torch.testing.assert_close(torch.stack(made.logits, 1), again, rtol=1e-3, atol=2e-3)


def test_a_batch_is_answered_like_its_questions_one_by_one(dense: VLM, split: list) -> None:
    token_pruner.attach_(dense.model, 50)
    images, questions, _ = split
    images = [image.resize((96, 64)) if n % 3 == 1 else image for n, image in enumerate(images)]  # other grids
    alone = [Engine(dense).generate(image, question, 16).text for image, question in zip(images, questions)]
    assert Engine(dense).generate_batch(images, questions, 16) == alone and len(set(alone)) > 1


def test_the_image_is_seen_once_a_question_while_the_clock_runs(dense: VLM, samples: list) -> None:
    calls: list[str] = []
    prefix = architecture.get_architecture(dense.model).prefixes["vision tower"][0]
    dense.model.get_submodule(prefix).register_forward_hook(lambda *_: calls.append("seen"))
    pruner = token_pruner.attach_(dense.model, 50)
    inputs = dense.encode([samples[0][0]], [samples[0][1]])
    assert not calls, "preparing the inputs looks at no image"
    answer = Engine(dense).generate(samples[0][0], samples[0][1], 4, 4)
    assert calls == ["seen"] and answer.prompt_tokens == inputs["input_ids"].shape[1]
    assert (inputs["input_ids"] == pruner.image_token_id).sum() * 2 in (32, 36, 64)
    timed = latency.measure(Engine(dense), new_tokens=3, warmup=0, runs=1)
    assert timed.vision_ms[0] > 0 and timed.prompt_tokens < 64


def test_two_engines_share_a_model_and_get_their_own_answers(dense: VLM, split: list) -> None:
    token_pruner.attach_(dense.model, 50)
    images, questions, _ = split
    engines = [Engine(dense), Engine(dense)]
    alone = [engines[0].generate(image, question, 16).text for image, question in zip(images, questions)]
    found: dict[int, list[str]] = {}

    def work(start: int) -> None:
        rows = range(start, len(images), 2)
        found[start] = [engines[start].generate(images[i], questions[i], 16).text for i in rows]

    threads = [Thread(target=work, args=(start,)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found[0], found[1]) == (alone[::2], alone[1::2])


def test_a_copy_of_the_model_sees_by_itself(samples: list) -> None:
    vlm = copy.deepcopy(_dense("llava-shapes"))
    token_pruner.attach_(vlm.model, 50)
    other = copy.deepcopy(vlm)
    token_pruner.get_token_pruner(other.model).percent = 90
    inputs = [v.encode([samples[0][0]], [samples[0][1]]) for v in (vlm, other)]
    marks = [(i["input_ids"] == vlm.model.config.image_token_id).sum() for i in inputs]
    assert marks == [32, 6]
    assert [_logits(v, i).shape[1] for v, i in zip((vlm, other), inputs)] == [i["input_ids"].shape[1] for i in inputs]


def test_least_squares_brings_the_answers_nearer_to_the_dense_models(dense: VLM, samples: list) -> None:
    held_out = [list(column) for column in zip(*synthetic_calibration_data(16, seed=5))]
    whole = dense.encode(*held_out)
    wanted = _logits(dense, whole)
    pruner = token_pruner.attach_(dense.model, 50)
    calibration, errors = calibration_batches(dense, synthetic_calibration_data(64)), []
    for reconstruct in (False, True):
        other = copy.deepcopy(dense)
        prune_decoder_(other.model, [PruningStep("vis", 50)], calibration, PruningMethod(reconstruct=reconstruct))
        inputs = other.encode(*held_out)
        found = _logits(other, inputs)
        columns = (
            token_pruner.get_token_pruner(other.model)
            .kept_positions(inputs["input_ids"])
            .clamp_max(wanted.shape[1] - 1)
        )
        text = inputs["attention_mask"].bool() & (inputs["input_ids"] != pruner.image_token_id)
        near = wanted.gather(1, columns[..., None].expand(-1, -1, wanted.shape[2]))
        errors.append((found - near)[text].square().mean().item())
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_steps_compose_and_tell_what_went(name: str, samples: list) -> None:
    mlp = registry.get_model_spec(name).mlp
    vlm, plain = _pruned(f"{name}/vis50+heads25+{mlp}30+int8"), _dense(name)
    seen, heads, neurons = vlm.pruned
    counts = {"llava-shapes": (32, 64), "blip2-shapes": (16, 32)}
    assert (seen.kept, seen.of) == counts.get(name, (18, 36)) and seen.real_percent == 50 and seen.step == "vis50"
    assert (seen.unit, heads.step, neurons.kept) == ("image tokens", "heads25", 448)
    assert "least squares" in seen.score and "16 samples" in seen.calibration
    assert (
        vlm.encode([samples[0][0]], [samples[0][1]])["input_ids"].shape[1]
        < plain.encode([samples[0][0]], [samples[0][1]])["input_ids"].shape[1]
    )
    assert Engine(vlm).generate(samples[0][0], samples[0][1], 4, 4).new_tokens == 4


def test_alone_it_resolves_attention_and_mlp_and_narrows_nothing() -> None:
    vlm, plain = _pruned("llava-shapes/vis50+fp16"), _dense("llava-shapes")
    before = dict(plain.model.named_parameters())
    changed = {n for n, p in vlm.model.named_parameters() if not torch.equal(p.float(), before[n].float())}
    assert {name.rpartition("layers.")[2].partition(".")[2] for name in changed} == {
        "self_attn.o_proj.weight",
        "mlp.down_proj.weight",
    }
    assert all(p.shape == before[n].shape for n, p in vlm.model.named_parameters())
    assert [p.step for p in vlm.pruned] == ["vis50"]


@pytest.mark.parametrize("text", ["llava-shapes/vis50+fp16", "qwen2-vl-shapes/vis70+glu30+int8"])
def test_saved_equals_loaded(text: str, samples: list, tmp_path: Path) -> None:
    vlm = _pruned(text)
    checkpoint.save(vlm, tmp_path / "out")
    loaded = checkpoint.load(tmp_path / "out", device="cpu")
    assert (loaded.recipe, loaded.pruned) == (vlm.recipe, vlm.pruned)
    assert not checkpoint.loads_with_transformers(
        loaded.model
    ) and "all image tokens" in checkpoint.custom_loading_reason(loaded.model)
    inputs = [v.encode([samples[0][0]], [samples[0][1]]) for v in (vlm, loaded)]
    assert torch.equal(inputs[0]["input_ids"], inputs[1]["input_ids"])
    assert torch.equal(_logits(vlm, inputs[0]), _logits(loaded, inputs[1]))
    for image, question, _ in samples[:4]:
        assert Engine(loaded).generate(image, question, 12).text == Engine(vlm).generate(image, question, 12).text


def test_the_same_recipe_builds_the_same_weights() -> None:
    one, other = _pruned("llava-shapes/vis50+fp16"), _pruned.__wrapped__("llava-shapes/vis50+fp16")
    for (name, p), q in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("name", ["qwen3-vl-2b", "smolvlm-256m"])
def test_a_family_that_needs_all_tokens_is_refused_in_a_sentence(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match=rf"^vis50 does not fit {name}, which .*: leave vis50 out$"):
        registry.validate_recipe(Recipe.parse(f"{name}/vis50+int8"))
    assert main(["bench", f"{name}/vis50+int8"]) == 2
    assert "leave vis50 out" in capsys.readouterr().err
    assert registry.validate_recipe(Recipe.parse(f"{name}/int8")).name == name


def test_a_share_that_removes_no_token_is_refused(samples: list) -> None:
    with pytest.raises(ValueError, match="1 % of 32 image tokens rounds to no removal"):
        compress(Recipe.parse("blip2-shapes/vis1+fp16"), device="cpu", calibration_data=samples)


def test_images_of_several_sizes_are_reported_as_an_average(samples: list) -> None:
    mixed = [(image.resize((96, 64)) if n % 2 else image, q, a) for n, (image, q, a) in enumerate(samples)]
    vlm = compress(Recipe.parse("qwen2-vl-shapes/vis50+fp16"), device="cpu", calibration_data=mixed)
    (seen,) = vlm.pruned
    assert isinstance(seen, PruningResult) and seen.unit == "image tokens on average" and 45 < seen.real_percent < 55


def test_a_recipe_with_it_is_known_everywhere(built: Callable) -> None:
    recipe = Recipe.parse("llava-shapes/vis50+heads25+glu30+int8")
    assert recipe.label == "INT8, 50 % of image tokens, 25 % of heads and 30 % of MLP neurons removed"
    assert (recipe.visual_tokens_pruned, Recipe.parse("llava-shapes/glu30+int8").visual_tokens_pruned) == (50, 0)
    assert Recipe.parse("llava-shapes/vis50+fp16").technique == "tokens pruned"
    with pytest.raises(ValueError, match=r"in this order; did you mean llava-shapes/vis50\+glu30\+fp16"):
        Recipe.parse("llava-shapes/glu30+vis50+fp16")
    assert token_pruner.get_token_pruner(built("llava-shapes/fp16").model) is None


def test_who_saw_less_is_let_go(samples: list) -> None:
    vlm = compress(Recipe("qwen2-vl-shapes"), device="cpu")
    token_pruner.attach_(vlm.model, 50)
    Engine(vlm).generate_batch([samples[0][0]], [samples[0][1]], 2)  # in this thread
    gone = weakref.ref(vlm.model.model)
    del vlm
    gc.collect()
    assert gone() is None
