"""Answers on disk as they come: a run that was killed loses the batch in flight alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmcomp import files
from vlmcomp.results.store import Rows


class Journal:
    """The batches of rows that were answered so far in ``file``, if it was begun under the same ``facts``.

    The first line holds the facts, each other one a batch. A line that was torn by a kill is dropped.
    """

    def __init__(self, file: Path, facts: Mapping[str, Any]) -> None:
        self.file, head = file, json.dumps(facts, sort_keys=True)
        self.batches = self._read(head)
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(file, "".join(f"{line}\n" for line in (head, *map(json.dumps, self.batches))))

    def _read(self, head: str) -> list[Rows]:
        try:
            first, *lines = self.file.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError):
            return []
        if first != head:
            return []
        found = []
        for line in lines[:-1]:  # what follows the last line end is torn, or nothing
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def add(self, batch: Rows) -> None:
        """Keep one more batch; when this returns, it is on the disk."""
        self.batches.append(batch)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(batch)}\n")
            file.flush()
            os.fsync(file.fileno())

    def end(self) -> None:
        """The rows are kept elsewhere now."""
        self.file.unlink(missing_ok=True)
