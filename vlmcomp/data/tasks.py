"""Tasks as data: fixed questions about images, with reference answers. Images are drawn only when looked at."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from PIL import Image

from vlmcomp.data.answer_matching import normalise
from vlmcomp.results.store import Rows


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
