"""A record of the HTTP API about a variant that failed has no number that was not measured."""

from __future__ import annotations

import pytest

from vlmcomp.app import api, handlers
from vlmcomp.serving.examples import get_examples


def test_a_failed_variant_has_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMCOMP_BACKEND", "recorded")
    handlers.backend.cache_clear()
    try:
        example = get_examples()[0]
        recipes = ["llava-1.5-7b/fp16", "llava-1.5-7b/int8"]  # of which no answer is recorded
        *_, records = api.compare(str(example.image), "Is there a fish in it?", recipes)
    finally:
        handlers.backend.cache_clear()
    assert [record["recipe"] for record in records] == recipes
    for record in records:
        assert (
            record.pop("recipe")
            and record.pop("status") == "failed"
            and "no model runs on this machine" in record.pop("error")
        )
        assert set(record.values()) == {None}
