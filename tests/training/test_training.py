"""Scenes, questions and training batches: drawn from their seeds alone, packed without changing an answer."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmcomp.data.questions import NUMBERS, ONE_WORD, TYPES, sample_question
from vlmcomp.data.scenes import CANVAS, COLOR_NAMES, SHAPE_KINDS, object_map, patch_labels, render_scene, sample_scene
from vlmcomp.models import registry
from vlmcomp.training import packed_forward
from vlmcomp.training import trainer as training
from vlmcomp.training.model_specs import TINY_MODELS
from vlmcomp.training.muon import orthogonalize
from vlmcomp.training.optimizers import Optimizers
from vlmcomp.training.packing import PackedVQADataset, process_images


def _scenes(count: int, seed: int = 0) -> list:
    rng = random.Random(seed)
    return [sample_scene(rng) for _ in range(count)]


def test_a_seed_names_a_scene_its_pixels_and_its_questions() -> None:
    for a, b in zip(_scenes(20), _scenes(20)):
        assert a == b and np.array_equal(np.asarray(render_scene(a)), np.asarray(render_scene(b)))
        assert sample_question(random.Random(1), a) == sample_question(random.Random(1), b)
    assert _scenes(20, 1) != _scenes(20, 2)


def test_scenes_keep_their_promises() -> None:
    scenes = _scenes(300)
    assert {len(s.objects) for s in scenes} == set(range(1, 9))
    assert {t.kind for s in scenes for t in s.objects} == set(SHAPE_KINDS)
    assert {t.color for s in scenes for t in s.objects} == set(COLOR_NAMES)
    for scene in scenes:
        assert set(np.unique(object_map(scene.objects))) - {0} == set(range(1, len(scene.objects) + 1))


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
                n = sum(t.color == color for t in scene.objects)
                if q.type == "count" and q.answer in NUMBERS and f"{color} objects" in text:
                    assert NUMBERS[n] == q.answer
                if q.type == "exist" and q.answer in ("yes", "no") and f"{color} object" in text:
                    assert (n > 0) == (q.answer == "yes")


def test_patch_labels_name_every_centre() -> None:
    for scene in _scenes(50):
        labels = patch_labels(scene, 12)
        assert np.count_nonzero(labels["center_kind"]) == len(scene.objects)
        for thing in scene.objects:
            spot = int(thing.y // 12) * (CANVAS // 12) + int(thing.x // 12)
            assert SHAPE_KINDS[labels["center_kind"][spot] - 1] == thing.kind
            assert COLOR_NAMES[labels["center_color"][spot] - 1] == thing.color


EMBEDDED = [m.name for m in registry.MODELS.values() if m.bundled]


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_packed_sequence_computes_what_single_questions_do(name: str, built: Callable) -> None:
    vlm, spec = built(f"{name}/fp16"), TINY_MODELS[name]
    vlm = replace(vlm, model=copy.deepcopy(vlm.model).float(), compute_dtype="float32")
    start = packed_forward.make_prompt_prefix(vlm.model, vlm.processor, spec)
    data = PackedVQADataset(vlm.processor, spec, spec.plan, start)
    scene, rng = _scenes(1, 3)[0], random.Random(0)
    questions = [sample_question(rng, scene) for _ in range(4)]
    row = {k: torch.from_numpy(v)[None] for k, v in data.pack(iter(questions)).items()}
    image = render_scene(scene)
    patches = (CANVAS // spec.plan.patch) ** 2
    with torch.inference_mode():
        features, image_embeds = packed_forward.encode_images(
            vlm.model, process_images(vlm.processor, [image]), patches
        )
        assert features.shape[:2] == (1, patches)
        packed = vlm.model.get_output_embeddings()(packed_forward.forward_decoder(vlm.model, image_embeds, row))[0]
        for index, q in enumerate(questions, start=1):
            single = vlm.encode([image], [q.text], [q.answer])
            alone = vlm.model(**single).logits[0]
            spot = row["segment"][0] == index
            mine, ids = packed[spot], row["input_ids"][0][spot]
            assert torch.equal(single["input_ids"][0, -len(ids) :], ids) or vlm.spec.is_prefix_lm
            end = alone[: len(alone) - vlm.spec.is_prefix_lm]  # a suffix ends in its own end token
            torch.testing.assert_close(mine, end[-len(mine) :], atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", TINY_MODELS)
def test_every_family_trains_a_step_of_both_stages(name: str, tmp_path: Path) -> None:
    small = {"tower_steps": 1, "steps": 1, "tower_scenes": 2, "images": 2, "easy_images": 1}
    training.train(name, tmp_path / "model", tmp_path / "work", save_every=1, **small)
    history = json.loads((tmp_path / "work" / "history.json").read_text())
    assert [h["stage"] for h in history] == ["tower", "answers"] and all(h["loss"] > 0 for h in history)
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < 15e6


def test_muon_orthogonalizes() -> None:
    torch.manual_seed(0)
    for shape in ((24, 60), (60, 24)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape), torch.float32))
        assert values.min() > 0.6 and values.max() < 1.3


def test_training_resumes_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"tower_steps": 2, "steps": 4, "tower_scenes": 2, "images": 2, "easy_images": 1}
    training.train("llava-shapes", tmp_path / "once", tmp_path / "work1", save_every=1, **small)

    save = training.Trainer._save

    def cut(self: training.Trainer, stage: str, optimizers: Optimizers) -> None:
        save(self, stage, optimizers)
        if self.steps_done["answers"] == 2:
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


def test_the_command_trains_the_models_that_have_a_specification() -> None:
    assert set(TINY_MODELS) == set(registry.TRAINABLE)
