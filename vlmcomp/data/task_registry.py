"""Tasks by name: built-in tasks, tasks from the Hub, and the user's own folders."""

from __future__ import annotations

from pathlib import Path

from vlmcomp.data import easy_vqa, hub_tasks, objects_vqa, shapes_vqa
from vlmcomp.data.bad_rows import check_choice
from vlmcomp.data.json_lines import TASK_FILE
from vlmcomp.data.task_folder import task_from_folder
from vlmcomp.data.tasks import Task, check_images
from vlmcomp.data.unicode_text import escape
from vlmcomp.feedback import refuse_empty

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
        Task(
            name="objects-vqa",
            title="Objects-VQA, held-out scenes and renderings",
            version="1",
            license="Apache-2.0; the pictures of things MIT, Apache-2.0 and CC-BY-4.0",
            load_samples=objects_vqa.samples,
            default_num_samples=len(objects_vqa.AXES) * objects_vqa.NUM_SCENES * objects_vqa.QUESTIONS_PER_SCENE,
        ),
    )
}
DEFAULT_TASKS = ("shapes-vqa", "easy-vqa")  # what the bundled models were trained to answer


def get_task(name: str, bad_rows: str = "error") -> Task:
    """A task by its name: a built-in one, one from the Hub (``get_hub_task``), or a folder (``task_from_folder``).

    Args:
        name: the name or the folder.
        bad_rows: what to do with invalid rows of the user's files, one of ``BAD_ROWS``.

    Raises:
        ValueError: no such task (the message lists those that exist), or its data is not available or invalid.
    """
    check_choice(bad_rows)
    refuse_empty(task=name)
    if name in TASKS:
        return TASKS[name]
    if (hub_task := hub_tasks.get_hub_task(name, bad_rows)) is not None:
        return hub_task
    if Path(name).is_dir():
        folder = Path(name).resolve()
        if folder.name in TASKS or folder.name in hub_tasks.HUB_TASKS:
            raise ValueError(f"{folder} has the name of another task: rename the folder")
        return task_from_folder(folder, bad_rows)
    names = ", ".join((*TASKS, *hub_tasks.HUB_TASKS))
    raise ValueError(f"unknown task '{escape(name)}': choose from {names}, or give a folder with {TASK_FILE}")


def get_checked_task(name: str, num_samples: int | None, seed: int, bad_rows: str) -> Task:
    """``get_task``, after a check of everything that will be asked: what is wrong shows before long work, not in it.

    Args:
        name: as for ``get_task``.
        num_samples: number of samples that will be asked; None for the task's default.
        seed: selects them.
        bad_rows: as for ``get_task``, of rows whose images cannot be read too.

    Raises:
        ValueError: as ``get_task`` and ``check_images``.
    """
    task = get_task(name, bad_rows)
    count = task.num_samples(num_samples)
    return task if name in TASKS else check_images(task, count, seed, bad_rows)
