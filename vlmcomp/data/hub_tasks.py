"""Tasks from the Hub: public VQA sets as rows of a table. The same code reads a copy in a folder, laid out alike."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from vlmcomp import hub
from vlmcomp.data.parquet import Pictures, shards, texts
from vlmcomp.data.tasks import Sample, Task, agreed

if TYPE_CHECKING:
    from datasets import Dataset

USUAL = 1000
_BATCH = 1000  # rows of text that are looked at together


@dataclass(frozen=True)
class HubTask:
    """A data set of the Hub and how its columns read; ``a.b`` is the field b of a struct, or of each in a list.

    ``files`` are the shards of the questions; ``images`` those of the images where they lie apart, whose ``id`` is the
    question's ``image_id``. ``answers``: what several people said; without ``reference`` the commonest of them is it.
    """

    name: str
    title: str
    place: str
    revision: str
    licence: str
    files: str
    id: str
    type: str | None = None
    question: str = "question"
    answers: str | None = None
    reference: str | None = None
    image: str = "image"
    images: str | None = None
    image_id: str | None = None

    @property
    def columns(self) -> list[str]:
        """The columns of text that are read."""
        paths = (self.id, self.type, self.question, self.answers, self.reference, self.image_id)
        return list(dict.fromkeys(path.partition(".")[0] for path in paths if path))


HUB = {
    t.name: t
    for t in (
        HubTask(
            name="vqav2",
            title="VQAv2, validation split",
            place="lmms-lab/VQAv2",
            revision="32665d35052eb4a6d4414851c3c829a72754915a",
            licence="CC-BY-4.0",
            files="data/validation-*.parquet",
            id="question_id",
            type="answer_type",
            answers="answers.answer",
            reference="multiple_choice_answer",
        ),
        HubTask(
            name="gqa",
            title="GQA, balanced test-dev split",
            place="lmms-lab/GQA",
            revision="a6e72d6e1b912da88af8b2f9eba05d5ea8ec2dd8",
            licence="MIT by its card, CC-BY-4.0 by its authors",
            files="testdev_balanced_instructions/testdev-*.parquet",
            id="id",
            type="types.structural",
            reference="answer",
            images="testdev_balanced_images/testdev-*.parquet",
            image_id="imageId",
        ),
        HubTask(
            name="textvqa",
            title="TextVQA, validation split",
            place="lmms-lab/textvqa",
            revision="9c0699cd19768ac5ab97568f6b3cbac4c0062884",
            licence="CC-BY-4.0",
            files="data/validation-*.parquet",
            id="question_id",
            answers="answers",
        ),
        HubTask(
            name="okvqa",
            title="OK-VQA, validation split",
            place="lmms-lab/OK-VQA",
            revision="c9f858961f4095a9aeef615057b0822cce967096",
            licence="not stated",
            files="data/val2014-*.parquet",
            id="question_id",
            type="question_type",
            answers="answers",
        ),
    )
}


def find(name: str) -> Task | None:
    """The Hub task ``name``; ``name@REVISION`` pins another revision, ``name=DIR`` reads a copy. Others are None.

    From the Hub the split's shards come first, the first time, and stay in the Hub's cache.

    Raises:
        ValueError: one sentence on why it cannot be had: no network, no such revision or folder, other columns.
    """
    head, mark, rest = re.split("([@=])", name, maxsplit=1) if re.search("[@=]", name) else (name, "", "")
    if (row := HUB.get(head)) is None:
        return None
    if mark and not rest:
        raise ValueError(f"'{name}' is not a task: write {head}, {head}@REVISION or {head}=DIR")
    if mark != "=":
        return _from_hub(row, rest or row.revision)
    if not Path(rest).is_dir():
        raise ValueError(f"there is no folder {rest} for the task {head}")
    return _from_folder(row, Path(rest).resolve())


@cache
def _from_hub(row: HubTask, revision: str) -> Task:
    from tqdm import tqdm

    with tqdm(total=100, desc=row.place, unit="%", bar_format="{desc}: {n:.0f} %", leave=False, disable=None) as bar:

        def say(text: str, share: float) -> None:
            bar.set_description(text, refresh=False)
            bar.update(100 * share - bar.n)

        try:
            folder, commit = hub.fetch_data(row.place, revision, [p for p in (row.files, row.images) if p], say)
        except ValueError as error:
            raise ValueError(f"{error}; or give a copy: --task {row.name}=DIR") from None
    return _task(row, folder, f"{row.place}@{commit[:12]}")


@cache
def _from_folder(row: HubTask, folder: Path) -> Task:
    digest = hashlib.sha256()
    for file in (f for pattern in (row.files, row.images) if pattern for f in shards(folder, pattern, row.place)):
        with file.open("rb") as data:
            while block := data.read(1 << 20):
                digest.update(block)
    return _task(row, folder, f"sha256:{digest.hexdigest()[:16]}")


def _task(row: HubTask, folder: Path, version: str) -> Task:
    questions = _questions(row, folder)
    return Task(
        name=row.name,
        title=row.title,
        version=version,
        licence=row.licence,
        source=lambda: questions,
        usual=min(USUAL, len(questions)),
        asks_style=True,
        metric="VQA accuracy" if row.answers else "exact match",
    )


def _questions(row: HubTask, folder: Path) -> _Questions:
    """Raises ``ValueError`` where the files do not read as ``row`` says."""
    files = shards(folder, row.files, row.place)
    words, rows = texts(files, row.columns, row.place), None
    if row.images:
        files = shards(folder, row.images, row.place)
        rows = {name: i for i, name in enumerate(texts(files, ["id"], row.place)["id"])}
    found = _Questions(row, words, Pictures(files, row.image, row.place), rows)
    if not len(found):
        raise ValueError(f"{folder} holds no questions")
    if len(words.unique(row.id)) < len(found):
        raise ValueError(f"{folder}: two questions have the same {row.id}")
    if rows is not None and (lost := [name for name in words.unique(row.image_id) if name not in rows]):
        raise ValueError(f"{folder}: {len(lost)} images are missing, {lost[0]} for one")
    found[0]  # says early if the columns hold something else
    return found


class _Questions(Sequence[Sample]):
    """The samples of a Hub task, made from its texts when looked at. ``rows``: where an image lies, by its name."""

    def __init__(self, row: HubTask, texts: Dataset, pictures: Pictures, rows: dict[str, int] | None) -> None:
        self._row, self._texts, self._pictures, self._rows = row, texts, pictures, rows

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Sample]: ...
    def __getitem__(self, place: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        number = range(len(self))[place]
        return self._sample(number, self._texts[number])

    def __iter__(self) -> Iterator[Sample]:
        number = 0
        for batch in self._texts.iter(_BATCH):
            for cells in zip(*batch.values()):
                yield self._sample(number, dict(zip(batch, cells)))
                number += 1

    def _sample(self, number: int, cells: dict[str, Any]) -> Sample:
        row = self._row
        try:
            said = [_text(t) for t in _at(cells, row.answers)] if row.answers else []
            reference = _text(_at(cells, row.reference)) if row.reference else agreed(said)
            kind = _text(_at(cells, row.type)) if row.type else "question"
            question = _text(_at(cells, row.question)).strip()
            place = number if self._rows is None else self._rows[cells[row.image_id]]
            if row.answers and len(said) < 2:
                raise ValueError("one answer is not several")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"row {number} does not read as one of {row.place} ({error})") from None
        return Sample(str(cells[row.id]), kind, question, reference, partial(self._pictures.draw, place), tuple(said))


def _at(cells: Any, path: str) -> Any:
    for name in path.split("."):
        cells = [cell[name] for cell in cells] if isinstance(cells, list) else cells[name]
    return cells


def _text(cell: Any) -> str:
    if not isinstance(cell, str):
        raise TypeError(f"{cell!r:.40} is not a text")
    return cell
