"""Rows of Hub tasks that cannot be used are told before any work, or skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import hub_copies
from vlmcomp.data.task_registry import get_task
from vlmcomp.evaluation import config

pytestmark = pytest.mark.usefixtures("texts_cache")


def test_a_question_without_its_image(tmp_path: Path) -> None:
    folder = hub_copies.write("gqa", tmp_path)
    shard = folder / "testdev_balanced_images" / "testdev-00001-of-00002.parquet"
    hub_copies.rewrite(shard, lambda row: row | {"id": "n9"})
    with pytest.raises(ValueError, match=r"row 0 does not read as .* \(there is no image n0\); 2 of 6 rows are bad"):
        get_task(f"gqa={folder}")


def test_an_image_that_is_none_is_told_by_file_and_row(tmp_path: Path) -> None:
    folder = hub_copies.write("textvqa", tmp_path)
    shard = folder / "data" / "validation-00001-of-00002.parquet"
    hub_copies.rewrite(shard, lambda row: row | {"image": {"bytes": b"no image", "path": None}})
    samples = get_task(f"textvqa={folder}").sample()
    assert samples[2].image
    with pytest.raises(ValueError, match=rf"{shard}, row 3: the image cannot be read"):
        _ = samples[3].image


def test_bad_rows_of_a_copy_are_told_before_any_work_or_skipped(tmp_path: Path) -> None:
    folder = hub_copies.write("textvqa", tmp_path)
    name, shard = f"textvqa={folder}", folder / "data" / "validation-00001-of-00002.parquet"
    hub_copies.rewrite(
        shard, lambda row: row | {"image": {"bytes": b"no image", "path": None}} if row["image_width"] < 45 else row
    )
    with pytest.raises(ValueError, match=rf"{shard}, row 3: the image cannot be read .*; 2 of 6 rows are bad"):
        config.BenchmarkConfig((name,)).validate()
    first = folder / "data" / "validation-00000-of-00002.parquet"
    hub_copies.rewrite(first, lambda row: row | {"answers": row["answers"][:1]})
    with pytest.raises(ValueError, match=r"row 0 does not read as .*; 3 of 6 rows are bad"):
        get_task(name)
    (task,) = config.BenchmarkConfig((name,), bad_rows="skip").load_tasks()
    assert [s.question for s in task.sample()] == ["What color is picture 5?"] and task.sample()[0].image
    assert len(task.skipped) == 5 and task.num_unreadable == 2 and len(task.all_samples) == 3
    assert [s.id for s in task.all_samples] == [task.all_samples[i].id for i in range(3)]
