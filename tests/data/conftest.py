"""A cache of texts for tests of Parquet files."""

from __future__ import annotations

import pytest


@pytest.fixture
def texts_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts go to a folder of the test, in child processes too."""
    place = str(tmp_path_factory.mktemp("texts"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", place)
    monkeypatch.setenv("HF_DATASETS_CACHE", place)
