"""Samples of a data set as the Hub stores it: texts and images in Parquet shards, described by their columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from vlmcomp.data.bad_rows import BadRow, refuse
from vlmcomp.data.parquet import ParquetImages, list_shards, load_text_columns
from vlmcomp.data.tasks import Sample, majority_answer

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 1000  # rows of text that are read together


@dataclass(frozen=True)
class HubTask:
    """A data set on the Hub and the meaning of its columns.

    A column ``a.b`` is the field b of a struct a, or of each struct in a list.

    Attributes:
        files: glob pattern of the shards with the questions.
        answers: column with the answers of several people; without ``reference`` the most common one is the reference.
        images: glob pattern of the shards with the images, if they are separate; their ``id`` is ``image_id``.
    """

    name: str
    title: str
    repo_id: str
    revision: str
    license: str
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
        """The text columns to read."""
        paths = (self.id, self.type, self.question, self.answers, self.reference, self.image_id)
        return list(dict.fromkeys(path.partition(".")[0] for path in paths if path))

    @property
    def patterns(self) -> list[str]:
        """Glob patterns of all shards."""
        return [pattern for pattern in (self.files, self.images) if pattern]


def load_samples(hub_task: HubTask, folder: Path, bad_rows: str) -> tuple[HubSamples, tuple[BadRow, ...]]:
    """The samples of the shards in ``folder``, and the rows that are skipped because their texts are invalid.

    Raises:
        ValueError: the shards are not as ``hub_task`` describes, or rows are invalid and may not be skipped.
    """
    shards = list_shards(folder, hub_task.files, hub_task.repo_id)
    texts = load_text_columns(shards, hub_task.columns, hub_task.repo_id)
    image_rows = None
    if hub_task.images:
        shards = list_shards(folder, hub_task.images, hub_task.repo_id)
        image_ids = load_text_columns(shards, ["id"], hub_task.repo_id)["id"]
        image_rows = {image_id: row for row, image_id in enumerate(image_ids)}
    if not len(texts):
        raise ValueError(f"{folder} has no questions")
    if len(texts.unique(hub_task.id)) < len(texts):
        raise ValueError(f"{folder}: two questions have the same {hub_task.id}")
    samples = HubSamples(hub_task, texts, ParquetImages(shards, hub_task.image, hub_task.repo_id), image_rows)
    bad = samples.leave_out_invalid(folder)
    refuse(bad, len(texts), bad_rows)
    return samples, tuple(bad)


class HubSamples(Sequence[Sample]):
    """The samples of a Hub task, made from memory-mapped texts on access.

    ``image_rows`` maps an image id to its row in ``images``; None if each question has its own image.
    """

    def __init__(
        self, hub_task: HubTask, texts: Dataset, images: ParquetImages, image_rows: dict[str, int] | None
    ) -> None:
        self._hub_task = hub_task
        self._texts = texts
        self._images = images
        self._image_rows = image_rows
        self._numbers: Sequence[int] = range(len(texts))  # of the rows that are samples

    def leave_out_invalid(self, folder: Path) -> list[BadRow]:
        """Leave out the rows of the copy in ``folder`` whose texts are invalid, and return them."""
        bad: dict[int, BadRow] = {}
        for number, row in self._rows():
            try:
                self._sample(number, row)
            except ValueError as error:
                bad[number] = BadRow(None, f"{folder}, {error}", number)
        if bad:
            self._numbers = [number for number in self._numbers if number not in bad]
        return list(bad.values())

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = self._numbers[index]
        return self._sample(number, self._texts[number])

    def __iter__(self) -> Iterator[Sample]:
        numbers = iter(self._numbers)
        following = next(numbers, None)
        for number, row in self._rows():
            if number == following:
                yield self._sample(number, row)
                following = next(numbers, None)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and columns of every row, read in batches."""
        number = 0
        for batch in self._texts.iter(_BATCH):
            for cells in zip(*batch.values()):
                yield number, dict(zip(batch, cells))
                number += 1

    def _sample(self, number: int, row: dict[str, Any]) -> Sample:
        """The sample of the row ``number``; raises ``ValueError`` if its columns are not as described."""
        columns = self._hub_task
        try:
            answers = [_as_text(answer) for answer in read_path(row, columns.answers)] if columns.answers else []
            if columns.answers and len(answers) < 2:
                raise ValueError("fewer than two answers")
            if row[columns.id] is None:
                raise ValueError("no id")
            return Sample(
                id=str(row[columns.id]),
                type=_as_text(read_path(row, columns.type)) if columns.type else "question",
                question=_as_text(read_path(row, columns.question)).strip(),
                reference=self._reference(row, answers),
                load_image=partial(self._images.load_image, self._image_row(number, row)),
                references=tuple(answers),
                row_number=number,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"row {number} does not read as one of {columns.repo_id} ({error})") from None

    def _reference(self, row: dict[str, Any], answers: Sequence[str]) -> str:
        path = self._hub_task.reference
        return _as_text(read_path(row, path)) if path else majority_answer(answers)

    def _image_row(self, number: int, row: dict[str, Any]) -> int:
        column = self._hub_task.image_id
        if self._image_rows is None or column is None:
            return number
        if row[column] not in self._image_rows:
            raise ValueError(f"there is no image {row[column]}")
        return self._image_rows[row[column]]


def read_path(row: Any, path: str) -> Any:
    """The field at a dotted ``path``: of a struct, or of each struct in a list."""
    value = row
    for name in path.split("."):
        value = [item[name] for item in value] if isinstance(value, list) else value[name]
    return value


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a text")
    return value
