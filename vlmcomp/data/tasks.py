"""Tasks as data: fixed questions about images, with reference answers. Images are drawn only when looked at."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path

from PIL import Image

from vlmcomp.data.answer_matching import normalise
from vlmcomp.data.images import open_image
from vlmcomp.results.store import Rows

FILE = "task.jsonl"
SHAPES_SCENES = 500
SHAPES_QUESTIONS = 4  # a scene


@dataclass(frozen=True)
class Sample:
    """One question. ``draw`` makes its image anew each time, so a task holds texts, not pixels.

    ``references``: what several people answered, where a task has that; ``reference`` is then the commonest.
    """

    id: str
    type: str
    question: str
    reference: str
    draw: Callable[[], Image.Image] = field(repr=False)
    references: tuple[str, ...] = ()

    @property
    def image(self) -> Image.Image:
        return self.draw()


@dataclass(frozen=True)
class Task:
    """A named, versioned list of samples. ``usual`` is how many are asked when nobody says how many.

    ``asks_style``: the questions say nothing about the answer's style, so the model's own wording for a single
    word is appended. ``metric``: the score that its authors report.
    """

    name: str
    title: str
    version: str
    licence: str
    source: Callable[[], Sequence[Sample]]
    usual: int
    asks_style: bool = False
    metric: str = "exact match"

    @cached_property
    def everything(self) -> Sequence[Sample]:
        return self.source()

    @cached_property
    def sha256(self) -> str:
        """Hex digest over every sample's texts: equal digests mean that the same questions were asked."""
        lines = ("\t".join((s.id, s.type, s.question, s.reference, *s.references)) for s in self.everything)
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
            chosen = [chosen[i] for i in sorted(picks)]
        if self.asks_style and one_word:
            return [replace(s, question=f"{s.question} {one_word}") for s in chosen]
        return list(chosen)


def drawn(sample: Sample) -> Sample:
    """``sample`` with its image drawn now and kept, for whoever asks it many times."""
    image = sample.image
    return replace(sample, draw=lambda: image)


def agreed(said: Sequence[str]) -> str:
    """The commonest of several answers, as it was first written; blank ones do not count. Empty if there is none."""
    spoken = [text for text in said if text.strip()]
    best = Counter(map(normalise, spoken)).most_common(1)
    return next((text for text in spoken if normalise(text) == best[0][0]), "")


def commonest(rows: Rows) -> dict[str, float]:
    """Per type, the exact-match share of an answerer that always gives that type's commonest reference."""
    references: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        references[row["type"]][normalise(row["reference"])] += 1
    return {kind: max(found.values()) / found.total() for kind, found in references.items()}


@cache
def _shapes_vqa() -> tuple[Sample, ...]:
    from vlmcomp.data.questions import sample_question
    from vlmcomp.data.scenes import render, sample_scene

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
    from vlmcomp.training.packing import EasyVQA

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
    """The task of that name, one of the Hub (``hub_tasks.find``), or the one in the folder ``name`` (``folder``).

    Raises:
        ValueError: no such task, naming those there are, or one that cannot be had.
    """
    if name in TASKS:
        return TASKS[name]
    from vlmcomp.data import hub_tasks

    if (found := hub_tasks.find(name)) is not None:
        return found
    if Path(name).is_dir():
        return folder(Path(name).resolve())
    names = ", ".join((*TASKS, *hub_tasks.HUB))
    raise ValueError(f"unknown task '{name}': choose from {names}, or give a folder with {FILE}")


@cache
def folder(place: Path) -> Task:
    """A task of one's own: ``task.jsonl`` in ``place``, one JSON object a line.

    Each has ``image`` (a path relative to the folder), ``question`` and ``answer``, or ``answers``: what several
    people said; ``id`` and ``type`` are optional.

    Raises:
        ValueError: the file is missing, empty or has a line that is not so; the line is named.
    """
    file = place / FILE
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{place} is not a task: {FILE} cannot be read ({type(error).__name__})") from None
    found = [_own(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len({sample.id for sample in found}) < max(1, len(found)):
        raise ValueError(f"{file}: " + ("two lines have the same id" if found else "it holds no questions"))
    version = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
    from vlmcomp.data.hub_tasks import HUB

    if place.name in TASKS or place.name in HUB:
        raise ValueError(f"{place} has the name of another task: rename the folder")
    return Task(place.name, place.name, version, "not stated", lambda: tuple(found), len(found))


def _own(file: Path, number: int, line: str) -> Sample:
    try:
        row = json.loads(line)
        image, question = file.parent / row["image"], row["question"]
        said = [row["answer"]] if "answer" in row else list(row["answers"])
        if isinstance(row.get("answers"), str):
            raise TypeError("letters are not people")
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{file}, line {number}: it must be a JSON object with image, question and answer") from None
    if not said or not all(isinstance(text, str) and text.strip() for text in (row["image"], question, *said)):
        raise ValueError(f"{file}, line {number}: image, question and answer must be texts that are not empty")
    if not image.is_file():
        raise ValueError(f"{file}, line {number}: there is no image {image}")
    many = tuple(said) if len(said) > 1 else ()
    name, kind = str(row.get("id", number)), str(row.get("type", "question"))
    return Sample(name, kind, question, agreed(said), partial(open_image, image), many)
