"""Scenes, questions and training batches: drawn from their seeds alone, packed without changing an answer."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmcomp.shapes import train as training
from vlmcomp.shapes.architectures import PLANS, TrainPlan
from vlmcomp.shapes.batches import Packed, attention_mask, to_pixels
from vlmcomp.shapes.questions import NUMBERS, ONE_WORD, TYPES, sample_question
from vlmcomp.shapes.scenes import CANVAS, COLOR_NAMES, KINDS, object_map, patch_labels, render, sample_scene


def _scenes(count: int, seed: int = 0) -> list:
    rng = random.Random(seed)
    return [sample_scene(rng) for _ in range(count)]


def test_a_seed_names_a_scene_its_pixels_and_its_questions() -> None:
    for a, b in zip(_scenes(20), _scenes(20)):
        assert a == b and np.array_equal(np.asarray(render(a)), np.asarray(render(b)))
        assert sample_question(random.Random(1), a) == sample_question(random.Random(1), b)
    assert _scenes(20, 1) != _scenes(20, 2)


def test_scenes_keep_their_promises() -> None:
    scenes = _scenes(300)
    assert {len(s.things) for s in scenes} == set(range(1, 9))
    assert {t.kind for s in scenes for t in s.things} == set(KINDS)
    assert {t.color for s in scenes for t in s.things} == set(COLOR_NAMES)
    for scene in scenes:
        assert set(np.unique(object_map(scene.things))) - {0} == set(range(1, len(scene.things) + 1))


@pytest.mark.parametrize("style", ["word", "sentence"])
def test_answers_follow_the_style_that_the_question_asks_for(style: str) -> None:
    rng = random.Random(5)
    seen = set()
    for scene in _scenes(200, 5):
        for _ in range(10):
            q = sample_question(rng, scene)
            seen.add(q.type)
            if (style == "word") != q.text.endswith(ONE_WORD):
                continue
            if style == "word":
                assert " " not in q.answer and q.answer.islower()
            else:
                assert q.answer.endswith(".") and q.answer[0].isupper()
    assert seen == set(TYPES)


def test_counts_and_existence_agree_with_the_scene() -> None:
    rng = random.Random(7)
    for scene in _scenes(200, 7):
        for _ in range(6):
            q = sample_question(rng, scene)
            text = q.text.lower()
            for color in COLOR_NAMES:
                n = sum(t.color == color for t in scene.things)
                if q.type == "count" and q.answer in NUMBERS and f"{color} objects" in text:
                    assert NUMBERS[n] == q.answer
                if q.type == "exist" and q.answer in ("yes", "no") and f"{color} object" in text:
                    assert (n > 0) == (q.answer == "yes")


def test_patch_labels_name_every_centre() -> None:
    for scene in _scenes(50):
        labels = patch_labels(scene, 12)
        assert np.count_nonzero(labels["center_kind"]) == len(scene.things)
        for thing in scene.things:
            spot = int(thing.y // 12) * (CANVAS // 12) + int(thing.x // 12)
            assert KINDS[labels["center_kind"][spot] - 1] == thing.kind
            assert COLOR_NAMES[labels["center_color"][spot] - 1] == thing.color


def test_training_pixels_are_those_of_the_processor(built) -> None:
    vlm = built("llava-shapes/fp16")
    for scene in _scenes(3):
        image = render(scene)
        given = vlm.processor.image_processor(images=image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(to_pixels(image), given.float(), atol=1e-5, rtol=0)


def test_a_packed_sequence_computes_what_single_questions_do(built) -> None:
    vlm = built("llava-shapes/fp16")
    plan = TrainPlan(images=1, easy_images=0)
    data = Packed(vlm.processor.tokenizer, plan, vlm.model.config.image_seq_length)
    scene = _scenes(1, 3)[0]
    rng = random.Random(0)
    questions = [sample_question(rng, scene) for _ in range(5)]
    row = {k: torch.from_numpy(v)[None] for k, v in data.pack(iter(questions)).items()}
    image = render(scene)
    model = vlm.model
    with torch.inference_mode():
        features = training.patch_features(model, to_pixels(image)[None].to(model.dtype))
        embeds = training.embed(model, features, row["input_ids"])
        packed = model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=attention_mask(row["segment"]),
            position_ids=row["position_ids"],
            use_cache=False,
        ).last_hidden_state
        for index, q in enumerate(questions, start=1):
            text = f"{vlm.entry.prompt.format(question=q.text)} {q.answer}"
            single = vlm.processor(images=image, text=text, return_tensors="pt").to(model.device, model.dtype)
            alone = model.model(**single).last_hidden_state[0]
            mine = packed[0][row["segment"][0] == index]
            assert torch.equal(single["input_ids"][0, -len(mine) :], row["input_ids"][0][row["segment"][0] == index])
            torch.testing.assert_close(mine, alone[-len(mine) :], atol=0.15, rtol=0.05)


def test_training_resumes_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"tower_steps": 2, "steps": 4, "tower_scenes": 2, "images": 2, "easy_images": 1}
    training.train("llava-shapes", tmp_path / "once", tmp_path / "work1", save_every=1, **small)

    stages = training.Trainer._save

    def cut(self: training.Trainer, stage: str, optimizers: training.Optimizers) -> None:
        stages(self, stage, optimizers)
        if self.done["answers"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Trainer, "_save", cut)
    with pytest.raises(KeyboardInterrupt):
        training.train("llava-shapes", tmp_path / "again", tmp_path / "work2", save_every=1, **small)
    monkeypatch.undo()
    assert not (tmp_path / "again").exists()
    training.train("llava-shapes", tmp_path / "again", tmp_path / "work2", save_every=1, **small)
    history = json.loads((tmp_path / "work2" / "history.json").read_text())
    assert [h["step"] for h in history if h["stage"] == "answers"] == [1, 2, 3, 4]
    from safetensors.torch import load_file

    once, again = (load_file(tmp_path / d / "model.safetensors") for d in ("once", "again"))
    assert all(torch.equal(once[k], again[k]) for k in once)
    with pytest.raises(ValueError, match="another training plan"):
        training.train("llava-shapes", tmp_path / "third", tmp_path / "work2", **{**small, "steps": 5})


def test_every_plan_has_an_architecture() -> None:
    assert set(PLANS) == set(training.ARCHITECTURES)
