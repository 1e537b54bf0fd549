"""Objects-VQA: questions about held-out scenes of things, rendered when accessed.

Half of the questions are about new scenes of pictures that are in training too, half about scenes of an artist whose
pictures never are.
"""

from __future__ import annotations

import random
from functools import cache, partial

from vlmcomp.data.object_questions import BRIEFLY, sample_question
from vlmcomp.data.object_rendering import render_scene
from vlmcomp.data.object_scenes import sample_scene
from vlmcomp.data.object_sprites import HELD_OUT, TRAIN
from vlmcomp.data.tasks import Sample

AXES = {"scenes": TRAIN, "renderings": HELD_OUT}  # what is held out, and the role of the pictures
NUM_SCENES = 750  # of each axis
QUESTIONS_PER_SCENE = 2


@cache
def samples() -> tuple[Sample, ...]:
    """The test split: ``QUESTIONS_PER_SCENE`` different questions about each scene; axes take turns.

    Raises:
        OSError: the things or their pictures cannot be read.
        ValueError: they are damaged.
    """
    generators = {axis: random.Random(f"objects-vqa-1-{axis}") for axis in AXES}  # training has seeds of other names
    found: list[Sample] = []
    for number in range(NUM_SCENES):
        for axis, role in AXES.items():
            rng = generators[axis]
            scene = sample_scene(rng, (role,))
            texts: set[str] = set()
            while len(texts) < QUESTIONS_PER_SCENE:
                question = sample_question(rng, scene)
                key = question.text.removesuffix(BRIEFLY).strip().lower()
                if key in texts:
                    continue
                sample_id = f"{axis}-{number:03d}-{len(texts)}"
                texts.add(key)
                load_image = partial(render_scene, scene)
                found.append(Sample(sample_id, question.type, question.text, question.answer, load_image))
    return tuple(found)


def held_out_axis(sample_id: str) -> str:
    """What is held out in the sample of that id: a key of ``AXES``."""
    return sample_id.partition("-")[0]
