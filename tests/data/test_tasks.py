"""Tasks are fixed: the same questions for everybody, each seed its own subset, answers that are true."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from vlmcomp.data.questions import TYPES
from vlmcomp.data.scenes import sample_scene
from vlmcomp.data.task_registry import DEFAULT_TASKS, TASKS, get_task
from vlmcomp.data.tasks import majority_baseline
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.evaluation.quality import measure, predict, rescore, score
from vlmcomp.results import store
from vlmcomp.runtime.engine import Engine


@pytest.mark.parametrize("name", TASKS)
def test_ids_are_unique_and_texts_whole(name: str) -> None:
    task = get_task(name)
    samples = task.sample()
    assert len({s.id for s in samples}) == len(samples)
    assert all(s.question.strip() and s.reference.strip() for s in samples)
    assert re.fullmatch(r"[0-9a-f]{64}", task.sha256)


def test_the_tasks_are_those_that_results_were_measured_on() -> None:
    """A change here means a new version: results under the old one no longer compare."""
    known = {
        "shapes-vqa": ("1", "78b24c696db70ddd8df1f9ca6afc47cd35a5f76272e15f08cbe05e35e955cc33", 2000),
        "easy-vqa": ("1.0", "a34d74966a911a8cba8a53548a1f7337cba8304d9773987c545019cd6b3c4582", 9673),
        "objects-vqa": ("1", "c4958a85cc8c983dda0c76f447749f5c4e95fc5ed3bde2acffedca3369f50a8b", 3000),
    }
    assert {n: (t.version, t.sha256, len(t.all_samples)) for n, t in TASKS.items()} == known


@pytest.mark.parametrize("name", TASKS)
def test_a_subset_is_named_by_its_seed(name: str) -> None:
    task = get_task(name)
    whole = [s.id for s in task.sample()]
    first, again, other = ([s.id for s in task.sample(50, seed)] for seed in (0, 0, 1))
    assert first == again != other
    assert first == [i for i in whole if i in set(first)] and len(set(first)) == 50  # drawn once each, in order
    assert len(task.sample(10**6)) == len(whole)


def test_usual_numbers() -> None:
    assert get_task("shapes-vqa").num_samples(None) == 2000 and get_task("easy-vqa").num_samples(None) == 1000
    assert get_task("shapes-vqa").num_samples(10**6) == 2000
    with pytest.raises(ValueError, match="at least one"):
        get_task("easy-vqa").num_samples(0)
    with pytest.raises(ValueError, match="choose from shapes-vqa, easy-vqa"):
        get_task("vqa")


def test_shapes_has_every_type_and_no_question_twice_a_scene() -> None:
    samples = get_task("shapes-vqa").sample()
    assert {s.type for s in samples} == set(TYPES)
    assert len({(s.id.split("-")[0], s.question) for s in samples}) == 2000


def test_training_scenes_are_not_in_the_test() -> None:
    held_out = {s.load_image.args[0] for s in get_task("shapes-vqa").sample()}
    assert len(held_out) == 500
    for step in range(40):
        rng = random.Random(f"train-0-{step}")
        assert sample_scene(rng) not in held_out


def test_images_are_drawn_anew_and_equal() -> None:
    for task in TASKS.values():
        sample = task.sample(1)[0]
        one, two = sample.image, sample.image
        assert one is not two and one.mode == "RGB" and np.array_equal(np.asarray(one), np.asarray(two))


def test_easy_vqa_takes_the_models_own_wording() -> None:
    plain, worded = (get_task("easy-vqa").sample(5, short_answer_prompt=w) for w in ("", "One word."))
    assert [s.question + " One word." for s in plain] == [s.question for s in worded]
    assert not any(
        s.question.endswith("One word.") for s in get_task("shapes-vqa").sample(5, short_answer_prompt="One word.")
    )


def test_a_benchmark_asks_by_default_what_the_bundled_models_learned() -> None:
    assert BenchmarkConfig().tasks == DEFAULT_TASKS == ("shapes-vqa", "easy-vqa") and set(DEFAULT_TASKS) < set(TASKS)


def test_commonest_is_what_always_saying_it_scores() -> None:
    samples = get_task("easy-vqa").sample()
    said = majority_baseline([{"type": s.type, "reference": s.reference} for s in samples])
    assert set(said) == {"color", "shape", "yes/no"}
    counts = Counter(s.reference for s in samples if s.type == "yes/no")
    assert said["yes/no"] == max(counts.values()) / counts.total()


def test_true_answers_score_one_and_empty_ones_zero() -> None:
    task = get_task("shapes-vqa")
    samples = task.sample(40)
    rows = [{"id": s.id, "type": s.type, "question": s.question, "reference": s.reference} for s in samples]
    right = score(task, [r | {"answer": r["reference"].upper()} for r in rows], 0, "minilm")
    wrong = score(task, [r | {"answer": ""} for r in rows], 0, "minilm")
    assert right.exact_match == right.rouge1 == 1.0 and set(right.exact_match_by_type.values()) == {1.0}
    assert wrong.exact_match == wrong.composite == wrong.answer_words == 0.0
    assert sum(right.samples_by_type.values()) == right.samples == 40
    weighted = sum(right.exact_match_by_type[k] * n for k, n in right.samples_by_type.items())
    assert weighted / 40 == right.exact_match


def test_rows_hold_what_the_scores_were_made_of(built) -> None:
    engine, task = Engine(built("llava-shapes/fp16")), get_task("easy-vqa")
    reports: list[tuple[str, float]] = []
    quality, rows = measure(
        engine, task, 10, batch_size=4, encoder="minilm", progress=lambda text, f: reports.append((text, f))
    )
    samples = task.sample(10, 0, engine.vlm.spec.short_answer_prompt)
    assert [(r["id"], r["question"], r["reference"]) for r in rows] == [
        (s.id, s.question, s.reference) for s in samples
    ]
    assert score(task, rows, 0, "minilm") == quality
    assert reports == [("easy-vqa", 0.4), ("easy-vqa", 0.8), ("easy-vqa", 1.0)]
    assert quality.samples == 10 and quality.version == "1.0" and quality.task_sha256 == task.sha256


def test_the_same_batches_give_the_same_answers(built) -> None:
    engine, samples = Engine(built("llava-shapes/fp16")), get_task("shapes-vqa").sample(8)
    assert predict(engine, samples, 8, 64) == predict(engine, samples, 8, 64)


def test_rescoring_needs_no_model_and_changes_nothing_but_scores() -> None:
    report = next(r for r in store.load_all() if r.recipe == "llava-shapes/fp16")
    rows = {name: given[:50] for name, given in store.load_predictions(report).items()}
    again = rescore(report, rows, "minilm")
    assert replace(again, quality=report.quality) == report
    assert {name: q.samples for name, q in again.quality.items()} == dict.fromkeys(report.quality, 50)
    worse = {name: [row | {"answer": "?"} for row in given] for name, given in rows.items()}
    assert all(q.exact_match == 0 for q in rescore(report, worse, "minilm").quality.values())
    with pytest.raises(ValueError, match="no recorded answers for"):
        rescore(report, {}, "minilm")
