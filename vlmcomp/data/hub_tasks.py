"""Public VQA data sets as tasks, from the Hub or from a local copy with the same layout."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from vlmcomp import hub
from vlmcomp.data.parquet import ParquetImages, list_shards, load_text_columns
from vlmcomp.data.tasks import Sample, Task, majority_answer
from vlmcomp.files import short_digest

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_NUM_SAMPLES = 1000
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


HUB_TASKS = {
    t.name: t
    for t in (
        HubTask(
            name="vqav2",
            title="VQAv2, validation split",
            repo_id="lmms-lab/VQAv2",
            revision="32665d35052eb4a6d4414851c3c829a72754915a",
            license="CC-BY-4.0",
            files="data/validation-*.parquet",
            id="question_id",
            type="answer_type",
            answers="answers.answer",
            reference="multiple_choice_answer",
        ),
        HubTask(
            name="gqa",
            title="GQA, balanced test-dev split",
            repo_id="lmms-lab/GQA",
            revision="a6e72d6e1b912da88af8b2f9eba05d5ea8ec2dd8",
            license="MIT by its card, CC-BY-4.0 by its authors",
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
            repo_id="lmms-lab/textvqa",
            revision="9c0699cd19768ac5ab97568f6b3cbac4c0062884",
            license="CC-BY-4.0",
            files="data/validation-*.parquet",
            id="question_id",
            answers="answers",
        ),
        HubTask(
            name="okvqa",
            title="OK-VQA, validation split",
            repo_id="lmms-lab/OK-VQA",
            revision="c9f858961f4095a9aeef615057b0822cce967096",
            license="not stated",
            files="data/val2014-*.parquet",
            id="question_id",
            type="question_type",
            answers="answers",
        ),
    )
}


def get_hub_task(name: str) -> Task | None:
    """The Hub task ``name``, or None if it is not one.

    ``name@REVISION`` selects another revision, ``name=DIR`` reads a local copy. The first use downloads the shards of
    the split to the Hub's cache.

    Raises:
        ValueError: one sentence on why the task is not available: no network, no such revision or folder, or
            unexpected columns.
    """
    match = re.fullmatch("([^@=]*)(?:([@=])(.*))?", name, re.DOTALL)
    assert match is not None
    task_name, mark, rest = match.groups()
    if (hub_task := HUB_TASKS.get(task_name)) is None:
        return None
    if mark and not rest:
        raise ValueError(f"'{name}' is not a task: write {task_name}, {task_name}@REVISION or {task_name}=DIR")
    if mark != "=":
        return _from_hub(hub_task, rest or hub_task.revision)
    if not Path(rest).is_dir():
        raise ValueError(f"there is no folder {rest} for the task {task_name}")
    return _from_folder(hub_task, Path(rest).resolve())


@cache
def _from_hub(hub_task: HubTask, revision: str) -> Task:
    """Download the task, with a progress bar on the terminal."""
    from tqdm import tqdm

    bar_format = "{desc}: {n:.0f} %"
    with tqdm(total=100, desc=hub_task.repo_id, unit="%", bar_format=bar_format, leave=False, disable=None) as bar:

        def progress(text: str, fraction: float) -> None:
            bar.set_description(text, refresh=False)
            bar.update(100 * fraction - bar.n)

        try:
            folder, commit = hub.download_dataset_files(hub_task.repo_id, revision, hub_task.patterns, progress)
        except ValueError as error:
            raise ValueError(f"{error}; or give a copy: --task {hub_task.name}=DIR") from None
    return _make_task(hub_task, folder, f"{hub_task.repo_id}@{commit[:12]}")


@cache
def _from_folder(hub_task: HubTask, folder: Path) -> Task:
    """The task from a local copy; a digest of its files is the version."""
    shards = chain.from_iterable(list_shards(folder, pattern, hub_task.repo_id) for pattern in hub_task.patterns)
    return _make_task(hub_task, folder, short_digest(shards))


def _make_task(hub_task: HubTask, folder: Path, version: str) -> Task:
    samples = _load_samples(hub_task, folder)
    return Task(
        name=hub_task.name,
        title=hub_task.title,
        version=version,
        license=hub_task.license,
        load_samples=lambda: samples,
        default_num_samples=min(DEFAULT_NUM_SAMPLES, len(samples)),
        append_short_answer_prompt=True,
        metric="VQA accuracy" if hub_task.answers else "exact match",
    )


def _load_samples(hub_task: HubTask, folder: Path) -> _HubSamples:
    """The samples of the shards in ``folder``; raises ``ValueError`` if these are not as ``hub_task`` describes."""
    files = list_shards(folder, hub_task.files, hub_task.repo_id)
    texts = load_text_columns(files, hub_task.columns, hub_task.repo_id)
    image_rows = None
    if hub_task.images:
        files = list_shards(folder, hub_task.images, hub_task.repo_id)
        image_ids = load_text_columns(files, ["id"], hub_task.repo_id)["id"]
        image_rows = {image_id: row for row, image_id in enumerate(image_ids)}
    samples = _HubSamples(hub_task, texts, ParquetImages(files, hub_task.image, hub_task.repo_id), image_rows)
    if not len(samples):
        raise ValueError(f"{folder} has no questions")
    if len(texts.unique(hub_task.id)) < len(samples):
        raise ValueError(f"{folder}: two questions have the same {hub_task.id}")
    if image_rows is not None:
        missing = [image_id for image_id in texts.unique(hub_task.image_id) if image_id not in image_rows]
        if missing:
            raise ValueError(f"{folder}: {len(missing)} images are missing, {missing[0]} for one")
    samples[0]  # fails early if the columns have other contents
    return samples


class _HubSamples(Sequence[Sample]):
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

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # negative indices, and IndexError
        return self._sample(number, self._texts[number])

    def __iter__(self) -> Iterator[Sample]:
        number = 0
        for batch in self._texts.iter(_BATCH):
            for cells in zip(*batch.values()):
                yield self._sample(number, dict(zip(batch, cells)))
                number += 1

    def _sample(self, number: int, row: dict[str, Any]) -> Sample:
        """The sample of the row ``number``; raises ``ValueError`` if its columns are not as described."""
        columns = self._hub_task
        try:
            answers = [_as_text(answer) for answer in _read_path(row, columns.answers)] if columns.answers else []
            if columns.answers and len(answers) < 2:
                raise ValueError("fewer than two answers")
            return Sample(
                id=str(row[columns.id]),
                type=_as_text(_read_path(row, columns.type)) if columns.type else "question",
                question=_as_text(_read_path(row, columns.question)).strip(),
                reference=self._reference(row, answers),
                load_image=partial(self._images.load_image, self._image_row(number, row)),
                references=tuple(answers),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"row {number} does not read as one of {columns.repo_id} ({error})") from None

    def _reference(self, row: dict[str, Any], answers: Sequence[str]) -> str:
        path = self._hub_task.reference
        return _as_text(_read_path(row, path)) if path else majority_answer(answers)

    def _image_row(self, number: int, row: dict[str, Any]) -> int:
        column = self._hub_task.image_id
        return number if self._image_rows is None or column is None else self._image_rows[row[column]]


def _read_path(row: Any, path: str) -> Any:
    """The field at a dotted ``path``: of a struct, or of each struct in a list."""
    value = row
    for name in path.split("."):
        value = [item[name] for item in value] if isinstance(value, list) else value[name]
    return value


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a text")
    return value
