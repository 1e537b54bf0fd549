"""Tasks by name: those that ship, those of the Hub, and folders of one's own."""

from __future__ import annotations

import hashlib
import json
from functools import cache, partial
from pathlib import Path

from vlmcomp.data import easy_vqa, hub_tasks, shapes_vqa
from vlmcomp.data.images import open_image
from vlmcomp.data.tasks import Sample, Task, agreed

FILE = "task.jsonl"


TASKS = {
    t.name: t
    for t in (
        Task(
            name="shapes-vqa",
            title="Shapes-VQA, held-out scenes",
            version="1",
            licence="Apache-2.0",
            source=shapes_vqa.samples,
            usual=shapes_vqa.NUM_SCENES * shapes_vqa.QUESTIONS_PER_SCENE,
        ),
        Task(
            name="easy-vqa",
            title="easy-VQA, test split",
            version="1.0",
            licence="MIT",
            source=easy_vqa.samples,
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
    if place.name in TASKS or place.name in hub_tasks.HUB:
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
