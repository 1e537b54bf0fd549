"""A task of the user: a folder with ``task.jsonl`` and images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

from vlmcomp import files
from vlmcomp.data.bad_rows import BadRow, refuse
from vlmcomp.data.images import has_text, open_image
from vlmcomp.data.json_lines import TASK_FILE, parse_object, read_lines
from vlmcomp.data.tasks import Sample, Task, find_unreadable, majority_answer
from vlmcomp.data.unicode_text import escape, is_blank
from vlmcomp.results.schema import EXACT_MATCH, VQA_ACCURACY

_COLUMNS = "image, question and answer"


@dataclass(frozen=True)
class _Row:
    """One line of a task: a sample whose image is a file, or what is wrong with the line."""

    number: int
    line: str
    image: Path | None = None
    sample: Sample | None = None
    fault: str = ""


def task_from_folder(folder: Path, bad_rows: str = "error") -> Task:
    """The task in ``folder``: one JSON object a line of ``task.jsonl``.

    Each has ``image`` (a path relative to the folder), ``question`` and ``answer``, or ``answers`` of several people,
    or both: ``answer`` is then the reference of exact match. If any question has ``answers``, VQA accuracy judges all,
    and a single ``answer`` is that of one person. ``id`` and ``type`` are optional. The version is a digest of the
    lines and of the bytes of all images. Files that do not change are read once a process; images are not decoded here.

    Args:
        folder: the task's name is its name.
        bad_rows: what to do with invalid lines, one of ``BAD_ROWS``.

    Raises:
        ValueError: the file is missing or empty, or lines are invalid and may not be skipped; the message names the
            first.
    """
    if escape(folder) != str(folder):
        raise ValueError(f"{escape(folder)} has line breaks or control characters in its name: rename it")
    file = folder / TASK_FILE
    rows = _read_rows(file, files.stamp(file))
    stamps = tuple(files.stamp(row.image) if row.image else None for row in rows)
    return _make_task(file, rows, stamps, bad_rows)


@lru_cache(maxsize=8)
def _read_rows(file: Path, stamp: files.Stamp | None) -> tuple[_Row, ...]:
    """The lines of ``file``; ``stamp`` is that of their state."""
    try:
        lines = read_lines(file)
    except OSError as error:
        raise ValueError(f"{file.parent} is not a task: {TASK_FILE} cannot be read ({type(error).__name__})") from None
    rows: list[_Row] = []
    line_of_id: dict[str, int] = {}
    for number, line in lines:
        try:
            row = _parse_row(file, number, line)
        except ValueError as error:
            row = _Row(number, line, fault=str(error))
        if row.sample is not None and (first := line_of_id.setdefault(row.sample.id, number)) != number:
            row = _Row(number, line, fault=f"it has the same id as line {first}: '{escape(row.sample.id)}'")
        rows.append(row)
    if not rows:
        raise ValueError(f"{file}: it has no questions")
    return tuple(rows)


def _parse_row(file: Path, number: int, line: str) -> _Row:
    """The row of one line; raises ``ValueError`` if it is invalid."""
    row = {name: value for name, value in parse_object(line, _COLUMNS).items() if value is not None}
    answers = row["answers"] if "answers" in row else [row.get("answer")]
    has_columns = {"image", "question"} <= row.keys() and {"answer", "answers"} & row.keys()
    if not has_columns or not isinstance(answers, list):
        raise ValueError(f"it must be a JSON object with {_COLUMNS}")
    texts = (row["image"], row["question"], row.get("answer", "none"), *answers)
    if not answers or not all(map(has_text, texts)):
        raise ValueError(f"{_COLUMNS} must be non-empty strings")
    image = file.parent / row["image"]
    several = len(answers) > 1 or {"answer", "answers"} <= row.keys()  # one entry alone is the answer
    sample = Sample(
        id=_name(row, "id", str(number)),
        type=_name(row, "type", "question"),
        question=row["question"],
        reference=row["answer"] if "answer" in row else majority_answer(answers),
        load_image=partial(_open_row_image, image, f"{file}, line {number}, {escape(row['image'])}"),
        references=tuple(answers) if several else (),
        row_number=number,
    )
    return _Row(number, line, image, sample)


def _name(row: dict[str, Any], column: str, default: str) -> str:
    """The text or number in an optional column; raises ``ValueError`` if it is another value."""
    value = row.get(column, default)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or is_blank(str(value)):
        raise ValueError(f"its {column} must be a text or a number: give one, or leave it out")
    return str(value)


def _open_row_image(image: Path, row: str) -> Image.Image:
    try:
        return open_image(image)
    except ValueError as error:
        raise ValueError(f"{row}: {error}") from None


@lru_cache(maxsize=8)
def _make_task(file: Path, rows: tuple[_Row, ...], stamps: tuple[files.Stamp | None, ...], bad_rows: str) -> Task:
    """The task of the rows; ``stamps`` are those of their images."""
    paths = {row.image for row, stamp in zip(rows, stamps) if row.image and stamp}
    digests: dict[Path | None, str] = {path: _digest(path) for path in paths}
    samples: list[Sample] = []
    bad: list[BadRow] = []
    for row in rows:
        missing = f"there is no image {escape(row.image)} that can be read"
        fault = row.fault or ("" if digests.get(row.image) else missing)
        if row.sample is None or fault:
            bad.append(BadRow(None, f"{escape(file)}, line {row.number}: {fault}", row.number))
        else:
            samples.append(replace(row.sample, image_sha256=digests[row.image]))
    if bad and bad_rows == "error":
        bad += find_unreadable(samples)  # all bad rows are counted, not only the first kind
    refuse(bad, len(rows), bad_rows)
    name = file.parent.name
    version = _version(rows, [digests.get(row.image, "") for row in rows])
    metric = EXACT_MATCH
    if any(sample.references for sample in samples):  # every question by the same score: one answer is one person's
        metric = VQA_ACCURACY
        samples = [replace(s, references=s.references or (s.reference,)) for s in samples]
    return Task(name, name, version, "not stated", lambda: samples, len(samples), metric=metric, skipped=tuple(bad))


def _digest(image: Path) -> str:
    """SHA-256 of a file, empty if it cannot be read."""
    try:
        return files.sha256_of_files([image])
    except OSError:
        return ""


def _version(rows: Sequence[_Row], digests: Sequence[str]) -> str:
    """The first 12 hex digits of a digest of all lines and images, skipped ones too."""
    text = "\n".join(f"{row.line}\t{digest}" for row, digest in zip(rows, digests))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
