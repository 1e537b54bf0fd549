"""Tasks as data: fixed questions about images, with reference answers. Images are drawn only when looked at."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial

from PIL import Image

from vlmcomp.measure.metrics import normalise

SHAPES_SCENES = 500
SHAPES_QUESTIONS = 4  # a scene


@dataclass(frozen=True)
class Sample:
    """One question. ``draw`` makes its image anew each time, so a task holds texts, not pixels."""

    id: str
    type: str
    question: str
    reference: str
    draw: Callable[[], Image.Image] = field(repr=False)

    @property
    def image(self) -> Image.Image:
        return self.draw()


@dataclass(frozen=True)
class Task:
    """A named, versioned list of samples. ``usual`` is how many are asked when nobody says how many.

    ``asks_style``: the questions say nothing about the answer's style, so the model's own wording for a single
    word is appended.
    """

    name: str
    title: str
    version: str
    licence: str
    source: Callable[[], tuple[Sample, ...]]
    usual: int
    asks_style: bool = False

    @cached_property
    def everything(self) -> tuple[Sample, ...]:
        return self.source()

    @cached_property
    def sha256(self) -> str:
        """Hex digest over every sample's texts: equal digests mean that the same questions were asked."""
        lines = ("\t".join((s.id, s.type, s.question, s.reference)) for s in self.everything)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def count(self, samples: int | None) -> int:
        """How many samples are asked for ``samples`` (None: the usual number), never more than there are.

        Raises:
            ValueError: fewer than one.
        """
        if samples is None:
            return self.usual
        if samples < 1:
            raise ValueError(f"{self.name} needs at least one sample, not {samples}")
        return min(samples, len(self.everything))

    def samples(self, count: int | None = None, seed: int = 0, one_word: str = "") -> list[Sample]:
        """``count`` samples (None: all) drawn by ``seed`` without repetition, in the task's own order.

        ``one_word`` is how the model is asked for a single word (``zoo.Model.one_word``).
        """
        chosen = self.everything
        if count is not None and self.count(count) < len(chosen):
            picks = random.Random(f"{self.name}-{self.version}-{seed}").sample(range(len(chosen)), count)
            chosen = tuple(chosen[i] for i in sorted(picks))
        if self.asks_style and one_word:
            return [replace(s, question=f"{s.question} {one_word}") for s in chosen]
        return list(chosen)


def drawn(sample: Sample) -> Sample:
    """``sample`` with its image drawn now and kept, for whoever asks it many times."""
    image = sample.image
    return replace(sample, draw=lambda: image)


def commonest(samples: Iterable[Sample]) -> dict[str, float]:
    """Per type, the exact-match share of an answerer that always gives that type's commonest reference."""
    references: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        references[sample.type][normalise(sample.reference)] += 1
    return {kind: max(found.values()) / found.total() for kind, found in references.items()}


@cache
def _shapes_vqa() -> tuple[Sample, ...]:
    from vlmcomp.shapes.questions import sample_question
    from vlmcomp.shapes.scenes import render, sample_scene

    rng = random.Random("shapes-vqa-1-test")  # training draws from "train-..." and "tower-..." alone
    found = []
    for number in range(SHAPES_SCENES):
        scene = sample_scene(rng)
        texts: set[str] = set()
        while len(texts) < SHAPES_QUESTIONS:
            question = sample_question(rng, scene)
            if question.text in texts:
                continue
            name = f"{number:03d}-{len(texts)}"
            texts.add(question.text)
            found.append(Sample(name, question.type, question.text, question.answer, partial(render, scene)))
    return tuple(found)


@cache
def _easy_vqa() -> tuple[Sample, ...]:
    try:
        import easy_vqa  # noqa: F401 - says early and clearly that it is missing
    except ImportError:
        raise ValueError("the task easy-vqa needs its data: pip install easy-vqa") from None
    from vlmcomp.shapes.batches import EasyVQA

    split = EasyVQA("test")
    found = []
    for image_id, pairs in split.questions.items():
        for number, (text, answer) in enumerate(pairs):
            draw = partial(split.image, image_id)
            found.append(Sample(f"{image_id:04d}-{number:02d}", _easy_type(answer), text, answer, draw))
    return tuple(found)


def _easy_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "color"


TASKS = {
    t.name: t
    for t in (
        Task(
            name="shapes-vqa",
            title="Shapes-VQA, held-out scenes",
            version="1",
            licence="Apache-2.0",
            source=_shapes_vqa,
            usual=SHAPES_SCENES * SHAPES_QUESTIONS,
        ),
        Task(
            name="easy-vqa",
            title="easy-VQA, test split",
            version="1.0",
            licence="MIT",
            source=_easy_vqa,
            usual=1000,
            asks_style=True,
        ),
    )
}


def find(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: no such task, naming those there are.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task '{name}': choose from {', '.join(TASKS)}")
    return TASKS[name]
