"""Predictions on disk as they are made: a killed run loses only the current batch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmcomp import files
from vlmcomp.results.store import Predictions


class PredictionLog:
    """An append-only file of prediction batches that an interrupted run resumes from.

    The first line is the metadata, each other line one batch. A line cut off by a kill is dropped.

    Attributes:
        batches: read from ``file`` if its metadata equal ``metadata``, and appended since.
    """

    def __init__(self, file: Path, metadata: Mapping[str, Any]) -> None:
        self.file = file
        header = json.dumps(metadata, sort_keys=True)
        self.batches = self._read(header)
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [header, *map(json.dumps, self.batches)]
        files.write_text(file, "".join(f"{line}\n" for line in lines))

    def _read(self, header: str) -> list[Predictions]:
        """The complete batches of the file; empty if its metadata differ."""
        try:
            first, *lines = self.file.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError):
            return []
        if first != header:
            return []
        batches = []
        for line in lines[:-1]:  # after the last newline: an incomplete line, or nothing
            try:
                batch = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(batch, list) or not all(isinstance(row, dict) for row in batch):
                break
            batches.append(batch)
        return batches

    def append(self, batch: Predictions) -> None:
        """Add one batch; it is on disk when this returns."""
        self.batches.append(batch)
        with files.naming_disk_errors(self.file), self.file.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(batch)}\n")
            file.flush()
            os.fsync(file.fileno())

    def delete(self) -> None:
        """Delete the file, once the predictions are stored with their report."""
        self.file.unlink(missing_ok=True)
