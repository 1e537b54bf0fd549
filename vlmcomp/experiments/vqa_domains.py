"""Experiment: the bundled VLM pruned by one kind of questions and asked another.

Kinds are questions about drawn scenes of several shapes (``shapes-vqa``), its question types in two halves, and
easy-VQA's questions about single shapes, which are drawn by other code.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.pruning.importance import DEFAULT_SCORE
from vlmcomp.compression.pruning.pruner import PruningMethod
from vlmcomp.data import task_registry, tasks
from vlmcomp.data.answer_matching import exact_match
from vlmcomp.data.calibration_data import CalibrationSample
from vlmcomp.data.easy_vqa import EasyVQA
from vlmcomp.data.questions import TYPES, sample_question
from vlmcomp.data.scenes import render_scene, sample_scene
from vlmcomp.experiments.trial_log import DENSE, Trial, encode_flags
from vlmcomp.experiments.vqa_kinds import EASY, PART, SCENES, TYPE_HALVES
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.engine import Engine

MODEL = "llava-shapes"
STEPS = ("glu30", "glu50", "heads25", "vis50")
SOURCES = (SCENES, EASY, f"{SCENES} + {EASY}", *TYPE_HALVES)
NUM_QUESTIONS = {"shapes-vqa": 500, "easy-vqa": 300}
BATCH_SIZE = 50


def calibration_samples(source: str, count: int, seed: int, one_word: str) -> Iterator[CalibrationSample]:
    """Samples of ``source``, one of ``SOURCES`` or several joined by " + ", which have equal shares.

    Args:
        source: what to draw.
        count: of all samples.
        seed: of the draw; no test has its seeds or images.
        one_word: what asks the model for a short answer, behind easy-VQA's questions.
    """
    parts = source.split(" + ")
    for part in parts:
        share = count // len(parts)
        yield from _easy_vqa(share, seed, one_word) if part == EASY else _scenes(part, share, seed)


def _scenes(source: str, count: int, seed: int) -> Iterator[CalibrationSample]:
    types = TYPE_HALVES.get(source, TYPES)
    rng = random.Random(f"calibrate-{seed}")
    while count:
        scene = sample_scene(rng)
        question = sample_question(rng, scene)
        if question.type in types:
            count -= 1
            yield render_scene(scene), question.text, question.answer


def _easy_vqa(count: int, seed: int, one_word: str) -> Iterator[CalibrationSample]:
    split = EasyVQA("train")
    rng = random.Random(f"calibrate-{seed}")
    for image_id in rng.sample(sorted(split.questions), count):
        text, answer = rng.choice(split.questions[image_id])
        yield split.image(image_id), f"{text} {one_word}", answer


class VQADomainsExperiment:
    """Prunes by the source of a trial, and answers the questions of every kind.

    Args:
        num_samples: questions of each task; default: ``NUM_QUESTIONS``.
    """

    def __init__(self, num_samples: int | None = None) -> None:
        self.spec = registry.get_model_spec(MODEL)
        self.questions: dict[str, list[tasks.Sample]] = {}
        for name, default in NUM_QUESTIONS.items():
            task = task_registry.get_task(name)
            count = task.num_samples(num_samples or default)
            self.questions[name] = task.sample(count, 0, self.spec.short_answer_prompt)

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Exact match of every kind of questions, and whether each answer was right."""
        steps = f"{trial.step}+fp16" if trial.step else "fp16"
        data = None
        if trial.score != DENSE:
            count = self.spec.num_calibration_samples
            data = calibration_samples(trial.calibration, count, trial.seed, self.spec.short_answer_prompt)
        method = PruningMethod(trial.score, trial.reconstruct, seed=trial.seed) if data else None
        vlm = compress(Recipe.parse(f"{MODEL}/{steps}"), device="cpu", calibration_data=data, method=method)
        engine = Engine(vlm)
        kinds: dict[str, list[bool]] = {name: [] for name in (EASY, *TYPE_HALVES)}
        for samples in self.questions.values():
            for start in range(0, len(samples), BATCH_SIZE):
                batch = samples[start : start + BATCH_SIZE]
                answers = engine.generate_batch([s.load_image() for s in batch], [s.question for s in batch])
                for sample, answer in zip(batch, answers, strict=True):
                    kinds[self._kind(sample)].append(exact_match(answer, sample.reference))
        return {
            "kinds": {
                name: {"samples": len(right), "exact_match": sum(right) / len(right), "right": encode_flags(right)}
                for name, right in kinds.items()
            }
        }

    def _kind(self, sample: tasks.Sample) -> str:
        return next((name for name, types in TYPE_HALVES.items() if sample.type in types), EASY)


def trials(seeds: Sequence[int]) -> Iterator[Trial]:
    """The dense model; every step and source with least squares; heads without, which fit no calibration set.

    Args:
        seeds: of the calibration sets.
    """
    yield Trial(PART, "", DENSE)
    for seed in seeds:
        for step in STEPS:
            for source in SOURCES:
                yield Trial(PART, step, DEFAULT_SCORE, True, seed, source)
            if step.startswith("heads"):
                yield Trial(PART, step, DEFAULT_SCORE, False, seed, SCENES)
