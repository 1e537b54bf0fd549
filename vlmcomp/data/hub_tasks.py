"""Public VQA data sets as tasks, from the Hub or from a local copy with the same layout."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path

from vlmcomp import files, hub
from vlmcomp.data.hub_samples import HubTask, load_samples
from vlmcomp.data.parquet import list_shards
from vlmcomp.data.tasks import Task
from vlmcomp.data.unicode_text import escape
from vlmcomp.results.schema import EXACT_MATCH, VQA_ACCURACY

DEFAULT_NUM_SAMPLES = 1000


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


def get_hub_task(name: str, bad_rows: str = "error") -> Task | None:
    """The Hub task ``name``, or None if it is not one.

    ``name@REVISION`` selects another revision, ``name=DIR`` reads a local copy. The first use downloads the shards of
    the split to the Hub's cache. ``bad_rows``: what to do with rows whose columns are not as described.

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
        return _from_hub(hub_task, rest or hub_task.revision, bad_rows)
    if not Path(rest).is_dir():
        raise ValueError(f"there is no folder {escape(rest)} for the task {task_name}")
    folder = Path(rest).resolve()
    shards = [shard for pattern in hub_task.patterns for shard in list_shards(folder, pattern, hub_task.repo_id)]
    return _from_folder(hub_task, folder, tuple((shard, files.stamp(shard)) for shard in shards), bad_rows)


@cache
def _from_hub(hub_task: HubTask, revision: str, bad_rows: str) -> Task:
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
    return _make_task(hub_task, folder, f"{hub_task.repo_id}@{commit[:12]}", bad_rows)


@lru_cache(maxsize=8)
def _from_folder(
    hub_task: HubTask, folder: Path, shards: tuple[tuple[Path, files.Stamp | None], ...], bad_rows: str
) -> Task:
    """The task from a local copy; a digest of its shards, which are read again when a stamp changes, is the version."""
    return _make_task(hub_task, folder, files.short_digest(shard for shard, _ in shards), bad_rows)


def _make_task(hub_task: HubTask, folder: Path, version: str, bad_rows: str) -> Task:
    samples, skipped = load_samples(hub_task, folder, bad_rows)
    return Task(
        name=hub_task.name,
        title=hub_task.title,
        version=version,
        license=hub_task.license,
        load_samples=lambda: samples,
        default_num_samples=min(DEFAULT_NUM_SAMPLES, len(samples)),
        append_short_answer_prompt=True,
        metric=VQA_ACCURACY if hub_task.answers else EXACT_MATCH,
        skipped=skipped,
    )
