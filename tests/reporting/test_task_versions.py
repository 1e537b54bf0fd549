"""Scores of two versions of a task are not compared: the same questions may be about other images."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.made_reports import scored, scored_rows
from vlmcomp.reporting.comparison import verdict
from vlmcomp.reporting.grouping import compare_to_baseline

BEFORE = scored("llava-shapes/fp16", 8.0, 8, shapes_vqa=80)
AFTER = scored("llava-shapes/int8", 9.0, 5, shapes_vqa=79)


@pytest.mark.parametrize("changes", [{"version": "other"}, {"task_sha256": "other"}])
def test_another_version_is_not_compared(changes: dict[str, str]) -> None:
    other = replace(AFTER, quality={name: replace(score, **changes) for name, score in AFTER.quality.items()})
    assert compare_to_baseline(scored_rows, AFTER, BEFORE) is not None
    assert compare_to_baseline(scored_rows, other, BEFORE) is None
    with pytest.raises(ValueError, match="not asked the same questions"):
        verdict(other, BEFORE, scored_rows(other), scored_rows(BEFORE))
