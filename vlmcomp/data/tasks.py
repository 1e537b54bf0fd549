"""Tasks: fixed questions about images with reference answers. Images are loaded only when accessed."""

from __future__ import annotations

import hashlib
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from PIL import Image

from vlmcomp.data.answer_matching import normalize, score_answer
from vlmcomp.data.bad_rows import BadRow, refuse
from vlmcomp.data.unicode_text import is_blank
from vlmcomp.results.schema import EXACT_MATCH
from vlmcomp.results.store import Predictions

_NUM_DECODERS = 4  # images that are in memory at once while they are checked


@dataclass(frozen=True)
class Sample:
    """One question about an image.

    ``load_image`` loads or renders the image on each call, so a task keeps texts in memory and no pixels. Where several
    people answered, ``references`` are their answers and ``reference`` is the most common one. ``image_sha256`` is the
    digest of the image's file, where the task's version does not stand for it. ``row_number``: in the user's file.
    """

    id: str
    type: str
    question: str
    reference: str
    load_image: Callable[[], Image.Image] = field(repr=False)
    references: tuple[str, ...] = ()
    image_sha256: str = ""
    row_number: int = field(default=0, compare=False)

    @property
    def image(self) -> Image.Image:
        return self.load_image()


@dataclass(frozen=True)
class Task:
    """A named, versioned list of samples.

    Attributes:
        load_samples: returns all samples; called once.
        default_num_samples: number of samples if none is requested.
        append_short_answer_prompt: the questions do not ask for a short answer, so the model's own prompt for one is
            appended.
        metric: the score that judges it, which the task's authors report.
        skipped: rows of the user's files that cannot be used, and are not asked, in their order.
    """

    name: str
    title: str
    version: str
    license: str
    load_samples: Callable[[], Sequence[Sample]]
    default_num_samples: int
    append_short_answer_prompt: bool = False
    metric: str = EXACT_MATCH
    skipped: tuple[BadRow, ...] = ()

    @cached_property
    def all_samples(self) -> Sequence[Sample]:
        """All samples, in the task's order, those of ``skipped`` too."""
        return self.load_samples()

    @property
    def num_unreadable(self) -> int:
        """Number of samples in ``skipped``; its other rows did not become samples."""
        return sum(row.id is not None for row in self.skipped)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of all samples: equal digests mean equal questions, references, image files and skips."""
        lines = (
            "\t".join((s.id, s.type, s.question, s.reference, *s.references, *filter(None, [s.image_sha256])))
            for s in self.all_samples
        )
        skipped = (f"skipped\t{row.id}" for row in self.skipped if row.id is not None)
        return hashlib.sha256("\n".join((*lines, *skipped)).encode()).hexdigest()

    def num_samples(self, requested: int | None) -> int:
        """Number of samples to use: the default if ``requested`` is None, and never more than there are.

        Raises:
            ValueError: fewer than one.
        """
        if requested is None:
            return self.default_num_samples
        if requested < 1:
            raise ValueError(f"{self.name} needs at least one sample, not {requested}")
        return min(requested, len(self.all_samples))

    def sample(self, count: int | None = None, seed: int = 0, short_answer_prompt: str = "") -> list[Sample]:
        """A random subset without repetition, in the task's order; samples in ``skipped`` are left out of it.

        Args:
            count: number of samples; None for all.
            seed: of the subset.
            short_answer_prompt: the model's prompt for a short answer (``ModelSpec.short_answer_prompt``).
        """
        samples = self.all_samples
        if count is not None and self.num_samples(count) < len(samples):
            indices = random.Random(f"{self.name}-{self.version}-{seed}").sample(range(len(samples)), count)
            samples = [samples[index] for index in sorted(indices)]
        skipped = {row.id for row in self.skipped}
        samples = [s for s in samples if s.id not in skipped]
        if self.append_short_answer_prompt and short_answer_prompt:
            return [replace(s, question=f"{s.question} {short_answer_prompt}") for s in samples]
        return samples


@lru_cache(maxsize=16)
def check_images(task: Task, count: int, seed: int, bad_rows: str) -> Task:
    """Decode the images of the samples that will be asked.

    Args:
        task: whose images are files.
        count: number of samples, as ``Task.num_samples`` returns it.
        seed: of the subset.
        bad_rows: what to do with samples whose images cannot be read, one of ``BAD_ROWS``.

    Returns:
        The task, which skips those samples.

    Raises:
        ValueError: images cannot be read, and their samples may not be skipped or are all; the message names the first.
    """
    samples = task.sample(count, seed)
    skipped = sorted((*task.skipped, *find_unreadable(samples)), key=lambda row: row.number)
    refuse(skipped, len(samples) + len(task.skipped), bad_rows)
    return replace(task, skipped=tuple(skipped)) if len(skipped) > len(task.skipped) else task


def find_unreadable(samples: Sequence[Sample]) -> list[BadRow]:
    """The samples whose images cannot be decoded, in order."""
    with ThreadPoolExecutor(_NUM_DECODERS) as pool:
        return [row for row in pool.map(_unreadable, samples) if row is not None]


def _unreadable(sample: Sample) -> BadRow | None:
    try:
        sample.load_image()
    except (OSError, ValueError) as error:
        return BadRow(sample.id, str(error), sample.row_number)
    return None


def with_image(sample: Sample) -> Sample:
    """``sample`` with its image in memory, for repeated use."""
    image = sample.image
    return replace(sample, load_image=lambda: image)


def majority_answer(answers: Sequence[str]) -> str:
    """The most common of several answers, in its first spelling; blank answers do not count. Empty if all are blank."""
    non_blank = [answer for answer in answers if not is_blank(answer)]
    if not non_blank:
        return ""
    [(most_common, _)] = Counter(map(normalize, non_blank)).most_common(1)
    return next(answer for answer in non_blank if normalize(answer) == most_common)


def majority_baseline(predictions: Predictions, metric: str = EXACT_MATCH) -> dict[str, float]:
    """The score, by question type, of always giving the most common reference."""
    by_type: dict[str, Predictions] = defaultdict(list)
    for prediction in predictions:
        by_type[prediction["type"]].append(prediction)
    scores = {}
    for question_type, rows in by_type.items():
        always = majority_answer([row["reference"] for row in rows])
        scores[question_type] = statistics.fmean(score_answer(row | {"answer": always}, metric) for row in rows)
    return scores
