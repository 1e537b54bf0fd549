"""Shapes-VQA: questions about held-out scenes of colored shapes, rendered when accessed."""

from __future__ import annotations

import random
from functools import cache, partial

from vlmcomp.data.questions import sample_question
from vlmcomp.data.scenes import render_scene, sample_scene
from vlmcomp.data.tasks import Sample

NUM_SCENES = 500
QUESTIONS_PER_SCENE = 4


@cache
def samples() -> tuple[Sample, ...]:
    """The test split: ``QUESTIONS_PER_SCENE`` different questions about each scene."""
    rng = random.Random("shapes-vqa-1-test")  # training uses the seeds "train-..." and "tower-..." only
    found: list[Sample] = []
    for number in range(NUM_SCENES):
        scene = sample_scene(rng)
        texts: set[str] = set()
        while len(texts) < QUESTIONS_PER_SCENE:
            question = sample_question(rng, scene)
            if question.text in texts:
                continue
            sample_id = f"{number:03d}-{len(texts)}"
            texts.add(question.text)
            found.append(Sample(sample_id, question.type, question.text, question.answer, partial(render_scene, scene)))
    return tuple(found)
