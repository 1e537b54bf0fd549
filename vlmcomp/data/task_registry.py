"""Tasks by name: built-in tasks, tasks from the Hub, and the user's own folders."""

from __future__ import annotations

import hashlib
import json
from functools import cache, partial
from pathlib import Path

from vlmcomp.data import easy_vqa, hub_tasks, shapes_vqa
from vlmcomp.data.images import open_image
from vlmcomp.data.tasks import Sample, Task, majority_answer

TASK_FILE = "task.jsonl"
TASKS = {
    t.name: t
    for t in (
        Task(
            name="shapes-vqa",
            title="Shapes-VQA, held-out scenes",
            version="1",
            license="Apache-2.0",
            load_samples=shapes_vqa.samples,
            default_num_samples=shapes_vqa.NUM_SCENES * shapes_vqa.QUESTIONS_PER_SCENE,
        ),
        Task(
            name="easy-vqa",
            title="easy-VQA, test split",
            version="1.0",
            license="MIT",
            load_samples=easy_vqa.samples,
            default_num_samples=1000,
            append_short_answer_prompt=True,
        ),
    )
}


def get_task(name: str) -> Task:
    """The built-in task ``name``, one from the Hub (``get_hub_task``), or the one in a folder (``task_from_folder``).

    Raises:
        ValueError: no such task (the message lists those that exist), or its data is not available.
    """
    if name in TASKS:
        return TASKS[name]
    if (hub_task := hub_tasks.get_hub_task(name)) is not None:
        return hub_task
    if Path(name).is_dir():
        return task_from_folder(Path(name).resolve())
    names = ", ".join((*TASKS, *hub_tasks.HUB_TASKS))
    raise ValueError(f"unknown task '{name}': choose from {names}, or give a folder with {TASK_FILE}")


@cache
def task_from_folder(folder: Path) -> Task:
    """The user's own task: ``task.jsonl`` in ``folder``, one JSON object a line.

    Each has ``image`` (a path relative to the folder), ``question`` and ``answer``, or ``answers`` of several people;
    ``id`` and ``type`` are optional.

    Raises:
        ValueError: the file is missing or empty, or a line is invalid; the message names the line.
    """
    file = folder / TASK_FILE
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder} is not a task: {TASK_FILE} cannot be read ({type(error).__name__})") from None
    samples = tuple(_parse_line(file, number, line) for number, line in enumerate(lines, 1) if line.strip())
    if not samples:
        raise ValueError(f"{file}: it has no questions")
    if len({sample.id for sample in samples}) < len(samples):
        raise ValueError(f"{file}: two lines have the same id")
    version = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
    if folder.name in TASKS or folder.name in hub_tasks.HUB_TASKS:
        raise ValueError(f"{folder} has the name of another task: rename the folder")
    return Task(folder.name, folder.name, version, "not stated", lambda: samples, len(samples))


def _parse_line(file: Path, number: int, line: str) -> Sample:
    """The sample of one line; raises ``ValueError`` with the line number if it is invalid."""
    try:
        row = json.loads(line)
        image = file.parent / row["image"]
        question = row["question"]
        answers = [row["answer"]] if "answer" in row else list(row["answers"])
        if isinstance(row.get("answers"), str):
            raise TypeError("answers must be a list")
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{file}, line {number}: it must be a JSON object with image, question and answer") from None
    texts = (row["image"], question, *answers)
    if not answers or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{file}, line {number}: image, question and answer must be non-empty strings")
    if not image.is_file():
        raise ValueError(f"{file}, line {number}: there is no image {image}")
    return Sample(
        id=str(row.get("id", number)),
        type=str(row.get("type", "question")),
        question=question,
        reference=majority_answer(answers),
        load_image=partial(open_image, image),
        references=tuple(answers) if len(answers) > 1 else (),
    )
